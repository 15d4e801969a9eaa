package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend/pace"
)

// Snapshot is an image of the file at one moment: a consistent bbolt database.
//
// It is read from the file itself at first, which costs nothing but that pages
// it needs are not reused. A reader that is not through after pinLimit must not
// make the file grow for ever: the image is then copied beside the file, into a
// file without a name, and the pages are let go. A compact snapshot is such a
// copy from the start, made of short views, without the holes of the original.
type Snapshot struct {
	b           *Backend
	size        int64
	index, term uint64
	head        []byte // meta pages, which in the file belong to a newer state
	compact     bool

	// source changes from the file to the copy. A read holds it shared.
	source struct {
		sync.RWMutex
		from    io.ReaderAt
		release func()
		gen     *generation // of the file, or of the copy
	}
	once   sync.Once
	cancel context.CancelCauseFunc // ends the copying
	joined chan struct{}
}

// pinLimit is how long a snapshot holds pages of the file.
const pinLimit = 5 * time.Second

// streamSizes are the bytes that are read at a time.
var streamSizes = pace.Sizes{First: 256 << 10, Least: 64 << 10, Most: 4 << 20}

// streamNanos is what a byte that is sent is taken to cost: whoever receives it
// writes it to a disk, often this one, and later than now. What it really took says
// more about the receiver than about this machine.
const streamNanos = 10

// Snapshot flushes and pins the state. It must be closed; Close of the backend
// waits for it.
func (b *Backend) Snapshot(ctx context.Context) (*Snapshot, error) {
	if err := b.Flush(ctx); err != nil {
		return nil, err
	}
	g, err := b.pin()
	if err != nil {
		return nil, err
	}
	s, err := newSnapshot(b, g, g.handle.file)
	if err != nil {
		g.unref()
		return nil, err
	}
	s.source.release = g.unref
	copying, cancel := context.WithCancelCause(context.Background())
	s.cancel = cancel
	go s.copyLater(copying)
	return s, nil
}

func newSnapshot(b *Backend, g *generation, from io.ReaderAt) (*Snapshot, error) {
	s := &Snapshot{
		b: b, size: g.tx.Size(), index: g.index, term: g.term,
		cancel: func(error) {}, joined: make(chan struct{}),
	}
	var err error
	if s.head, err = headOf(g.tx); err != nil {
		return nil, err
	}
	s.source.from, s.source.gen = from, g
	b.views.Add(1)
	return s, nil
}

// headOf is the meta pages of a transaction.
func headOf(tx *bolt.Tx) ([]byte, error) {
	w := headWriter{want: metaPages * tx.DB().Info().PageSize}
	if _, err := tx.WriteTo(&w); err != nil && !errors.Is(err, errHead) {
		return nil, err
	}
	return w.head, nil
}

var errHead = errors.New("the head is complete")

type headWriter struct {
	head []byte
	want int
}

func (w *headWriter) Write(p []byte) (int, error) {
	if len(w.head) >= w.want {
		return 0, errHead
	}
	w.head = append(w.head, p...)
	return len(p), nil
}

