package mvcc

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/backend/pace"
	"github.com/upkeep-kv/upkeep/mvcc/index"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
)

// A compaction at revision R goes through these steps; a crash anywhere leaves
// a store that Open continues from the third one.
//
//	apply goroutine  1  the floor rises to R: nothing below can be read
//	                 2  scheduledCompactRev = R goes into the open batch
//	background       3  wait until that is durable, and with it all changes up to R
//	                 4  wait until no reader is pinned below R
//	                 5  compact the index, which yields the revisions to keep
//	                 6  walk the file up to R piece by piece and delete the others
//	                 7  with the last piece, finishedCompactRev = R
//
// Deleting again from the start finds less and does no harm.

// CompactionInfo describes a compaction that has finished.
type CompactionInfo struct {
	Revision     int64
	Scanned      int           // revisions looked at
	Deleted      int           // revisions deleted
	Keys         int           // keys left in the index
	Duration     time.Duration // from the start of the background work
	LongestPiece time.Duration // longest step, without the pause after it
	IndexHold    time.Duration // longest time that the index was locked in one go
}

// CompactionProgress is how far the compaction under way has come. It is zero but
// for the revision when the compaction is interrupted.
type CompactionProgress struct {
	Revision    int64
	Done, Total int64 // main revisions, from the first one there is
	Deleted     int   // entries, so far
	Took        time.Duration
	// PieceDeleted and PieceTook are of the latest piece.
	PieceDeleted int
	PieceTook    time.Duration
}

// pieceSizes bounds the entries that one piece of a compaction looks at. The
// bytes are bounded too: entries may be large, and all are read for the hash.
var pieceSizes = pace.Sizes{First: 2000, Least: 200, Most: 50_000}

const pieceBytes = 16 << 20

// scheduleRetry is how long to wait before looking again whether a compaction's
// mark is durable, and before trying a failed compaction again.
const scheduleRetry = 10 * time.Millisecond

// compaction is one job for the background.
type compaction struct {
	rev      int64
	previous int64 // the floor before, -1 for none
	resumed  bool  // an earlier try may have deleted something: no hash can be had
	done     chan struct{}
}

// compactor runs compactions one after the other on its own goroutine, from
// start to stop.
type compactor struct {
	store  *Store
	wake   chan struct{} // capacity 1: there is something in queue
	cancel context.CancelFunc
	joined chan struct{}

	mu    sync.Mutex
	queue []*compaction // the first is under way
}

func (c *compactor) init(s *Store) {
	c.store = s
	c.wake = make(chan struct{}, 1)
}

func (c *compactor) start() {
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.joined = cancel, make(chan struct{})
	go func() {
		defer close(c.joined)
		c.run(ctx)
	}()
}

// stop ends the goroutine; the queue stays.
func (c *compactor) stop() {
	c.cancel()
	<-c.joined
}

// drop empties the queue. Only after stop.
func (c *compactor) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, job := range c.queue {
		close(job.done)
	}
	c.queue = nil
}

func (c *compactor) add(job *compaction) {
	job.done = make(chan struct{})
	c.mu.Lock()
	c.queue = append(c.queue, job)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *compactor) pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue)
}

// idle returns a channel that closes when all that is queued now is done.
func (c *compactor) idle() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.queue); n > 0 {
		return c.queue[n-1].done
	}
	done := make(chan struct{})
	close(done)
	return done
}

