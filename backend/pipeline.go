package backend

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// pipeline is the hand-over between the apply goroutine and the committer. It
// knows nothing of bbolt: what it needs done is in env.
//
// Invariants: at most two batches exist, open and frozen; a batch is frozen only
// between entries, and only when no other is frozen; frozen is cleared only
// after env.write made it durable, in the same critical section in which
// readers move to the file (env.committed).
type pipeline struct {
	env      environment
	interval time.Duration
	maxOps   int
	maxBytes int64

	// lastAppended belongs to the apply goroutine; a replacement, which that
	// goroutine waits for, resets it.
	lastAppended struct{ main, sub uint64 }
	// pendingBytes is sealed and not yet durable; for the quota.
	pendingBytes atomic.Int64

	wake    chan struct{} // cap 1: something changed for the committer
	stopped chan struct{} // closed when the committer has returned
	failed  chan struct{} // closed on a permanent failure

	mu struct {
		sync.Mutex
		room       sync.Cond // frozen became nil, or closing
		open       *pending
		frozen     *pending
		unbounded  bool      // begin does not wait
		inEntry    bool      // between Begin and Commit
		wantSeal   bool      // freeze open as soon as the entry is sealed
		deadline   time.Time // when open is to be frozen; valid if it has entries
		background []*backgroundWrite
		exclusive  []*exclusiveCall
		closing    bool
		failure    error // permanent
		lastError  error // of the last commit; nil after a success
		retryAt    time.Time
		backoff    time.Duration
	}
}

// environment is what the committer does besides deciding when.
type environment struct {
	// write makes a job durable in one transaction. Called without locks.
	write func(*job) error
	// frozen and committed tell readers where to look; called with mu held.
	frozen    func(committing, open *run)
	committed func()
	// finished follows committed, without locks.
	finished func(*job)
	// failed reports an error of write; retryIn is 0 if it is permanent.
	failed func(err error, retryIn time.Duration)
}

// job is one transaction: a frozen batch, background writes, or both.
type job struct {
	batch      *pending
	background []*backgroundWrite
}

type backgroundWrite struct {
	ops  []Op
	done chan struct{}
	err  error
}

// exclusiveCall runs on the committer goroutine between two transactions.
type exclusiveCall struct {
	fn   func() error
	done chan struct{}
	err  error
}

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

func newPipeline(env environment, interval time.Duration, maxOps int, maxBytes int64) *pipeline {
	p := &pipeline{
		env: env, interval: interval, maxOps: maxOps, maxBytes: maxBytes,
		wake: make(chan struct{}, 1), stopped: make(chan struct{}), failed: make(chan struct{}),
	}
	p.mu.room.L = &p.mu.Mutex
	p.mu.open = newPending()
	return p
}

func (p *pipeline) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *pipeline) full(b *pending) bool {
	return b.sealedCount() >= p.maxOps || b.sealedSize >= p.maxBytes
}

// begin returns the open batch, waiting only while both are full. After close
// it returns a batch that leads nowhere, so that an apply goroutine that was
// waiting can run to its end.
func (p *pipeline) begin() *Batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.full(p.mu.open) && p.mu.frozen != nil && !p.mu.closing && !p.mu.unbounded {
		p.mu.room.Wait()
	}
	if p.mu.closing {
		return &Batch{p: p, target: newPending()}
	}
	if p.mu.inEntry {
		panic("backend: Begin before Commit of the entry before")
	}
	if p.full(p.mu.open) && p.mu.frozen == nil {
		p.freezeLocked()
	}
	p.mu.inEntry = true
	return &Batch{p: p, target: p.mu.open}
}

// unbind lets the open batch grow beyond its bounds from now on.
func (p *pipeline) unbind() {
	p.mu.Lock()
	p.mu.unbounded = true
	p.mu.room.Broadcast()
	p.mu.Unlock()
}

func (p *pipeline) seal(b *pending, index, term uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b != p.mu.open { // begun after close, or dropped by a replacement
		return
	}
	p.mu.inEntry = false
	if index == 0 && b.run.len() == b.sealedRows && len(b.ops) == b.sealedOps {
		p.afterSealLocked()
		return
	}
	b.sealedRows, b.sealedOps, b.sealedSize = b.run.len(), len(b.ops), b.bytes
	if index != 0 {
		b.index, b.term = index, term
	}
	b.entries++
	p.pendingBytes.Store(b.sealedSize + p.frozenBytesLocked())
	if b.entries == 1 {
		p.mu.deadline = time.Now().Add(p.interval)
		p.kick()
	}
	p.afterSealLocked()
}

