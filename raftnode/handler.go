package raftnode

import (
	"context"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

var _ Handler = (*Node)(nil)

// Step implements Handler.
func (n *Node) Step(ctx context.Context, m *raftpb.Message) error {
	switch {
	case raft.IsLocalMsg(m.GetType()) || raft.IsLocalMsgTarget(m.GetFrom()):
		return fmt.Errorf("raftnode: member %x sent a local message of type %v", m.GetFrom(), m.GetType())
	case m.GetType() == raftpb.MsgSnap:
		return fmt.Errorf("raftnode: member %x sent a snapshot without its file", m.GetFrom())
	case m.GetTo() != n.cfg.ID:
		return fmt.Errorf("raftnode: a message for member %x came to member %x", m.GetTo(), n.cfg.ID)
	}
	select {
	case n.queues.inbox <- m:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.stopping:
		return n.stopped()
	}
}

// ReportUnreachable implements Handler.
func (n *Node) ReportUnreachable(id uint64) {
	n.queues.calls.put(func() { n.raw.ReportUnreachable(id) })
}

// ReportSnapshot implements Handler.
func (n *Node) ReportSnapshot(id uint64, ok bool) {
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	n.queues.calls.put(func() { n.raw.ReportSnapshot(id, status) })
}

// Term is raft's current term.
func (n *Node) Term() uint64 { return n.term.Load() }

// CommittedIndex is how far the log is known to be committed.
func (n *Node) CommittedIndex() uint64 { return n.committed.Load() }

// AppliedIndex is how far the state machine is.
func (n *Node) AppliedIndex() uint64 { return n.applied.Load() }

// NextID draws an identifier that no request and no other member uses, for leases and the like.
func (n *Node) NextID() uint64 { return n.ids.Next() }

// Status describes the node. After it has stopped only the ID, the term and the indexes are filled in.
func (n *Node) Status() Status {
	st := Status{ID: n.cfg.ID, Term: n.Term(), Commit: n.CommittedIndex(), Applied: n.AppliedIndex()}
	ran := make(chan Status, 1)
	err := n.call(func() { ran <- n.describe() })
	if err == nil {
		st = <-ran
	}
	return st
}

func (n *Node) describe() Status {
	rs := n.raw.Status()
	st := Status{
		ID: n.cfg.ID, Lead: rs.Lead, Term: rs.HardState.GetTerm(), Vote: rs.HardState.GetVote(),
		Commit: rs.HardState.GetCommit(), Applied: n.AppliedIndex(), State: rs.RaftState.String(),
		LeadTransferee: rs.LeadTransferee,
		ConfState:      proto.Clone(n.state.conf[len(n.state.conf)-1].conf).(*raftpb.ConfState),
	}
	if rs.RaftState != raft.StateLeader {
		return st
	}
	st.Progress = make(map[uint64]Progress, len(rs.Progress))
	for id, p := range rs.Progress {
		st.Progress[id] = Progress{
			Match: p.Match, Next: p.Next, State: p.State.String(), PendingSnapshot: p.PendingSnapshot,
			RecentActive: p.RecentActive, IsLearner: p.IsLearner,
		}
	}
	return st
}
