package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/raftnode"
)

// imageStall is how long a database image that another member sends may stand still before it is given up. The sender
// gives up a broken stream after a minute.
const imageStall = 2 * time.Minute

// imageName is where a received image waits to be used. Like all names that begin with "tmp" it does not survive a start.
const imageName = "tmp-rebuild.db"

var errUnwantedImage = errors.New("nobody waits for this database image")

// image is a received database file.
type image struct {
	file        string
	index, term uint64
	confState   *raftpb.ConfState
	size        int64
}

// images are the database images that this member waits for, by name.
type images struct {
	mu struct {
		sync.Mutex
		expected map[string]*expectedImage
	}
}

type expectedImage struct {
	// file is where the image is to be put.
	file string
	// progress holds how many bytes are here, of how many; capacity 1, the newest counts.
	progress chan [2]uint64
	received chan image // capacity 1
}

// expect announces an image; forget must be called in the end.
func (i *images) expect(name, file string) (e *expectedImage, forget func()) {
	e = &expectedImage{file: file, progress: make(chan [2]uint64, 1), received: make(chan image, 1)}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.mu.expected == nil {
		i.mu.expected = map[string]*expectedImage{}
	}
	i.mu.expected[name] = e
	return e, func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.mu.expected, name)
	}
}

func (i *images) find(name string) *expectedImage {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.mu.expected[name]
}

// await returns the image once it is here.
func (e *expectedImage) await(ctx context.Context, stopping <-chan struct{}, report func(done, total int64)) (image, error) {
	stall := time.NewTimer(imageStall)
	defer stall.Stop()
	for {
		select {
		case got := <-e.received:
			return got, nil
		case p := <-e.progress:
			report(int64(p[0]), int64(p[1]))
			stall.Reset(imageStall)
		case <-stall.C:
			return image{}, fmt.Errorf("no more of the database image came for %s", imageStall)
		case <-stopping:
			return image{}, raftnode.ErrStopped
		case <-ctx.Done():
			return image{}, context.Cause(ctx)
		}
	}
}

// RequestImage sends this member's state to another one, which waits for it by name. It holds at least what was committed
// when the call came in.
func (p peerService) RequestImage(ctx context.Context, to uint64, name string) (*peerpb.ImageResponse, error) {
	if err := p.node.LinearizableRead(ctx); err != nil {
		return nil, err
	}
	snap, err := p.machine.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.stopping:
		return nil, errors.Join(errors.New("this member stops"), snap.Close())
	default:
	}
	p.background.Go(func() {
		if err := p.transport.SendImage(context.Background(), to, name, snap); err != nil {
			p.logger.Warn("a member did not take the database image it asked for", zap.String("remote-peer-id", hexID(to)), zap.Error(err))
		}
	})
	return &peerpb.ImageResponse{Index: snap.Index, SizeBytes: uint64(snap.Size)}, nil
}

func (p peerService) ImageArrives(name string, received, size uint64) error {
	if _, staged := stagedSum(name); staged {
		return nil
	}
	e := p.images.find(name)
	if e == nil {
		return errUnwantedImage
	}
	select {
	case <-e.progress:
	default:
	}
	select {
	case e.progress <- [2]uint64{received, size}:
	default:
	}
	return nil
}

func (p peerService) ImageReceived(name string, index, term uint64, confState *raftpb.ConfState, file string) error {
	if sum, staged := stagedSum(name); staged {
		return p.stage(file, sum)
	}
	e := p.images.find(name)
	if e == nil {
		return errUnwantedImage
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if err := errors.Join(os.Rename(file, e.file), p.disk.fs().SyncDir(filepath.Dir(e.file))); err != nil {
		return err
	}
	select {
	case e.received <- image{file: e.file, index: index, term: term, confState: confState, size: info.Size()}:
		return nil
	default:
		return errUnwantedImage // a second one of the same name
	}
}

// fetchImage has another member send its state here.
func (s *Server) fetchImage(ctx context.Context, from uint64, report func(done, total int64)) (image, error) {
	name := "rebuild-" + rand.Text()
	e, forget := s.images.expect(name, filepath.Join(s.dir.snap, imageName))
	defer forget()
	conn, err := s.transport.Conn(from)
	if err != nil {
		return image{}, err
	}
	asked, cancel := context.WithTimeout(ctx, s.cfg.requestTimeout())
	_, err = peerpb.NewPeerClient(conn).RequestImage(asked, &peerpb.ImageRequest{Hello: s.transport.Hello(from), Image: name})
	cancel()
	if err != nil {
		return image{}, fmt.Errorf("asking member %s for its database: %w", hexID(from), err)
	}
	return e.await(ctx, s.stopping, report)
}
