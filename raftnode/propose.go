package raftnode

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

const (
	// coalesceBytes bounds an entry made of several commands, proposeBytes one hand-over to raft.
	coalesceBytes = 1 << 20
	proposeBytes  = 4 << 20
	// maxForwards is how many hand-overs a follower has on their way to the leader before it lets commands gather.
	maxForwards = 8
	// batchTag opens each command of a coalesced entry: field 20000 of InternalRaftRequest, length-delimited.
	batchTag = 20000<<3 | 2
)

// proposal is one command or configuration change and the call that waits for it.
type proposal struct {
	id        uint64
	data      []byte
	confEntry bool
	alone     bool // shares its entry with nothing else
	start     time.Time
	deadline  time.Time
	outcome   chan outcome // capacity 1; written once, by whoever took the proposal out of waiters

	// gone: nobody waits any more, so there is no use in proposing it.
	gone atomic.Bool
	// term in which this member appended the proposal as leader; 0 if it did not.
	term atomic.Uint64
	// slot: its return frees one of the maxForwards. Written by the loop before raft sees the proposal.
	slot bool
}

type outcome struct {
	result Result
	err    error
}

// Propose replicates a request and returns its result once this member has applied it. It sets the ID in the request's
// header. An error other than ErrTooManyRequests, ErrRequestTooLarge and ErrLeaderChanged leaves open whether the
// request is or will be applied.
func (n *Node) Propose(ctx context.Context, req *pb.InternalRaftRequest) (Result, error) {
	if req.Header == nil {
		req.Header = &pb.RequestHeader{}
	}
	req.Header.ID = n.ids.Next()
	data, err := req.MarshalVT()
	if err != nil {
		return Result{}, err
	}
	if len(data) > n.cfg.MaxRequestBytes {
		return Result{}, ErrRequestTooLarge
	}
	if err := n.admit(len(data)); err != nil {
		return Result{}, err
	}
	defer n.pendingBytes.Add(-int64(len(data)))
	p := n.newProposal(req.Header.ID, data)
	p.alone = req.OnlineRestore != nil
	n.waiters.add(p)
	n.queues.proposals.put(p)
	return n.await(ctx, p)
}

// ProposeConfChange replicates a membership change and returns its result once this member has applied it. It sets the
// change's ID. Changes wait for each other: one at a time is under way in the cluster.
func (n *Node) ProposeConfChange(ctx context.Context, cc *raftpb.ConfChange) (Result, error) {
	cc.Id = new(n.ids.Next())
	data, err := proto.Marshal(cc)
	if err != nil {
		return Result{}, err
	}
	if err := n.admit(len(data)); err != nil {
		return Result{}, err
	}
	defer n.pendingBytes.Add(-int64(len(data)))
	p := n.newProposal(cc.GetId(), data)
	p.confEntry = true
	n.waiters.add(p)
	n.queues.calls.put(func() { n.state.waitingConf = append(n.state.waitingConf, p) })
	return n.await(ctx, p)
}

func (n *Node) newProposal(id uint64, data []byte) *proposal {
	now := time.Now()
	return &proposal{id: id, data: data, start: now, deadline: now.Add(n.cfg.RequestTimeout), outcome: make(chan outcome, 1)}
}

// admit reserves room for a proposal, or says why there is none.
func (n *Node) admit(size int) error {
	select {
	case <-n.stopping:
		return n.stopped()
	default:
	}
	if n.committed.Load() > n.applied.Load()+maxUnapplied || n.waiters.len() >= maxPending {
		return ErrTooManyRequests
	}
	if n.pendingBytes.Add(int64(size)) > maxPendingBytes {
		n.pendingBytes.Add(-int64(size))
		return ErrTooManyRequests
	}
	return nil
}

func (n *Node) await(ctx context.Context, p *proposal) (Result, error) {
	var out outcome
	select {
	case out = <-p.outcome:
	case <-ctx.Done():
		if n.waiters.remove(p.id) != nil {
			p.gone.Store(true)
			out.err = ctx.Err()
		} else {
			out = <-p.outcome
		}
	case <-n.done:
		// Everything that waited was answered before done was closed; this one may have come too late for that.
		select {
		case out = <-p.outcome:
		default:
			n.waiters.remove(p.id)
			out.err = n.stopped()
		}
	}
	if out.err != nil && n.cfg.Observer.ProposalFailed != nil {
		n.cfg.Observer.ProposalFailed()
	}
	return out.result, out.err
}