// CompactSnapshot copies the state into a file of its own, without holes, while
// requests go on, and returns the image of that. The free disk space is checked
// first (ErrNoDiskSpace). progress may be nil.
func (b *Backend) CompactSnapshot(ctx context.Context, progress func(phase string, done, total int64)) (*Snapshot, error) {
	ctx, done, err := b.jobs.start(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := b.newCopier(ctx, progress)
	if err != nil {
		return nil, err
	}
	s, err := c.snapshot()
	c.stop()
	if err != nil {
		c.discard()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("snapshot of %s: %w", b.cfg.Path, err)
	}
	return s, nil
}

// snapshot makes the copy, and the image of it.
func (c *copier) snapshot() (*Snapshot, error) {
	c.b.cfg.step("snapshot copy", c.path)
	if err := c.b.Flush(c.ctx); err != nil {
		return nil, err
	}
	if err := c.copyAndCatchUp("copy", "catch up"); err != nil {
		return nil, err
	}
	touched, source, err := c.cut(false)
	if err != nil {
		return nil, err
	}
	err = c.level(source, touched)
	source.unref()
	if err != nil {
		return nil, err
	}
	c.b.cfg.step("snapshot done", c.path)
	if err := os.Remove(c.path); err != nil {
		return nil, err
	}
	c.path = ""
	g, err := generationOf(c.target)
	if err != nil {
		return nil, err
	}
	s, err := newSnapshot(c.b, g, c.file)
	if err != nil {
		_ = g.tx.Rollback() // the database is closed next
		return nil, err
	}
	s.compact = true
	s.source.release = func() {
		_ = g.tx.Rollback() // nothing is lost with a file that has no name
		c.discard()
	}
	close(s.joined)
	return s, nil
}

// Size is the number of bytes that WriteTo writes.
func (s *Snapshot) Size() int64 { return s.size }

// Applied is the applied position that the image holds.
func (s *Snapshot) Applied() (index, term uint64) { return s.index, s.term }

// WriteTo is Stream without an end before the last byte.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) { return s.Stream(context.Background(), w) }

// Stream writes the image, at the pace that requests allow. It reads through the
// file, not the map, so that the kernel reads ahead. It may be called again.
func (s *Snapshot) Stream(ctx context.Context, w io.Writer) (written int64, err error) {
	job := s.b.cfg.Pace.Start(streamSizes)
	defer job.Close()
	buffer := make([]byte, streamSizes.Most)
	for written < s.size {
		piece := buffer[:min(int64(job.Size()), s.size-written)]
		if err := s.readAt(piece, written); err != nil {
			return written, err
		}
		n, err := w.Write(piece)
		written += int64(n)
		if err != nil {
			return written, err
		}
		if err := job.RestAfter(ctx, time.Duration(len(piece)*streamNanos)); err != nil {
			return written, err
		}
	}
	return written, nil
}

func (s *Snapshot) readAt(p []byte, offset int64) error {
	n := 0
	if offset < int64(len(s.head)) {
		n = copy(p, s.head[offset:])
	}
	s.source.RLock()
	defer s.source.RUnlock()
	_, err := s.source.from.ReadAt(p[n:], offset+int64(n))
	return err
}

// Scan reads a bucket of the image; see View.Scan. Only for as long as the
// snapshot is young: right after it was taken.
func (s *Snapshot) Scan(bucket Bucket, start, end []byte, fn func(k, v []byte) error) error {
	s.source.RLock()
	defer s.source.RUnlock()
	if s.source.gen == nil {
		return fmt.Errorf("backend: a snapshot older than %v can only be written", pinLimit)
	}
	return s.source.gen.scan(bucket, start, end, fn)
}

// Close releases the image. Closing twice is harmless.
func (s *Snapshot) Close() error {
	s.once.Do(func() {
		s.cancel(ErrClosed)
		<-s.joined
		s.b.views.Add(-1)
		s.source.Lock()
		defer s.source.Unlock()
		s.source.gen = nil
		s.source.release()
	})
	return nil
}

// copyLater waits until the snapshot has been open for too long, and then moves
// it from the file into a copy. If it cannot, the pages stay pinned.
func (s *Snapshot) copyLater(ctx context.Context) {
	defer close(s.joined)
	timer := time.NewTimer(pinLimit)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	file, err := s.copyImage(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		s.b.cfg.Logger.Warn("cannot copy the image of a snapshot that is slow to be read: until it is closed, "+
			"the database cannot reuse space and may grow", zap.String("path", s.b.cfg.Path),
			zap.Int64("size-bytes", s.size), zap.Error(err))
		return
	}
	s.source.Lock()
	defer s.source.Unlock()
	s.source.release()
	s.source.from, s.source.gen = file, nil
	s.source.release = func() {
		if err := file.Close(); err != nil {
			s.b.cfg.Logger.Warn("could not close the copy of a snapshot", zap.Error(err))
		}
	}
}

// copyImage copies the pages into a file without a name.
func (s *Snapshot) copyImage(ctx context.Context) (_ *os.File, err error) {
	if err := s.b.checkRoom(s.size); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(dirAndName(s.b.cfg.Path))
	if err != nil {
		return nil, err
	}
	s.b.cfg.step("snapshot image", file.Name())
	err = os.Remove(file.Name())
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	job := s.b.cfg.Pace.Start(streamSizes)
	defer job.Close()
	buffer := make([]byte, streamSizes.Most)
	for at := int64(0); err == nil && at < s.size; {
		piece := buffer[:min(int64(job.Size()), s.size-at)]
		if err = s.readAt(piece, at); err != nil {
			break
		}
		if _, err = file.WriteAt(piece, at); err != nil {
			break
		}
		at += int64(len(piece))
		if err = writeBack(file); err == nil {
			err = job.Rest(ctx)
		}
	}
	return file, err
}