func (c *compactor) run(ctx context.Context) {
	for {
		c.mu.Lock()
		var job *compaction
		if len(c.queue) > 0 {
			job = c.queue[0]
		}
		c.mu.Unlock()
		if job == nil {
			select {
			case <-c.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		if err := c.store.compact(ctx, job); err != nil {
			if ctx.Err() != nil {
				return
			}
			c.store.logger.Error("compaction failed, will try again", zap.Int64("revision", job.rev), zap.Error(err))
			job.resumed = true
			if pace.Sleep(ctx, 100*scheduleRetry) != nil {
				return
			}
			continue
		}
		c.mu.Lock()
		c.queue = c.queue[1:]
		c.mu.Unlock()
		close(job.done)
	}
}

// Compact makes rev the lowest revision that can be read, at once, and puts the
// mark of that into batch. What can no longer be read is deleted in the
// background; done closes when that is finished and durable, or when the store
// is closed or replaced before.
//
// Errors: ErrCompacted if rev is not above the compact revision (then done
// closes when the compactions before it are finished), ErrFutureRevision.
// Apply goroutine only.
func (s *Store) Compact(batch *backend.Batch, rev int64) (done <-chan struct{}, err error) {
	previous := s.CompactRevision()
	switch {
	case rev <= previous:
		return s.compactor.idle(), ErrCompacted
	case rev > s.Revision():
		return nil, ErrFutureRevision
	}
	s.pins.setFloor(rev)
	batch.Put(backend.Meta, []byte(scheduledCompactKey), encodeRevision(rev))
	job := &compaction{rev: rev, previous: previous}
	s.compactor.add(job)
	return job.done, nil
}

// compact does the background part of a compaction.
func (s *Store) compact(ctx context.Context, job *compaction) error {
	started := time.Now()
	if err := s.awaitScheduled(ctx, job.rev); err != nil {
		return err
	}
	if err := s.pins.wait(ctx, job.rev); err != nil {
		return err
	}
	kept, err := s.index.Compact(ctx, job.rev)
	if err != nil {
		return err
	}
	hash := newHasher(job.rev, job.previous, kept, len(kept.Revisions) > 0)
	info := CompactionInfo{Revision: job.rev, Keys: kept.Keys, IndexHold: kept.LongestHold}
	if err := s.deletePieces(ctx, job.rev, kept, hash, &info); err != nil {
		return err
	}
	info.Duration = time.Since(started)
	if !job.resumed {
		s.hashes.add(HashKVResult{Hash: hash.sum, HashRevision: job.rev, CompactRevision: job.previous})
	}
	s.logger.Info("finished scheduled compaction", zap.Int64("compact-revision", job.rev),
		zap.Duration("took", info.Duration), zap.Int("deleted", info.Deleted), zap.Uint32("hash", hash.sum))
	if s.cfg.OnCompaction != nil {
		s.cfg.OnCompaction(info)
	}
	return nil
}

// deletePieces walks the file up to rev. Between pieces it rests for as long as
// the governor says, or as the configuration does.
func (s *Store) deletePieces(
	ctx context.Context, rev int64, kept *index.Kept, hash *hasher, info *CompactionInfo,
) (err error) {
	started := time.Now()
	defer func() {
		if err != nil {
			s.cfg.OnCompactionPiece(CompactionProgress{Revision: rev})
		}
	}()
	piece := compactionPiece{
		store: s, hash: hash, kept: kept,
		next: revision.AppendKey(nil, revision.Revision{}, false),
		end:  revision.AppendKey(nil, revision.Revision{Main: rev + 1}, false),
	}
	job := s.cfg.Pace.Start(pieceSizes)
	defer job.Close()
	for {
		piece.limit = job.Size()
		if s.cfg.CompactionBatchLimit > 0 {
			piece.limit = s.cfg.CompactionBatchLimit
		}
		from := time.Now()
		deleted, err := piece.step(ctx, rev)
		if err != nil {
			return err
		}
		took := time.Since(from)
		info.Deleted += deleted
		info.Scanned = piece.scanned
		info.LongestPiece = max(info.LongestPiece, took)
		done, total := piece.progress(rev)
		s.cfg.OnCompactionPiece(CompactionProgress{
			Revision: rev, Done: done, Total: total, Deleted: info.Deleted, Took: time.Since(started),
			PieceDeleted: deleted, PieceTook: took,
		})
		if piece.done {
			return nil
		}
		if s.cfg.CompactionSleep > 0 && deleted > 0 {
			err = pace.Sleep(ctx, s.cfg.CompactionSleep)
		} else {
			err = job.Rest(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// awaitScheduled returns once the mark of a compaction at rev, and so every
// change up to rev, is durable. The batch that holds it may not be sealed yet.
func (s *Store) awaitScheduled(ctx context.Context, rev int64) error {
	for {
		if err := s.backend.Flush(ctx); err != nil {
			return err
		}
		view := s.backend.View()
		scheduled, _, err := compactRevisions(view)
		view.Close()
		if err != nil || scheduled >= rev {
			return err
		}
		if err := pace.Sleep(ctx, scheduleRetry); err != nil {
			return err
		}
	}
}

// compactionPiece walks the file in pieces, on a fresh view each, so that no
// view pins pages for long.
type compactionPiece struct {
	store     *Store
	kept      *index.Kept
	cursor    int // in kept
	hash      *hasher
	next, end []byte
	limit     int
	scanned   int
	first     int64 // main revision that the walk began with
	done      bool
}

// progress counts main revisions.
func (p *compactionPiece) progress(rev int64) (done, total int64) {
	total = max(rev-p.first+1, 1)
	if p.done {
		return total, total
	}
	next, _, err := revision.ParseKey(p.next)
	if err != nil {
		return 0, total
	}
	return max(next.Main-p.first, 0), total
}

// step deletes what is not kept among the next revisions, and marks the
// compaction at rev finished if they were the last.
func (p *compactionPiece) step(ctx context.Context, rev int64) (deleted int, err error) {
	ops, err := p.scan()
	if err != nil {
		return 0, err
	}
	deleted = len(ops)
	if p.done {
		ops = append(ops, backend.Op{Bucket: backend.Meta, Key: []byte(finishedCompactKey), Value: encodeRevision(rev)})
	}
	if len(ops) == 0 {
		return 0, ctx.Err()
	}
	return deleted, p.store.backend.Background(ctx, ops)
}

func (p *compactionPiece) scan() (ops []backend.Op, err error) {
	view := p.store.backend.View()
	defer view.Close()
	n, size := 0, 0
	var keys []byte // the deleted keys, in one allocation
	err = view.Scan(p.next, p.end, func(k, v []byte) error {
		if size += len(v); n == p.limit || size > pieceBytes && n > 0 {
			p.next = append(p.next[:0], k...)
			return errStop
		}
		n++
		rev, deletion, err := revision.ParseKey(k)
		if err != nil {
			return errors.Join(ErrCorrupt, err)
		}
		if p.scanned+n == 1 {
			p.first = rev.Main
		}
		p.hash.add(k, v, rev, deletion)
		if p.kept.Contains(rev, &p.cursor) {
			return nil
		}
		if keys == nil {
			keys = make([]byte, 0, p.limit*revision.TombstoneLen)
		}
		from := len(keys)
		keys = append(keys, k...)
		ops = append(ops, backend.Op{Bucket: backend.Key, Key: keys[from:len(keys):len(keys)], Delete: true})
		return nil
	})
	p.scanned += n
	if err == errStop {
		return ops, nil
	}
	p.done = err == nil
	return ops, err
}
