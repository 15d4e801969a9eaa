package transport

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/raftnode"
)

const (
	partSuffix = ".snap.db.part"
	// syncEveryBytes is how much is written between syncs, so that the last one, and the log's in between, stay short.
	syncEveryBytes = 16 << 20
)

var (
	errSuperseded = status.Error(codes.Aborted, "transport: another state transfer took over")
	errOffset     = status.Error(codes.OutOfRange, "transport: chunk does not continue what was received")
	errChecksum   = status.Error(codes.DataLoss, "transport: received database does not match its checksum")
)

// receiver keeps the one state transfer that may be under way. A transfer outlives the streams that carry it: each
// stream that begins takes a new epoch, and from then on chunks of older streams are refused.
type receiver struct {
	fs        vfs.FS
	dir       string
	freeBytes func(dir string) (int64, error) // may be nil
	synced    func(time.Duration)             // told how long the last sync of a file took; may be nil

	mu struct {
		sync.Mutex
		epoch uint64
		// transfer is what is being received; nil if nothing is.
		transfer *transfer
		// installing is the last transfer that was received whole. A sender whose stream broke at the very end
		// learns from it how that ended.
		installing *installation
	}
}

// installation is a transfer on its way from file to state machine. err is set before done is closed.
type installation struct {
	id   string
	size uint64
	file string
	done chan struct{}
	err  error
}

type transfer struct {
	id           string
	path         string // of the part
	final        string
	size, offset uint64
	unsynced     uint64
	hash         hash.Hash
	file         vfs.File
}

// imageFile is the name of a received image inside the snapshot directory, until its taker moves it. Like all names that
// begin with "tmp" it does not survive a start.
const imageFile = "tmp-image"

// SnapshotFile is the name of a received database inside the snapshot directory.
func SnapshotFile(index uint64) string { return fmt.Sprintf("%016x.snap.db", index) }

func newReceiver(disk vfs.FS, dir string) (*receiver, error) {
	entries, err := disk.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("transport: snapshot directory: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), partSuffix) {
			if err := disk.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return &receiver{fs: disk, dir: dir}, nil
}

// offset answers how much of a transfer is here. Asking also stops older streams of the transfer.
func (r *receiver) offset(id string) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := r.mu.installing; i != nil && i.id == id {
		return i.size
	}
	if t := r.mu.transfer; t != nil && t.id == id {
		r.mu.epoch++
		return t.offset
	}
	return 0
}

// begin starts or resumes a transfer at offset and returns the epoch of the stream that carries it; or the
// installation, if there is nothing left to receive.
func (r *receiver) begin(header *peerpb.SnapshotHeader, index, offset uint64) (epoch uint64, i *installation, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := r.mu.installing; i != nil && i.id == header.Id {
		return 0, i, nil
	}
	if t := r.mu.transfer; t != nil && t.id == header.Id {
		if t.offset != offset {
			return 0, nil, errOffset
		}
	} else if offset != 0 {
		return 0, nil, errOffset
	} else {
		r.discardLocked()
		if err := r.checkRoom(header.SizeBytes); err != nil {
			return 0, nil, localError(err)
		}
		path, final := filepath.Join(r.dir, fmt.Sprintf("%016x", index)+partSuffix), filepath.Join(r.dir, SnapshotFile(index))
		if header.Image != "" {
			final = filepath.Join(r.dir, imageFile)
		}
		file, err := r.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return 0, nil, localError(err)
		}
		r.mu.transfer = &transfer{
			id: header.Id, path: path, final: final,
			size: header.SizeBytes, hash: sha256.New(), file: file,
		}
	}
	r.mu.epoch++
	return r.mu.epoch, nil, nil
}

// checkRoom spares the disk of this member, and the network, a transfer that cannot end well.
func (r *receiver) checkRoom(size uint64) error {
	if r.freeBytes == nil {
		return nil
	}
	free, err := r.freeBytes(r.dir)
	if err == nil && free >= 0 && uint64(free) < size {
		err = fmt.Errorf("the database has %d bytes, and %s has room for %d: %w", size, r.dir, free, syscall.ENOSPC)
	}
	return err
}

// discardLocked forgets the transfer under way and its file.
func (r *receiver) discardLocked() {
	t := r.mu.transfer
	if t == nil {
		return
	}
	r.mu.transfer = nil
	r.mu.epoch++
	t.file.Close()
	r.fs.Remove(t.path)
}

// write appends a chunk.
func (r *receiver) write(epoch uint64, chunk *peerpb.SnapshotChunk) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if epoch != r.mu.epoch {
		return errSuperseded
	}
	t := r.mu.transfer
	if chunk.Offset != t.offset || uint64(len(chunk.Data)) > t.size-t.offset {
		return errOffset
	}
	if _, err := t.file.Write(chunk.Data); err != nil {
		r.discardLocked()
		return localError(err)
	}
	t.hash.Write(chunk.Data)
	t.offset += uint64(len(chunk.Data))
	if t.unsynced += uint64(len(chunk.Data)); t.unsynced >= syncEveryBytes {
		t.unsynced = 0
		if err := t.file.Datasync(); err != nil {
			r.discardLocked()
			return localError(err)
		}
	}
	return nil
}

