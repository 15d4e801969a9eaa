package backend

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"
)

// errDirectorySync marks a swap that happened but may not survive a crash.
var errDirectorySync = errors.New("backend: the directory could not be synced after a rename")

// swap renames a synced bbolt file over the backend's and continues on it. It
// runs on the committer goroutine and owns db, also if it fails. If drop is set,
// what is pending belongs to the old state and is dropped with that error.
func (b *Backend) swap(db *bolt.DB, from string, drop error) error {
	h, err := newHandle(db, b.reaper)
	if err != nil {
		return err
	}
	gen, err := b.prepare(h)
	if err == nil {
		if err = b.cfg.rename(from, b.cfg.Path); err != nil {
			gen.unref()
		}
	}
	if err != nil {
		h.unref()
		return err
	}
	syncErr := b.cfg.syncDir(filepath.Dir(b.cfg.Path))
	b.pipeline.mu.Lock()
	if drop != nil {
		b.journals.each(func(j *journal) { j.drop(drop) })
		b.pipeline.dropLocked(drop)
		b.pipeline.lastAppended.main, b.pipeline.lastAppended.sub = gen.lastRevision()
	}
	old := b.current
	b.current = h
	b.install(gen)
	if syncErr != nil {
		// Which file a crash would leave is not known, so no further commit may
		// be reported durable.
		syncErr = fmt.Errorf("%w: %w", errDirectorySync, syncErr)
		b.pipeline.failLocked(syncErr)
	}
	b.pipeline.mu.Unlock()
	old.unref()
	return syncErr
}

// Replace installs a file received from another member: what is pending is
// dropped (whoever waits for it gets ErrReplaced), newFile is renamed over Path
// and becomes the state. A running defragmentation is ended. Views taken before
// keep the old state. It is called on the apply goroutine, between entries. If
// it fails before the rename, nothing has changed and newFile is still there.
func (b *Backend) Replace(ctx context.Context, newFile string) error {
	ctx, done, err := b.jobs.start(ctx)
	if err != nil {
		return err
	}
	defer done()
	release, err := b.defrag.takeOver(ctx, ErrReplaced)
	if err != nil {
		return err
	}
	defer release()
	err = b.pipeline.exclusively(ctx, func() error {
		db, err := openBolt(newFile, &b.cfg)
		if err != nil {
			return err
		}
		if err := db.Sync(); err != nil {
			return errors.Join(err, db.Close())
		}
		return b.swap(db, newFile, ErrReplaced)
	})
	if err != nil {
		return fmt.Errorf("replace %s by %s: %w", b.cfg.Path, newFile, err)
	}
	index, term := b.Durable()
	b.cfg.Logger.Info("replaced the backend file", zap.String("path", b.cfg.Path),
		zap.Uint64("applied-index", index), zap.Uint64("applied-term", term))
	return nil
}

// defragSlot lets one defragmentation run at a time and others end it.
type defragSlot struct {
	mu struct {
		sync.Mutex
		cancel context.CancelCauseFunc // nil if none runs
		done   chan struct{}
	}
}

func (s *defragSlot) begin(ctx context.Context) (_ context.Context, release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.cancel != nil {
		return nil, nil, ErrBusy
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	s.mu.cancel, s.mu.done = cancel, done
	return ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		cancel(nil)
		s.mu.cancel = nil
		close(done)
	}, nil
}

// takeOver cancels the running defragmentation, if any, waits for it, and keeps
// new ones out until release.
func (s *defragSlot) takeOver(ctx context.Context, why error) (release func(), err error) {
	for {
		if _, release, err = s.begin(ctx); err == nil {
			return release, nil
		}
		s.mu.Lock()
		cancel, done := s.mu.cancel, s.mu.done
		s.mu.Unlock()
		if cancel == nil {
			continue
		}
		cancel(why)
		select {
		case <-done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
