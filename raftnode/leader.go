package raftnode

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
)

// leaderWatch tells about the leader.
type leaderWatch struct {
	mu struct {
		sync.Mutex
		lead    uint64
		elected time.Time // when lead last became a member
		changed chan struct{}
	}
}

func (l *leaderWatch) init() { l.mu.changed = make(chan struct{}) }

func (l *leaderWatch) set(lead uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.lead = lead
	if lead != raft.None {
		l.mu.elected = time.Now()
	}
	close(l.mu.changed)
	l.mu.changed = make(chan struct{})
}

func (l *leaderWatch) get() (lead uint64, elected time.Time, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.lead, l.mu.elected, l.mu.changed
}

// Lead is the member that this one takes for the leader; 0 if it knows none.
func (n *Node) Lead() uint64 {
	lead, _, _ := n.leader.get()
	return lead
}

// LeaderChanged returns a channel that is closed when the leader changes next, be it to none.
func (n *Node) LeaderChanged() <-chan struct{} {
	_, _, changed := n.leader.get()
	return changed
}

// IsLeader tells whether this member takes itself for the leader.
func (n *Node) IsLeader() bool { return n.Lead() == n.cfg.ID }

// timeoutError finds the likely reason why something that started then has not come to an end.
func (n *Node) timeoutError(start time.Time) error {
	lead, elected, _ := n.leader.get()
	if lostFrom := elected.Add(-2 * n.cfg.electionTimeout()); start.After(lostFrom) && start.Before(elected) {
		return ErrTimeoutLeaderFail
	}
	connected := func(id uint64) bool {
		since := n.cfg.Transport.ActiveSince(id)
		return !since.IsZero() && since.Before(start)
	}
	switch lead {
	case raft.None:
		return ErrTimeout
	case n.cfg.ID:
		voters := n.state.conf[len(n.state.conf)-1].conf.GetVoters()
		reached := 0
		for _, id := range voters {
			if id == n.cfg.ID || connected(id) {
				reached++
			}
		}
		if reached <= len(voters)/2 {
			return ErrTimeoutConnectionLost
		}
	default:
		if !connected(lead) {
			return ErrTimeoutConnectionLost
		}
	}
	return ErrTimeout
}

// TransferLeadership hands leadership to another voting member and returns once this member follows it. Only the
// leader can do it.
func (n *Node) TransferLeadership(ctx context.Context, to uint64) error {
	var refusal error
	term := uint64(0)
	err := n.call(func() {
		s := &n.state
		voters := s.conf[len(s.conf)-1].conf.GetVoters()
		switch {
		case s.role != raft.StateLeader:
			refusal = ErrNotLeader
		case !slices.Contains(voters, to):
			refusal = ErrBadTransferee
		case to != n.cfg.ID:
			n.raw.TransferLeader(to)
		}
		term = s.term
	})
	if err != nil || refusal != nil {
		return firstError(err, refusal)
	}
	// Raft gives up after one election timeout; the new leader needs a moment to be heard.
	deadline := time.NewTimer(2 * n.cfg.electionTimeout())
	defer deadline.Stop()
	for {
		lead, _, changed := n.leader.get()
		if lead == to {
			return nil
		}
		if lead != raft.None && lead != n.cfg.ID && n.term.Load() > term {
			return ErrTimeoutLeaderTransfer
		}
		select {
		case <-changed:
		case <-deadline.C:
			return ErrTimeoutLeaderTransfer
		case <-ctx.Done():
			return ctx.Err()
		case <-n.stopping:
			return n.stopped()
		}
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
