package mvcc

import (
	"context"
	"sync"
	"sync/atomic"
)

// pins is the floor of history and the readers that stand on some revision of it.
//
// Invariant: a revision below the floor gets no new pin, so once the pins below
// a floor are gone none comes back.
type pins struct {
	// floor is the compact revision, -1 if there was no compaction. Written under
	// mu; never falls, except when the whole store is replaced.
	floor atomic.Int64

	mu       sync.Mutex
	base     int64         // what the index was rebuilt from knew nothing below: pins below bind nobody
	readers  map[int64]int // how many readers are pinned to a revision
	awaiting int64         // wait is waiting for the pins below this; 0: nobody waits

	cleared chan struct{} // capacity 1; a pin below awaiting is gone
}

func (p *pins) init() {
	p.floor.Store(-1)
	p.readers = make(map[int64]int)
	p.cleared = make(chan struct{}, 1)
}

// pin holds rev until unpin, and returns the floor at this moment.
func (p *pins) pin(rev int64) (floor int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	floor = p.floor.Load()
	if rev < floor {
		return floor, ErrCompacted
	}
	p.readers[rev]++
	return floor, nil
}

func (p *pins) unpin(rev int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readers[rev]--; p.readers[rev] > 0 {
		return
	}
	delete(p.readers, rev)
	if rev < p.awaiting {
		select {
		case p.cleared <- struct{}{}:
		default:
		}
	}
}

// setFloor makes rev the lowest revision that may be read.
func (p *pins) setFloor(rev int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.floor.Store(rev)
}

// rebase sets floor and base: the store was rebuilt from what has this floor.
func (p *pins) rebase(floor int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.floor.Store(floor)
	p.base = floor
}

// holds reports whether a pin of rev still protects it, after all the store may
// have been replaced since.
func (p *pins) holds(rev int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return rev >= p.base
}

// wait returns once no reader is pinned below rev. One caller at a time.
func (p *pins) wait(ctx context.Context, rev int64) error {
	for {
		if p.clearBelow(rev) {
			return nil
		}
		select {
		case <-p.cleared:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (p *pins) clearBelow(rev int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.awaiting = rev
	for pinned := range p.readers {
		if p.base <= pinned && pinned < rev {
			return false
		}
	}
	p.awaiting = 0
	return true
}

// oldest returns the lowest pinned revision, 0 for none.
func (p *pins) oldest() (lowest int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pinned := range p.readers {
		if pinned >= p.base && (lowest == 0 || pinned < lowest) {
			lowest = pinned
		}
	}
	return lowest
}
