package raftnode

import (
	"sync"
	"sync/atomic"
	"time"
)

const waiterShards = 16

// waiters finds the call that waits for a command's result. Whoever takes a proposal out of it answers it.
type waiters struct {
	count  atomic.Int64
	shards [waiterShards]struct {
		sync.Mutex
		byID map[uint64]*proposal
	}
}

func (w *waiters) init() {
	for i := range w.shards {
		w.shards[i].byID = make(map[uint64]*proposal)
	}
}

func (w *waiters) len() int { return int(w.count.Load()) }

func (w *waiters) add(p *proposal) {
	s := &w.shards[p.id%waiterShards]
	s.Lock()
	s.byID[p.id] = p
	s.Unlock()
	w.count.Add(1)
}

// remove takes a proposal out; nil if it is not, or no longer, waited for here.
func (w *waiters) remove(id uint64) *proposal {
	s := &w.shards[id%waiterShards]
	s.Lock()
	defer s.Unlock()
	p := s.byID[id]
	if p != nil {
		delete(s.byID, id)
		w.count.Add(-1)
	}
	return p
}

// failIf answers every proposal for which fn returns an error.
func (w *waiters) failIf(fn func(p *proposal) error) {
	for i := range w.shards {
		s := &w.shards[i]
		s.Lock()
		for id, p := range s.byID {
			if err := fn(p); err != nil {
				delete(s.byID, id)
				w.count.Add(-1)
				p.gone.Store(true)
				p.outcome <- outcome{err: err}
			}
		}
		s.Unlock()
	}
}

func (w *waiters) failAll(err error) {
	w.failIf(func(*proposal) error { return err })
}

// expire answers those whose time is up with the error that reason finds for their start.
func (w *waiters) expire(now time.Time, reason func(start time.Time) error) {
	w.failIf(func(p *proposal) error {
		if now.Before(p.deadline) {
			return nil
		}
		return reason(p.start)
	})
}

// failDropped answers what this member appended as leader in a term before the given one. Entries of that term stand
// in front of all entries of the later term. So when the first of those is applied and the proposal was not, it is not
// in the log and never will be.
func (w *waiters) failDropped(term uint64) {
	w.failIf(func(p *proposal) error {
		if t := p.term.Load(); t != 0 && t < term {
			return ErrLeaderChanged
		}
		return nil
	})
}
