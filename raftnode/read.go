package raftnode

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
)

// readRetry is how long a read index may take before it is asked for again.
const readRetry = 500 * time.Millisecond

// readRound is what all reads that arrived while the round before was under way share.
type readRound struct {
	start time.Time
	done  chan struct{}
	err   error  // set before done is closed
	index uint64 // once known
}

func (r *readRound) finish(err error) {
	r.err = err
	close(r.done)
}

// reads are the rounds outside the loop's hands.
//
// A round goes through: next (gathering) -> readState.rounds (asked for) -> applying -> done.
type reads struct {
	mu struct {
		sync.Mutex
		next *readRound
		// applying wait for the state machine, in order of index.
		applying []*readRound
	}
	// waitIndex is the lowest index that applying waits for, or the maximum: spares the apply goroutine the lock.
	waitIndex atomic.Uint64
}

// readState is the loop's part.
type readState struct {
	// rounds whose index was asked for under id at issued; zero if it has yet to be asked for.
	rounds []*readRound
	id     uint64
	issued time.Time
}

func (r *reads) init() { r.waitIndex.Store(^uint64(0)) }

// LinearizableRead returns once everything that was committed in the cluster when it was called is applied here. All
// reads that wait at the same time share one exchange with a quorum.
func (n *Node) LinearizableRead(ctx context.Context) error {
	n.reads.mu.Lock()
	round := n.reads.mu.next
	fresh := round == nil
	if fresh {
		round = &readRound{start: time.Now(), done: make(chan struct{})}
		n.reads.mu.next = round
	}
	n.reads.mu.Unlock()
	if fresh {
		signal(n.queues.loopWake)
	}
	select {
	case <-round.done:
		return round.err
	case <-ctx.Done():
		return ctx.Err()
	case <-n.done:
		select {
		case <-round.done:
			return round.err
		default:
			return n.stopped()
		}
	}
}

func (r *reads) takeNext() *readRound {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.mu.next
	r.mu.next = nil
	return next
}

// acceptReads asks for a read index unless one is under way. A new leader waits until it knows what is committed: raft
// would answer for a lone voter with an index that may lie behind.
func (n *Node) acceptReads() {
	s := &n.state
	r := &s.read
	if !r.issued.IsZero() || s.lead == raft.None || s.role == raft.StateLeader && !s.termCommitted {
		return
	}
	if next := n.reads.takeNext(); next != nil {
		r.rounds = append(r.rounds, next)
	}
	if len(r.rounds) == 0 {
		return
	}
	r.id++
	r.issued = time.Now()
	n.raw.ReadIndex(binary.BigEndian.AppendUint64(nil, r.id))
}

// reissueReads makes acceptReads ask again, with whoever has joined since.
func (n *Node) reissueReads() { n.state.read.issued = time.Time{} }

// readIndexKnown takes the answer.
func (n *Node) readIndexKnown(rs raft.ReadState) {
	r := &n.state.read
	if len(rs.RequestCtx) != 8 || binary.BigEndian.Uint64(rs.RequestCtx) != r.id || r.issued.IsZero() {
		return // an answer to an attempt that was given up
	}
	n.reads.await(r.rounds, rs.Index, &n.applied)
	clear(r.rounds)
	r.rounds, r.issued = r.rounds[:0], time.Time{}
}

// await finishes the rounds now or when index is applied.
func (r *reads) await(rounds []*readRound, index uint64, applied *atomic.Uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, round := range rounds {
		round.index = index
		r.mu.applying = append(r.mu.applying, round)
	}
	r.setWaitLocked()
	// The order matters: the apply goroutine publishes its index and then looks at waitIndex.
	r.releaseLocked(applied.Load())
}

func (r *reads) setWaitLocked() {
	if len(r.mu.applying) == 0 {
		r.waitIndex.Store(^uint64(0))
		return
	}
	r.waitIndex.Store(r.mu.applying[0].index)
}

func (r *reads) releaseLocked(applied uint64) {
	i := 0
	for ; i < len(r.mu.applying) && r.mu.applying[i].index <= applied; i++ {
		r.mu.applying[i].finish(nil)
	}
	if i > 0 {
		r.mu.applying = append(r.mu.applying[:0], r.mu.applying[i:]...)
		r.setWaitLocked()
	}
}

// release lets go whoever waited for the applied index. Called by the apply goroutine after it published the index.
func (r *reads) release(applied uint64) {
	if applied < r.waitIndex.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.releaseLocked(applied)
}

// expireReads retries what got lost on the way and gives up what is overdue.
func (n *Node) expireReads(now time.Time) {
	r := &n.state.read
	if !r.issued.IsZero() && now.Sub(r.issued) >= readRetry {
		n.log.Warn("waiting for ReadIndex response took too long, retrying")
		if n.cfg.Observer.ReadIndexSlow != nil {
			n.cfg.Observer.ReadIndexSlow()
		}
		n.reissueReads()
	}
	overdue := func(round *readRound) bool { return now.Sub(round.start) >= n.cfg.RequestTimeout }
	kept := r.rounds[:0]
	for _, round := range r.rounds {
		if overdue(round) {
			n.failRead(round, n.timeoutError(round.start))
			continue
		}
		kept = append(kept, round)
	}
	if r.rounds = kept; len(kept) == 0 {
		r.issued = time.Time{}
	}
	n.reads.mu.Lock()
	defer n.reads.mu.Unlock()
	if next := n.reads.mu.next; next != nil && overdue(next) {
		n.failRead(next, n.timeoutError(next.start))
		n.reads.mu.next = nil
	}
	applying := n.reads.mu.applying[:0]
	for _, round := range n.reads.mu.applying {
		if overdue(round) {
			n.failRead(round, ErrTimeoutWaitApplied)
			continue
		}
		applying = append(applying, round)
	}
	n.reads.mu.applying = applying
	n.reads.setWaitLocked()
}

func (n *Node) failRead(round *readRound, err error) {
	round.finish(err)
	if n.cfg.Observer.ReadIndexFail != nil {
		n.cfg.Observer.ReadIndexFail()
	}
}

// failAll is called when the loop and the apply goroutine have ended; rounds in the loop's hands learn of it through
// Node.done.
func (r *reads) failAll(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.next != nil {
		r.mu.next.finish(err)
		r.mu.next = nil
	}
	for _, round := range r.mu.applying {
		round.finish(err)
	}
	r.mu.applying = nil
}
