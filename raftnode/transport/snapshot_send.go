package transport

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/raftnode"
)

const (
	chunkBytes = 256 << 10
	// resumeWindow is how long a transfer may go without coming further before it is given up.
	resumeWindow = time.Minute
	// stallTimeout ends an attempt whose receiver takes no chunk for so long; installTimeout bounds the time from
	// the last chunk to the receiver's word that the database is installed.
	stallTimeout   = 30 * time.Second
	installTimeout = 10 * time.Minute
	// fullDiskPause is how long a receiver that has no room is left alone.
	fullDiskPause = 3 * time.Second
)

// SendSnapshot implements raftnode.Transport.
func (t *Transport) SendSnapshot(m *raftpb.Message, s raftnode.Snapshot) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.mu.closed {
		s.Close()
		return
	}
	p := t.mu.peers[m.GetTo()]
	t.tasks.Go(func() {
		err := fmt.Errorf("%w: %x", ErrUnknownPeer, m.GetTo())
		if p != nil {
			err = p.sendSnapshot(m, s)
		}
		s.Close()
		if status.Code(err) == codes.ResourceExhausted {
			// Raft would ask again at the next heartbeat.
			select {
			case <-time.After(fullDiskPause):
			case <-p.ctx.Done():
			}
		}
		if target := t.target.Load(); target != nil {
			target.handler.ReportSnapshot(m.GetTo(), err == nil)
		}
	})
}

// SendImage streams s to a member that waits for it under a name, and returns when that member has taken it or will not.
// It owns s and closes it. It ends early when ctx ends or the transport is closed.
func (t *Transport) SendImage(ctx context.Context, to uint64, image string, s raftnode.Snapshot) error {
	defer s.Close()
	p := t.peer(to)
	if p == nil {
		return fmt.Errorf("%w: %x", ErrUnknownPeer, to)
	}
	m := &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), To: new(to), From: new(t.config.ID),
		Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: new(s.Index), Term: new(s.Term), ConfState: s.ConfState,
		}},
	}
	start := time.Now()
	fields := []zap.Field{zap.String("image", image), zap.Uint64("snapshot-index", s.Index), zap.Int64("size-bytes", s.Size)}
	p.log.Info("sending a database image", fields...)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	if err := p.trySnapshot(ctx, m, image, s); err != nil {
		p.log.Warn("failed to send a database image", append(fields, zap.Error(err))...)
		return err
	}
	p.log.Info("sent a database image", append(fields, zap.Duration("took", time.Since(start)))...)
	return nil
}

// Hello is how this member introduces itself to another one.
func (t *Transport) Hello(to uint64) *peerpb.Hello { return t.hello(to) }

func (p *peer) sendSnapshot(m *raftpb.Message, s raftnode.Snapshot) error {
	observer := &p.transport.config.Observer
	observer.SnapshotSending(p.id)
	start := time.Now()
	fields := []zap.Field{zap.Uint64("snapshot-index", s.Index), zap.Int64("size-bytes", s.Size)}
	p.log.Info("sending database snapshot", fields...)
	err := p.trySnapshot(p.ctx, m, "", s)
	observer.SnapshotSent(p.id, err == nil, time.Since(start))
	if err != nil {
		p.log.Warn("failed to send database snapshot", append(fields, zap.Error(err))...)
		return err
	}
	p.log.Info("sent database snapshot", append(fields, zap.Duration("took", time.Since(start)))...)
	return nil
}

// trySnapshot sends s, resuming where the receiver is whenever the stream breaks. It uses a connection of its own, so
// that chunks in the socket's buffer are not in front of heartbeats.
func (p *peer) trySnapshot(ctx context.Context, m *raftpb.Message, image string, s raftnode.Snapshot) error {
	encoded, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	header := &peerpb.SnapshotHeader{
		Hello: p.transport.hello(p.id), Message: encoded, SizeBytes: uint64(s.Size),
		Id:    fmt.Sprintf("%x-%x-%s", p.transport.config.ID, s.Index, rand.Text()),
		Image: image,
	}
	conn, err := p.transport.dial(p.addresses)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := peerpb.NewPeerClient(conn)
	var furthest uint64
	progress, pause := time.Now(), reconnectMin
	for {
		offset, err := p.snapshotAttempt(ctx, client, header, s)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if offset > furthest {
			furthest, progress, pause = offset, time.Now(), reconnectMin
		}
		if time.Since(progress) > resumeWindow || !resumable(err) {
			return err
		}
		p.log.Info("will resume database snapshot", zap.Uint64("began-at-byte", offset), zap.Error(err))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, 2*reconnectMax)
	}
}