// finish verifies the whole and makes it durable under its final name.
func (r *receiver) finish(epoch uint64, sum []byte) (*installation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if epoch != r.mu.epoch {
		return nil, errSuperseded
	}
	t := r.mu.transfer
	if t.offset != t.size || !bytes.Equal(t.hash.Sum(nil), sum) {
		r.discardLocked()
		return nil, errChecksum
	}
	began := time.Now()
	if err := t.file.Sync(); err != nil {
		r.discardLocked()
		return nil, localError(err)
	}
	if r.synced != nil {
		r.synced(time.Since(began))
	}
	r.mu.transfer = nil
	r.mu.epoch++
	err := errors.Join(t.file.Close(), r.fs.Rename(t.path, t.final))
	if err == nil {
		err = r.fs.SyncDir(r.dir)
	}
	if err != nil {
		r.fs.Remove(t.path)
		return nil, localError(err)
	}
	r.mu.installing = &installation{id: t.id, size: t.size, file: t.final, done: make(chan struct{})}
	return r.mu.installing, nil
}

// end tells everybody that waits for an installation how it ended.
func (r *receiver) end(i *installation, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i.err = err
	close(i.done)
	if err != nil && r.mu.installing == i {
		r.mu.installing = nil
	}
}

// localError is a failure of this member's disk; sending the same again would not help.
func localError(err error) error { return status.Error(codes.ResourceExhausted, err.Error()) }

func (r *receiver) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.discardLocked()
}

// SnapshotOffset tells a sender where to go on. Without an id it is a probe.
func (s *service) SnapshotOffset(_ context.Context, header *peerpb.SnapshotHeader) (*peerpb.SnapshotPosition, error) {
	if err := s.checkHello(header.Hello); err != nil {
		return nil, err
	}
	return &peerpb.SnapshotPosition{Offset: s.transport.receiver.offset(header.Id)}, nil
}

// Snapshot receives one stream of a transfer and, at its end, installs it.
func (s *service) Snapshot(stream grpc.ClientStreamingServer[peerpb.SnapshotChunk, peerpb.SnapshotPosition]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	header := first.Header
	if err := s.checkHello(header.GetHello()); err != nil {
		return err
	}
	m := new(raftpb.Message)
	if err := proto.Unmarshal(header.Message, m); err != nil || m.GetType() != raftpb.MsgSnap || header.Id == "" {
		return status.Error(codes.InvalidArgument, "transport: state transfer without its raft message or id")
	}
	target := s.transport.target.Load()
	if target == nil || s.transport.ctx.Err() != nil {
		return errNotReady
	}
	observer, from := &s.transport.config.Observer, header.Hello.From
	observer.SnapshotReceiving(from)
	start := time.Now()
	err = s.receive(stream, target.handler, m, first)
	observer.SnapshotReceived(from, err == nil, time.Since(start))
	fields := []zap.Field{hexField("remote-peer-id", from), zap.Uint64("snapshot-index", m.GetSnapshot().GetMetadata().GetIndex()),
		zap.Uint64("size-bytes", header.SizeBytes), zap.Duration("took", time.Since(start))}
	if err != nil {
		s.transport.log.Warn("failed to receive database snapshot", append(fields, zap.Error(err))...)
		return err
	}
	if header.Image == "" {
		s.transport.log.Info("received and installed database snapshot", fields...)
	} else {
		s.transport.log.Info("received a database image", append(fields, zap.String("image", header.Image))...)
	}
	return stream.SendAndClose(&peerpb.SnapshotPosition{Offset: header.SizeBytes})
}

func (s *service) receive(stream grpc.ClientStreamingServer[peerpb.SnapshotChunk, peerpb.SnapshotPosition],
	handler raftnode.Handler, m *raftpb.Message, first *peerpb.SnapshotChunk) error {
	r := s.transport.receiver
	header := first.Header
	arrives := func(received uint64) error { return nil }
	if header.Image != "" {
		arrives = func(received uint64) error {
			f, err := s.forwarder()
			if err != nil {
				return err
			}
			return f.ImageArrives(header.Image, received, header.SizeBytes)
		}
	}
	if err := arrives(first.Offset); err != nil {
		return err
	}
	epoch, installing, err := r.begin(header, m.GetSnapshot().GetMetadata().GetIndex(), first.Offset)
	if err != nil {
		return err
	}
	if installing != nil {
		select {
		case <-installing.done:
			return installing.err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
	chunk := first
	for {
		if err := r.write(epoch, chunk); err != nil {
			return err
		}
		s.transport.config.Observer.Received(header.Hello.From, len(chunk.Data))
		if err := arrives(chunk.Offset + uint64(len(chunk.Data))); err != nil {
			return err
		}
		if len(chunk.Sha256) > 0 {
			break
		}
		if chunk, err = stream.Recv(); err == io.EOF {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
	}
	if installing, err = r.finish(epoch, chunk.Sha256); err != nil {
		return err
	}
	err = s.install(handler, m, header.Image, installing.file)
	r.end(installing, err)
	return err
}

// install hands a verified file to the node, or to whoever has asked for an image, and removes it if it is not taken.
func (s *service) install(handler raftnode.Handler, m *raftpb.Message, image, file string) error {
	var err error
	if image == "" {
		err = handler.InstallSnapshot(m, file)
	} else if f, unready := s.forwarder(); unready != nil {
		err = unready
	} else {
		md := m.GetSnapshot().GetMetadata()
		err = f.ImageReceived(image, md.GetIndex(), md.GetTerm(), md.GetConfState(), file)
	}
	if err == nil {
		return nil
	}
	removed := s.transport.config.FS.Remove(file)
	if errors.Is(removed, fs.ErrNotExist) {
		removed = nil // another transfer of the same index has put its file in the way
	}
	if errors.Is(err, raftnode.ErrSnapshotIgnored) {
		err = nil // the log is already further than the snapshot: nothing to install, nothing failed
	}
	if err = errors.Join(err, removed); err != nil {
		return status.Error(codes.Aborted, err.Error())
	}
	return nil
}