// afterSealLocked freezes the batch at once if somebody waits for that.
func (p *pipeline) afterSealLocked() {
	if p.mu.frozen == nil && p.mu.open.entries > 0 && (p.mu.wantSeal || p.full(p.mu.open)) {
		p.freezeLocked()
	}
}

func (p *pipeline) frozenBytesLocked() int64 {
	if p.mu.frozen == nil {
		return 0
	}
	return p.mu.frozen.sealedSize
}

func (p *pipeline) freezeLocked() {
	p.mu.frozen, p.mu.open = p.mu.open, newPending()
	p.mu.wantSeal = false
	p.env.frozen(p.mu.frozen.run, p.mu.open.run)
	p.kick()
}

// flush waits until all that was sealed before the call is durable. It must not
// be called between Begin and Commit by the goroutine that is to call Commit.
func (p *pipeline) flush(ctx context.Context) error {
	p.mu.Lock()
	if err := p.unusableLocked(); err != nil {
		p.mu.Unlock()
		return err
	}
	var last *pending
	switch {
	case p.mu.open.entries > 0:
		last = p.mu.open
		p.mu.wantSeal = true
		p.kick()
	case p.mu.frozen != nil:
		last = p.mu.frozen
	}
	p.mu.Unlock()
	if last == nil {
		return nil
	}
	select {
	case <-last.done:
		return last.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pipeline) unusableLocked() error {
	if p.mu.closing {
		return ErrClosed
	}
	return p.mu.failure
}

// write queues background operations and waits until they are durable.
func (p *pipeline) writeBackground(ctx context.Context, ops []Op) error {
	w := &backgroundWrite{ops: ops, done: make(chan struct{})}
	p.mu.Lock()
	if err := p.unusableLocked(); err != nil {
		p.mu.Unlock()
		return err
	}
	p.mu.background = append(p.mu.background, w)
	p.mu.Unlock()
	p.kick()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.mu.background, w); i >= 0 {
		p.mu.background = slices.Delete(p.mu.background, i, i+1)
	}
	return ctx.Err()
}

// exclusively runs fn on the committer goroutine between two transactions and
// returns its error. Once fn has begun the context no longer matters here. It
// works after a permanent failure too: that is how a replacement heals it.
func (p *pipeline) exclusively(ctx context.Context, fn func() error) error {
	c := &exclusiveCall{fn: fn, done: make(chan struct{})}
	p.mu.Lock()
	if p.mu.closing {
		p.mu.Unlock()
		return ErrClosed
	}
	p.mu.exclusive = append(p.mu.exclusive, c)
	p.mu.Unlock()
	p.kick()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	i := slices.Index(p.mu.exclusive, c)
	if i >= 0 {
		p.mu.exclusive = slices.Delete(p.mu.exclusive, i, i+1)
	}
	p.mu.Unlock()
	if i >= 0 {
		return ctx.Err()
	}
	<-c.done
	return c.err
}

// dropLocked forgets all that is not durable, because the state is replaced.
// It also heals a permanent failure: what failed was the old file.
func (p *pipeline) dropLocked(why error) {
	for _, b := range []*pending{p.mu.frozen, p.mu.open} {
		if b != nil {
			b.finishLocked(why)
		}
	}
	p.mu.frozen, p.mu.open = nil, newPending()
	p.mu.inEntry, p.mu.wantSeal = false, false
	p.endBackgroundLocked(why)
	p.pendingBytes.Store(0)
	p.mu.retryAt, p.mu.backoff, p.mu.lastError = time.Time{}, 0, nil
	if p.mu.failure != nil {
		p.mu.failure = nil
		p.failed = make(chan struct{})
	}
	p.mu.room.Broadcast()
}

func (p *pipeline) endBackgroundLocked(why error) {
	for _, w := range p.mu.background {
		w.err = why
		close(w.done)
	}
	p.mu.background = nil
}

// close makes the committer write what is sealed and joins it. The error is
// that of the last commit if something could not be written.
func (p *pipeline) close() error {
	p.mu.Lock()
	p.mu.closing = true
	p.mu.room.Broadcast()
	p.mu.Unlock()
	p.kick()
	<-p.stopped
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.lastError
}
