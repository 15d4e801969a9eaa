package raftnode

import (
	"math"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// loopState is what the loop knows besides raft's own state. Only the loop touches it.
type loopState struct {
	lead uint64
	role raft.StateType
	term uint64

	// appendsInFlight counts the appends with entries that are not durable yet.
	appendsInFlight int
	// raftApplied is the applied index that raft has been told.
	raftApplied uint64
	// confBarrier: raft would silently drop a configuration change until it has applied up to here.
	confBarrier uint64
	// termCommitted: an entry of this term is committed, so the commit index is not behind an earlier leader's.
	termCommitted bool
	// replayed is set once everything that was committed at boot is applied; bootCommit is how far that is.
	replayed   bool
	bootCommit uint64

	// waiting proposals that were taken from the queue but not yet by raft; heldConf are forwarded configuration
	// changes that wait for confBarrier.
	waiting     []*proposal
	waitingConf []*proposal
	heldConf    []*raftpb.Message
	// forwards in flight to the leader, and whether any came back since the last tick.
	forwards        int
	forwardProgress bool

	read readState

	// conf is the history of configurations since recordedIndex, oldest first.
	conf          []confAt
	recordedIndex uint64
	recordedBytes uint64 // logStore.appended then
	recording     bool

	installs map[uint64]*install

	lastHeartbeat time.Time
	removedTicks  int
	hold          *hold // of a rebuild; nil if there is none
	barrier       uint64

	// Buffers that are reused.
	events []localEvent
	calls  []func()
	taken  []*proposal
}

type confAt struct {
	index uint64
	conf  *raftpb.ConfState
}

func (n *Node) initLoopState() {
	s := &n.state
	s.raftApplied = n.cfg.Applied
	s.bootCommit = n.store.initialState.GetCommit()
	s.term = n.store.initialState.GetTerm()
	s.conf = []confAt{{n.cfg.Applied, n.store.initialConf}}
	s.recordedIndex = n.cfg.Recovered.Snapshot.GetIndex()
	s.barrier = n.cfg.Barrier
	s.installs = make(map[uint64]*install)
	if n.cfg.InitialElectionTickAdvance {
		// Stay short of a timeout, so that a leader has two heartbeats' time to be heard.
		for range n.cfg.ElectionTicks - 2 {
			n.raw.Tick()
		}
	}
}

func (n *Node) runLoop() {
	defer close(n.loopDone)
	defer func() {
		if err := raftError(recover()); err != nil {
			n.fail(err)
		}
	}()
	ticker := time.NewTicker(n.cfg.TickInterval)
	defer ticker.Stop()
	for {
		n.turn()
		select {
		case <-ticker.C:
			n.tick()
		case m := <-n.queues.inbox:
			n.stepPeer(m)
			n.drainInbox()
		case <-n.queues.loopWake:
		case <-n.loopStop:
			return
		}
	}
}

// drainInbox takes what else peers sent, within limits, so that ticks are not starved.
func (n *Node) drainInbox() {
	for range 256 {
		select {
		case m := <-n.queues.inbox:
			n.stepPeer(m)
		default:
			return
		}
	}
}

// turn takes in everything that waits and hands out everything that raft has ready.
func (n *Node) turn() {
	s := &n.state
	s.calls = n.queues.calls.take(s.calls)
	for _, fn := range s.calls {
		fn()
	}
	for {
		n.takeLocal()
		n.acceptConfChanges()
		n.acceptProposals()
		n.acceptReads()
		n.campaignAlone()
		if !n.raw.HasReady() {
			break
		}
		n.handleReady(n.raw.Ready())
	}
	n.refuseInstalls()
}

// takeLocal steps what the append and apply goroutines have answered.
func (n *Node) takeLocal() {
	s := &n.state
	s.events = n.queues.local.take(s.events)
	for _, ev := range s.events {
		s.appendsInFlight -= ev.appends
		if ev.forwards > 0 {
			s.forwards, s.forwardProgress = max(0, s.forwards-ev.forwards), true
		}
		for _, m := range ev.messages {
			n.step(m)
			if m.GetType() == raftpb.MsgStorageApplyResp && len(m.Entries) > 0 {
				s.raftApplied = m.Entries[len(m.Entries)-1].GetIndex()
			}
		}
	}
	n.cutLog()
}

func (n *Node) step(m *raftpb.Message) {
	if err := n.raw.Step(m); err != nil && err != raft.ErrProposalDropped && err != raft.ErrStepPeerNotFound {
		n.log.Debug("raft message not taken", zap.String("type", m.GetType().String()), zap.Error(err))
	}
}

// stepPeer takes one message from a peer. A leader holds configuration changes back that raft would drop.
func (n *Node) stepPeer(m *raftpb.Message) {
	s := &n.state
	if m.GetType() == raftpb.MsgProp && hasConfChange(m) && s.role == raft.StateLeader && s.raftApplied < s.confBarrier {
		s.heldConf = append(s.heldConf, m)
		return
	}
	n.step(m)
}

func hasConfChange(m *raftpb.Message) bool {
	return slices.ContainsFunc(m.Entries, func(e *raftpb.Entry) bool { return e.GetType() != raftpb.EntryNormal })
}

// campaignAlone spares a lone voter the election timeout.
func (n *Node) campaignAlone() {
	s := &n.state
	if s.replayed || s.raftApplied < s.bootCommit {
		return
	}
	s.replayed = true
	voters := s.conf[len(s.conf)-1].conf.GetVoters()
	if n.cfg.InitialElectionTickAdvance && len(voters) == 1 && voters[0] == n.cfg.ID && s.role == raft.StateFollower {
		if err := n.raw.Campaign(); err != nil {
			n.log.Warn("cannot campaign", zap.Error(err))
		}
	}
}

// handleReady hands out one Ready. Local storage work goes first, so that the disk and the peers work at once.
func (n *Node) handleReady(rd raft.Ready) {
	if !raft.IsEmptyHardState(rd.HardState) {
		n.noteHardState(rd.HardState)
	}
	if rd.SoftState != nil {
		n.noteSoftState(rd.SoftState)
	}
	n.noteEntries(rd.Entries)
	var outgoing []*raftpb.Message
	for _, m := range rd.Messages {
		switch {
		case m.GetTo() == raft.LocalAppendThread:
			n.handOutAppend(m)
		case m.GetTo() == raft.LocalApplyThread:
			n.handOutApply(m)
		case m.GetType() == raftpb.MsgSnap:
			n.sendSnapshot(m)
		default:
			outgoing = append(outgoing, m)
		}
	}
	if len(outgoing) > 0 {
		n.noteHeartbeat(outgoing)
		n.cfg.Transport.Send(outgoing)
	}
	for _, rs := range rd.ReadStates {
		n.readIndexKnown(rs)
	}
}

func (n *Node) handOutAppend(m *raftpb.Message) {
	job := appendJob{message: m}
	if snap := m.GetSnapshot(); !raft.IsEmptySnap(snap) {
		index := snap.GetMetadata().GetIndex()
		job.install = n.state.installs[index]
		delete(n.state.installs, index)
	}
	if len(m.Entries) > 0 {
		n.state.appendsInFlight++
	}
	n.queues.appends.put(job)
}

func (n *Node) handOutApply(m *raftpb.Message) {
	s := &n.state
	if last := m.Entries[len(m.Entries)-1]; last.GetTerm() == s.term {
		s.termCommitted = true
	}
	n.queues.applies.put(applyJob{entries: m.Entries, responses: m.Responses})
}

func (n *Node) noteHardState(hs *raftpb.HardState) {
	s := &n.state
	if hs.GetTerm() != s.term {
		s.term, s.termCommitted = hs.GetTerm(), false
		n.term.Store(s.term)
	}
	n.committed.Store(hs.GetCommit())
	if n.cfg.Observer.Committed != nil {
		n.cfg.Observer.Committed(hs.GetCommit())
	}
}

// noteEntries watches for what raft would take offence at: a second configuration change before the first is applied.
func (n *Node) noteEntries(ents []*raftpb.Entry) {
	s := &n.state
	if len(ents) == 0 {
		return
	}
	if s.confBarrier == math.MaxUint64 {
		// The first entries of a new leader: raft counts all of them as possible changes.
		s.confBarrier = ents[len(ents)-1].GetIndex()
	}
	for _, e := range ents {
		if e.GetType() != raftpb.EntryNormal {
			s.confBarrier = max(s.confBarrier, e.GetIndex())
		}
	}
}

func (n *Node) noteSoftState(ss *raft.SoftState) {
	s := &n.state
	if ss.RaftState != s.role {
		s.role = ss.RaftState
		n.role.Store(uint64(s.role))
		s.termCommitted = false
		s.confBarrier = 0
		s.lastHeartbeat = time.Time{}
		if s.role == raft.StateLeader {
			s.confBarrier = math.MaxUint64
		}
	}
	if ss.Lead == s.lead {
		return
	}
	from := s.lead
	s.lead = ss.Lead
	s.forwards = 0
	switch {
	case ss.Lead == raft.None:
		n.log.Sugar().Infof("raft.node: %x lost leader %x at term %d", n.cfg.ID, from, s.term)
	case from == raft.None:
		n.log.Sugar().Infof("raft.node: %x elected leader %x at term %d", n.cfg.ID, ss.Lead, s.term)
	default:
		n.log.Sugar().Infof("raft.node: %x changed leader from %x to %x at term %d", n.cfg.ID, from, ss.Lead, s.term)
	}
	n.leader.set(ss.Lead)
	n.reissueReads()
	if n.cfg.Observer.LeaderChanged != nil {
		n.cfg.Observer.LeaderChanged(from, ss.Lead)
	}
}

// noteHeartbeat measures whether this member, as leader, keeps up with its own rhythm.
func (n *Node) noteHeartbeat(outgoing []*raftpb.Message) {
	s := &n.state
	if !slices.ContainsFunc(outgoing, func(m *raftpb.Message) bool { return m.GetType() == raftpb.MsgHeartbeat }) {
		return
	}
	now := time.Now()
	if late := now.Sub(s.lastHeartbeat) - 2*n.cfg.TickInterval; !s.lastHeartbeat.IsZero() && late > 0 {
		n.log.Warn("leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk",
			zap.Duration("heartbeat-interval", n.cfg.TickInterval), zap.Duration("exceeded-duration", late))
		if n.cfg.Observer.HeartbeatLate != nil {
			n.cfg.Observer.HeartbeatLate(late)
		}
	}
	s.lastHeartbeat = now
}

func (n *Node) tick() {
	s := &n.state
	n.raw.Tick()
	now := time.Now()
	if !s.forwardProgress {
		s.forwards = 0
	}
	s.forwardProgress = false
	n.waiters.expire(now, n.timeoutError)
	n.expireReads(now)
	n.compactLog()
	if n.cfg.Observer.ProposalsPending != nil {
		n.cfg.Observer.ProposalsPending(n.waiters.len())
	}
	if s.removedTicks > 0 {
		if s.removedTicks--; s.removedTicks == 0 {
			n.fail(ErrRemoved)
		}
	}
}
