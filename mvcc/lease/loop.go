package lease

import "time"

// Checkpoint is a lease's remaining time, to be replicated.
type Checkpoint struct {
	ID int64
	// RemainingTTL is in seconds, rounded up; 0 takes an earlier checkpoint back.
	RemainingTTL int64
}

// Expired offers leases that have run out, for the leader's server to propose that they be revoked. They come evenly,
// and again after Config.RetryInterval if they are still there then.
func (l *Lessor) Expired() <-chan []int64 { return l.expired }

// DueCheckpoints offers checkpoints that the leader's server should propose, at most as many as fit one log entry.
func (l *Lessor) DueCheckpoints() <-chan []Checkpoint { return l.checkpoints }

// offer is what the loop has taken from the schedules and waits to hand over.
type offer struct {
	term        uint64
	expired     []int64
	checkpoints []Checkpoint
}

// idle is how long the loop sleeps when there is nothing on the schedules.
const idle = time.Hour

// loop offers what is due. It looks when the next lease is due, not every so often.
func (l *Lessor) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var o offer
	for {
		timer.Reset(l.take(&o))
		var expired chan<- []int64
		if len(o.expired) > 0 {
			expired = l.expired
		}
		var checkpoints chan<- []Checkpoint
		if len(o.checkpoints) > 0 {
			checkpoints = l.checkpoints
		}
		select {
		case expired <- o.expired:
			l.handedOver(&o)
		case checkpoints <- o.checkpoints:
			o.checkpoints = nil
		case <-timer.C:
		case <-l.wake:
		case <-l.stop:
			return
		}
	}
}

// take fills the empty parts of the offer with what is due, and returns how long it will be until there is more.
func (l *Lessor) take(o *offer) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.term != l.term {
		*o = offer{term: l.term}
	}
	if !l.primary {
		return idle
	}
	now := time.Now()
	wait := idle
	if o.expired == nil {
		o.expired = l.takeExpiredLocked(now)
	}
	if o.expired == nil {
		if _, when := l.expiry.next(); !when.IsZero() {
			if when.Before(l.paceEnd) {
				when = l.paceEnd
			}
			wait = min(wait, when.Sub(now))
		}
	}
	if o.checkpoints == nil {
		o.checkpoints = l.takeCheckpointsLocked(now)
	}
	if o.checkpoints == nil {
		if _, when := l.due.next(); !when.IsZero() {
			wait = min(wait, when.Sub(now))
		}
	}
	return max(wait, 0)
}

// takeExpiredLocked takes leases that have run out off the schedule, a fifth of what an interval allows at a time.
func (l *Lessor) takeExpiredLocked(now time.Time) (ids []int64) {
	if now.Before(l.paceEnd) {
		return nil
	}
	limit := max(1, l.cfg.ExpireBatch/5)
	for len(ids) < limit {
		it, when := l.expiry.next()
		if it == nil || now.Before(when) {
			break
		}
		if now.Before(it.deadline) {
			l.expiry.set(it, it.deadline) // was renewed
			continue
		}
		l.expiry.remove(it)
		ids = append(ids, it.ID)
	}
	return ids
}

// handedOver puts the leases of the offer on the schedule again, in case nothing comes of it, and makes the next offer
// wait so that no more than ExpireBatch come in an ExpireInterval.
func (l *Lessor) handedOver(o *offer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := o.expired
	o.expired = nil
	if o.term != l.term {
		return
	}
	now := time.Now()
	l.paceEnd = now.Add(l.cfg.ExpireInterval * time.Duration(len(ids)) / time.Duration(l.cfg.ExpireBatch))
	for _, id := range ids {
		if it := l.leases[id]; it != nil && !l.expiry.has(it) {
			l.expiry.set(it, now.Add(l.cfg.RetryInterval))
		}
	}
}

// takeCheckpointsLocked collects due checkpoints. Each lease goes back on the schedule at once.
func (l *Lessor) takeCheckpointsLocked(now time.Time) (due []Checkpoint) {
	for len(due) < maxCheckpoints {
		it, when := l.due.next()
		if it == nil || now.Before(when) {
			break
		}
		left := it.deadline.Sub(now)
		switch {
		case now.Before(it.checkpointDue):
			l.due.set(it, it.checkpointDue) // was renewed
		case left <= 0:
			l.due.remove(it)
		case it.takenBack != nil:
			due = append(due, Checkpoint{ID: it.ID})
			it.checkpointDue = now.Add(l.cfg.RetryInterval)
			l.due.set(it, it.checkpointDue)
		default:
			due = append(due, Checkpoint{ID: it.ID, RemainingTTL: int64((left + time.Second - 1) / time.Second)})
			it.noted = true
			l.due.remove(it)
			l.scheduleCheckpointLocked(it, now)
		}
	}
	return due
}

// wakeLocked makes the loop look again if the lease is now the first one due.
func (l *Lessor) wakeLocked(it *item) {
	if it.slots[expirySchedule].at == 0 || it.slots[checkpointSchedule].at == 0 {
		l.wakeUp()
	}
}

func (l *Lessor) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