// acceptProposals hands waiting commands to raft, at most one hand-over per call.
func (n *Node) acceptProposals() {
	s := &n.state
	s.taken = n.queues.proposals.take(s.taken)
	s.waiting = append(s.waiting, s.taken...)
	if len(s.waiting) == 0 || !n.mayPropose() {
		return
	}
	ents, used, commands := n.gather()
	if len(ents) == 0 {
		n.dropWaiting(used)
		return
	}
	n.markProposed(s.waiting[:used])
	err := n.raw.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(n.cfg.ID), Entries: ents})
	if err != nil {
		// Leadership is on the move: they wait, in their order, for the next tick or leader.
		n.unmarkProposed(s.waiting[:used])
		return
	}
	n.dropWaiting(used)
	if s.role != raft.StateLeader {
		s.forwards++
	}
	if n.cfg.Observer.EntryCoalesced != nil {
		for _, c := range commands {
			n.cfg.Observer.EntryCoalesced(c)
		}
	}
}

// mayPropose decides when waiting commands have waited long enough. A leader lets them gather while an append is being
// synced: their own could not start before. A follower lets them gather while many are on their way. A lone client so
// never waits for company.
func (n *Node) mayPropose() bool {
	s := &n.state
	switch {
	case s.lead == raft.None:
		return false
	case s.role != raft.StateLeader && n.cfg.Transport.ActiveSince(s.lead).IsZero():
		return false // it would be lost on the way, and only its caller's timeout would tell
	case !n.cfg.Coalesce:
		return true
	case s.role == raft.StateLeader:
		return s.appendsInFlight == 0
	}
	return s.forwards < maxForwards
}

// gather makes entries of the commands at the head of the queue, and returns how many of the queue they use and how
// many commands each holds.
func (n *Node) gather() (ents []*raftpb.Entry, used int, commands []int) {
	waiting := n.state.waiting
	for total := 0; used < len(waiting) && total < proposeBytes; {
		var group []*proposal
		size := 0
		for ; used < len(waiting); used++ {
			p := waiting[used]
			if p.gone.Load() {
				continue
			}
			if len(group) > 0 && (!n.cfg.Coalesce || p.alone || group[0].alone || size+len(p.data) > coalesceBytes) {
				break
			}
			group = append(group, p)
			size += len(p.data)
		}
		if len(group) == 0 {
			break
		}
		ents = append(ents, &raftpb.Entry{Data: encodeGroup(group, size)})
		commands = append(commands, len(group))
		total += size
	}
	return ents, used, commands
}

// encodeGroup leaves a lone command as etcd would write it, and wraps several into a batch.
func encodeGroup(group []*proposal, size int) []byte {
	if len(group) == 1 {
		return group[0].data
	}
	b := make([]byte, 0, size+len(group)*(3+binary.MaxVarintLen32))
	for _, p := range group {
		b = binary.AppendUvarint(b, batchTag)
		b = binary.AppendUvarint(b, uint64(len(p.data)))
		b = append(b, p.data...)
	}
	return b
}

func (n *Node) markProposed(ps []*proposal) {
	if n.state.role == raft.StateLeader {
		for _, p := range ps {
			p.term.Store(n.state.term)
		}
		return
	}
	ps[0].slot = true
}

func (n *Node) unmarkProposed(ps []*proposal) {
	for _, p := range ps {
		p.term.Store(0)
	}
	ps[0].slot = false
}

func (n *Node) dropWaiting(used int) {
	s := &n.state
	clear(s.waiting[:used])
	if used == len(s.waiting) {
		s.waiting = s.waiting[:0]
		return
	}
	s.waiting = s.waiting[used:]
}

// acceptConfChanges hands at most one configuration change to raft, and none that a leader would drop in silence.
func (n *Node) acceptConfChanges() {
	s := &n.state
	if s.role == raft.StateLeader && s.raftApplied < s.confBarrier {
		return
	}
	if len(s.heldConf) > 0 {
		n.step(s.heldConf[0])
		s.heldConf = s.heldConf[1:]
		return
	}
	for len(s.waitingConf) > 0 && s.waitingConf[0].gone.Load() {
		s.waitingConf = s.waitingConf[1:]
	}
	if len(s.waitingConf) == 0 || s.lead == raft.None {
		return
	}
	p := s.waitingConf[0]
	if s.role == raft.StateLeader {
		p.term.Store(s.term)
	}
	err := n.raw.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(n.cfg.ID), Entries: []*raftpb.Entry{{
		Type: raftpb.EntryConfChange.Enum(), Data: p.data,
	}}})
	if err != nil {
		p.term.Store(0)
		return
	}
	s.waitingConf = s.waitingConf[1:]
}
