package lease

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// This file is what the leader does by its clock.

// Promote makes this member's clock count: each lease runs out after the time that it has left by the last checkpoint,
// or else its whole time to live, plus extend, in which clients can find the new leader.
func (l *Lessor) Promote(extend time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.voidLocked()
	l.primary, l.extend = true, extend
	l.scheduleAllLocked()
}

// Demote stops the clock: nothing runs out here, and nothing is offered.
func (l *Lessor) Demote() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.primary = false
	l.voidLocked()
}

// voidLocked forgets all deadlines.
func (l *Lessor) voidLocked() {
	l.term++
	l.expiry.clear()
	l.due.clear()
	for _, it := range l.leases {
		it.noted = false
		it.releaseWaiters()
	}
	l.wakeUp()
}

func (l *Lessor) scheduleAllLocked() {
	now := time.Now()
	for _, it := range l.leases {
		left := it.TTL
		if it.RemainingTTL > 0 {
			left = it.RemainingTTL
		}
		l.startLocked(it, now, time.Duration(left)*time.Second+l.extend)
	}
	l.wakeUp()
}

// startLocked lets a lease run out so long after now.
func (l *Lessor) startLocked(it *item, now time.Time, left time.Duration) {
	it.deadline = now.Add(left)
	l.expiry.set(it, it.deadline)
	l.scheduleCheckpointLocked(it, now)
}

// scheduleCheckpointLocked puts off the next checkpoint until an interval from now.
func (l *Lessor) scheduleCheckpointLocked(it *item, now time.Time) {
	if !l.cfg.CheckpointEnabled || it.deadline.Sub(now) <= l.cfg.CheckpointInterval {
		return
	}
	it.checkpointDue = now.Add(l.cfg.CheckpointInterval)
	if !l.due.has(it) {
		l.due.set(it, it.checkpointDue)
	}
}

// Renew starts the time to live anew and returns it in seconds. For a lease with a checkpoint it waits until that has
// been taken back through the log. ErrNotFound, also for one that ran out: it will be revoked and nothing can stop that;
// ErrNotPrimary; ErrClosed; ctx's error.
func (l *Lessor) Renew(ctx context.Context, id int64) (ttlSeconds int64, err error) {
	for {
		ttlSeconds, wait, err := l.renew(id)
		if err != nil {
			return 0, err
		}
		if wait == nil {
			l.cfg.Renewed()
			return ttlSeconds, nil
		}
		select {
		case <-wait: // taken back, revoked or demoted: look again
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-l.stop:
			return 0, ErrClosed
		}
	}
}

func (l *Lessor) renew(id int64) (ttlSeconds int64, wait <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.primary {
		return 0, nil, ErrNotPrimary
	}
	it := l.leases[id]
	now := time.Now()
	if it == nil || !now.Before(it.deadline) {
		return 0, nil, ErrNotFound
	}
	// Never earlier: after a promotion the lease has more than its time to live.
	if deadline := now.Add(time.Duration(it.TTL) * time.Second); deadline.After(it.deadline) {
		it.deadline = deadline
	}
	if it.RemainingTTL == 0 && !it.noted {
		l.scheduleCheckpointLocked(it, now)
		return it.TTL, nil, nil
	}
	if it.takenBack == nil {
		it.takenBack = make(chan struct{})
		it.checkpointDue = now
		l.due.set(it, now)
		l.wakeUp()
	}
	return 0, it.takenBack, nil
}

func (it *item) releaseWaiters() {
	if it.takenBack != nil {
		close(it.takenBack)
		it.takenBack = nil
	}
}

// Info is what a leader tells of a lease.
type Info struct {
	// Granted is the time to live, Remaining what is left of it, in whole seconds, rounded down.
	Granted, Remaining int64
	// Keys are the attached keys in order, if asked for.
	Keys []string
}

// TimeToLive tells of a lease. ErrNotFound, ErrNotPrimary.
func (l *Lessor) TimeToLive(id int64, keys bool) (Info, error) {
	info, err := l.timeToLive(id)
	if err == nil && keys {
		info.Keys = l.keys.of(id)
	}
	return info, err
}

func (l *Lessor) timeToLive(id int64) (Info, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if !l.primary {
		return Info{}, ErrNotPrimary
	}
	it := l.leases[id]
	if it == nil {
		return Info{}, ErrNotFound
	}
	return Info{Granted: it.TTL, Remaining: int64(max(0, time.Until(it.deadline)) / time.Second)}, nil
}

// List returns the ids of all leases by remaining time, where this member does not lead by id.
func (l *Lessor) List() []int64 {
	type entry struct {
		id       int64
		deadline time.Time
	}
	l.mu.RLock()
	entries := make([]entry, 0, len(l.leases))
	for id, it := range l.leases {
		e := entry{id: id}
		if l.primary {
			e.deadline = it.deadline
		}
		entries = append(entries, e)
	}
	l.mu.RUnlock()
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(a.deadline.Compare(b.deadline), cmp.Compare(a.id, b.id))
	})
	ids := make([]int64, len(entries))
	for i, e := range entries {
		ids[i] = e.id
	}
	return ids
}
