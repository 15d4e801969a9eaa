package backend

import "time"

// run is the committer goroutine. It returns when the pipeline is closing and
// everything sealed is durable, or could not be made so.
func (p *pipeline) run() {
	defer close(p.stopped)
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	for {
		step := p.next()
		switch {
		case step.call != nil:
			step.call.err = step.call.fn()
			close(step.call.done)
		case step.job != nil:
			p.commit(step.job)
		case step.stop:
			return
		case step.wait > 0:
			timer.Reset(step.wait)
			select {
			case <-p.wake:
			case <-timer.C:
			}
			timer.Stop()
		default:
			<-p.wake
		}
	}
}

// step is what the committer does next: exactly one of its fields is set, or
// none to sleep until woken.
type step struct {
	call *exclusiveCall
	job  *job
	wait time.Duration
	stop bool
}

func (p *pipeline) next() step {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.exclusive) > 0 {
		call := p.mu.exclusive[0]
		p.mu.exclusive = p.mu.exclusive[1:]
		return step{call: call}
	}
	if p.mu.failure != nil {
		return step{stop: p.mu.closing}
	}
	now := time.Now()
	if wait := p.mu.retryAt.Sub(now); wait > 0 && !p.mu.closing {
		return step{wait: wait}
	}
	due := p.mu.open.entries > 0 && (p.mu.wantSeal || p.mu.closing || !now.Before(p.mu.deadline))
	if due && p.mu.frozen == nil {
		// In the middle of an entry the freeze is left to seal. While closing
		// nobody will seal: what is sealed is committed, the rest is dropped.
		if p.mu.inEntry && !p.mu.closing {
			p.mu.wantSeal = true
		} else {
			p.freezeLocked()
		}
	}
	if p.mu.frozen != nil || len(p.mu.background) > 0 {
		j := &job{batch: p.mu.frozen, background: p.mu.background}
		p.mu.background = nil
		return step{job: j}
	}
	if p.mu.closing {
		return step{stop: true}
	}
	if p.mu.open.entries > 0 && !p.mu.wantSeal {
		return step{wait: p.mu.deadline.Sub(now)}
	}
	return step{}
}

// commit writes a job. On failure the batch stays frozen and background writes
// go back to the head of their queue, so the next attempt is the same.
func (p *pipeline) commit(j *job) {
	err := p.env.write(j)
	p.mu.Lock()
	p.mu.lastError = err
	if err != nil {
		retryIn := p.failedLocked(j, err)
		p.mu.Unlock()
		p.env.failed(err, retryIn)
		return
	}
	p.mu.backoff, p.mu.retryAt = 0, time.Time{}
	if j.batch != nil {
		p.mu.frozen = nil
		p.pendingBytes.Store(p.mu.open.sealedSize)
		p.mu.room.Broadcast()
	}
	p.env.committed()
	p.mu.Unlock()
	p.env.finished(j)
	p.mu.Lock()
	if j.batch != nil {
		j.batch.finishLocked(nil)
	}
	p.mu.Unlock()
	for _, w := range j.background {
		close(w.done)
	}
}

func (p *pipeline) failedLocked(j *job, err error) (retryIn time.Duration) {
	p.mu.background = append(j.background, p.mu.background...)
	if isPermanent(err) || p.mu.closing {
		p.failLocked(err)
		return 0
	}
	p.mu.backoff = min(max(2*p.mu.backoff, minBackoff), maxBackoff)
	p.mu.retryAt = time.Now().Add(p.mu.backoff)
	return p.mu.backoff
}

// failLocked ends all commits: with the error for whoever waits, now and later.
func (p *pipeline) failLocked(err error) {
	p.mu.failure, p.mu.lastError = err, err
	for _, b := range []*pending{p.mu.frozen, p.mu.open} {
		if b != nil {
			b.finishLocked(err)
		}
	}
	p.endBackgroundLocked(err)
	close(p.failed)
}