// resumable tells a broken stream from a receiver that will not have the transfer.
func resumable(err error) bool {
	if errors.Is(err, errImage) {
		return false
	}
	switch status.Code(err) {
	case codes.Aborted, codes.FailedPrecondition, codes.InvalidArgument, codes.ResourceExhausted:
		return false
	}
	return true
}

// snapshotAttempt asks for the offset and sends what lies behind it. It returns the offset it began from.
func (p *peer) snapshotAttempt(
	until context.Context, client peerpb.PeerClient, header *peerpb.SnapshotHeader, s raftnode.Snapshot,
) (uint64, error) {
	ctx, cancel := context.WithCancel(until)
	defer cancel()
	watchdog := time.AfterFunc(stallTimeout, cancel)
	defer watchdog.Stop()
	position, err := client.SnapshotOffset(ctx, header)
	if err != nil {
		return 0, stalled(until, ctx, err)
	}
	offset := position.Offset
	stream, err := client.Snapshot(ctx)
	if err != nil {
		return offset, stalled(until, ctx, err)
	}
	w := &chunkWriter{peer: p, stream: stream, header: header, size: header.SizeBytes, skip: offset, hash: sha256.New(),
		watchdog: watchdog, buffer: make([]byte, 0, chunkBytes), start: time.Now(), ctx: ctx}
	if _, err := s.WriteTo(w); err != nil {
		return offset, stalled(until, ctx, w.explain(err))
	}
	if err := w.finish(); err != nil {
		return offset, stalled(until, ctx, w.explain(err))
	}
	watchdog.Reset(installTimeout)
	if _, err := stream.CloseAndRecv(); err != nil {
		return offset, stalled(until, ctx, err)
	}
	return offset, nil
}

// stalled says what really happened when the watchdog ended an attempt.
func stalled(until, attempt context.Context, err error) error {
	if attempt.Err() != nil && until.Err() == nil {
		return errStalled
	}
	return err
}

var (
	errStalled = errors.New("transport: receiver stopped taking the database")
	errImage   = errors.New("transport: database image has not the announced size")
)

// chunkWriter cuts an image into chunks and paces them. It hashes all of the image and sends what lies behind skip.
type chunkWriter struct {
	peer     *peer
	ctx      context.Context
	stream   grpc.ClientStreamingClient[peerpb.SnapshotChunk, peerpb.SnapshotPosition]
	header   *peerpb.SnapshotHeader // nil once sent
	hash     hash.Hash
	watchdog *time.Timer
	size     uint64
	skip     uint64
	position uint64 // bytes of the image seen
	buffer   []byte
	sent     int64
	start    time.Time
}

func (w *chunkWriter) Write(p []byte) (int, error) {
	w.hash.Write(p)
	total := len(p)
	if w.position < w.skip {
		skipped := min(uint64(len(p)), w.skip-w.position)
		w.position += skipped
		p = p[skipped:]
	}
	for len(p) > 0 {
		n := min(len(p), chunkBytes-len(w.buffer))
		w.buffer = append(w.buffer, p[:n]...)
		w.position += uint64(n)
		p = p[n:]
		if len(w.buffer) == chunkBytes {
			if err := w.flush(nil); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

// flush sends what is buffered. Sending encodes it, so the buffer is free again afterwards.
func (w *chunkWriter) flush(sum []byte) error {
	chunk := &peerpb.SnapshotChunk{
		Header: w.header, Offset: w.position - uint64(len(w.buffer)), Data: w.buffer, Sha256: sum,
	}
	if err := w.pace(); err != nil {
		return err
	}
	if err := w.stream.Send(chunk); err != nil {
		return err
	}
	w.header = nil
	w.sent += int64(len(w.buffer))
	w.peer.transport.config.Observer.Sent(w.peer.id, len(w.buffer))
	w.buffer = w.buffer[:0]
	w.watchdog.Reset(stallTimeout)
	return nil
}

// pace waits until what was sent so far is due.
func (w *chunkWriter) pace() error {
	rate := w.peer.transport.config.SnapshotBytesPerSecond
	if rate < 0 {
		return nil
	}
	due := time.Duration(float64(w.sent) / float64(rate) * float64(time.Second))
	wait := due - time.Since(w.start)
	if wait <= 0 {
		return nil
	}
	select {
	case <-time.After(wait):
		return nil
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
}

// finish sends the last chunk with the checksum.
func (w *chunkWriter) finish() error {
	if w.position != w.size {
		return fmt.Errorf("%w: %d bytes instead of %d", errImage, w.position, w.size)
	}
	return w.flush(w.hash.Sum(nil))
}

// explain replaces io.EOF, which only says that the stream is over, by the receiver's reason.
func (w *chunkWriter) explain(err error) error {
	if errors.Is(err, io.EOF) {
		if _, reason := w.stream.CloseAndRecv(); reason != nil {
			return reason
		}
	}
	return err
}
