package raftnode

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/raftnode/wal"
)

const (
	// maxUnapplied committed entries may wait before proposals are refused, as in etcd.
	maxUnapplied = 5000
	// maxPendingBytes and maxPending bound the proposals that wait for a result.
	maxPendingBytes = 256 << 20
	maxPending      = 1 << 16
	// keepLogBytes bounds what is kept in memory behind the applied index for slow followers. An entry may hold
	// thousands of coalesced commands, so that a number of entries alone would not bound it.
	keepLogBytes = 32 << 20
	// keepForPeersBytes bounds what is kept beyond that for a member that is catching up.
	keepForPeersBytes = 256 << 20
	// snapshotBytes of log since the last snapshot record are enough for another one, however few entries they are: as
	// much as a segment of the WAL, so that a restart reads about one.
	snapshotBytes = 64 << 20

	maxMessageBytes = 1 << 20
	maxInflight     = 512
	// maxApplyingBytes of committed entries may be on their way to the apply goroutine.
	maxApplyingBytes = 64 << 20
	inboxMessages    = 4096
)

// Node replicates a state machine.
//
// Goroutines, all started by Start and joined before Done is closed:
//
//	loop    owns raw and every field marked loop; never waits for any other goroutine
//	append  owns the WAL; writes what is queued, syncs once, answers
//	apply   calls the state machine; asks the loop to switch configurations
//	stop    waits for Stop or a fatal error, then ends the others in order: apply, append, loop
//	(one for each snapshot being sent or recorded)
type Node struct {
	cfg    Config
	log    *zap.Logger
	ids    *IDs
	store  *logStore
	raw    *raft.RawNode // loop
	state  loopState     // loop
	queues queues

	waiters waiters
	reads   reads
	leader  leaderWatch

	term      atomic.Uint64
	committed atomic.Uint64
	applied   atomic.Uint64
	role      atomic.Uint64 // raft.StateType

	pendingBytes atomic.Int64

	stopOnce sync.Once
	stopping chan struct{}
	stopErr  error // set before stopping is closed

	applyStop, appendStop, loopStop chan struct{}
	applyDone, appendDone, loopDone chan struct{}
	senders                         sync.WaitGroup
	sendersContext                  context.Context
	cancelSenders                   context.CancelFunc
	done                            chan struct{}
}

// queues are how goroutines hand over work. loopWake is shared by all that the loop reads.
type queues struct {
	inbox     chan *raftpb.Message
	loopWake  chan struct{}
	local     *mailbox[localEvent]
	calls     *mailbox[func()]
	proposals *mailbox[*proposal]
	appends   *mailbox[appendJob]
	applies   *mailbox[applyJob]
}

// localEvent is what the append and apply goroutines tell the loop.
type localEvent struct {
	messages []*raftpb.Message
	// appends that carried entries and are now durable.
	appends int
	// forwards that came back applied.
	forwards int
}

// Start runs a node. On success the node owns cfg.WAL.
func Start(cfg Config) (*Node, error) {
	cfg = withDefaults(cfg)
	store, err := newLogStore(cfg)
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, log: cfg.Logger, store: store,
		ids:      NewIDs(cfg.ID, time.Now()),
		stopping: make(chan struct{}), done: make(chan struct{}),
		applyStop: make(chan struct{}), appendStop: make(chan struct{}), loopStop: make(chan struct{}),
		applyDone: make(chan struct{}), appendDone: make(chan struct{}), loopDone: make(chan struct{}),
	}
	wake := make(chan struct{}, 1)
	n.queues = queues{
		inbox: make(chan *raftpb.Message, inboxMessages), loopWake: wake,
		local: newMailbox[localEvent](wake), calls: newMailbox[func()](wake), proposals: newMailbox[*proposal](wake),
		appends: newMailbox[appendJob](nil), applies: newMailbox[applyJob](nil),
	}
	n.sendersContext, n.cancelSenders = context.WithCancel(context.Background())
	n.waiters.init()
	n.reads.init()
	n.leader.init()
	if n.raw, err = newRawNode(cfg, store); err != nil {
		n.cancelSenders()
		return nil, err
	}
	hs := store.initialState
	n.term.Store(hs.GetTerm())
	n.committed.Store(hs.GetCommit())
	n.applied.Store(cfg.Applied)
	n.initLoopState()
	go n.runLoop()
	go n.runAppend()
	go n.runApply()
	go n.runStop()
	return n, nil
}

func withDefaults(cfg Config) Config {
	if cfg.MaxRequestBytes == 0 {
		cfg.MaxRequestBytes = 1536 * 1024
	}
	if cfg.CatchUpEntries == 0 {
		cfg.CatchUpEntries = 5000
	}
	if cfg.SnapshotEntries == 0 {
		cfg.SnapshotEntries = 10000
	}
	if cfg.TickInterval == 0 {
		cfg.TickInterval = 100 * time.Millisecond
	}
	if cfg.ElectionTicks == 0 {
		cfg.ElectionTicks = 10
	}
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = 5*time.Second + 2*cfg.electionTimeout()
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.ConfState == nil {
		cfg.ConfState = wal.ToConfState(cfg.Recovered.Snapshot.GetConfState())
	}
	return cfg
}

func (c *Config) electionTimeout() time.Duration {
	return time.Duration(c.ElectionTicks) * c.TickInterval
}

// newLogStore holds what was recovered against how far the state machine is, and refuses what does not fit.
func newLogStore(cfg Config) (*logStore, error) {
	rec := cfg.Recovered
	if md := rec.Metadata; md.GetNodeID() != cfg.ID || md.GetClusterID() != cfg.ClusterID {
		return nil, fmt.Errorf("raftnode: the log belongs to member %x of cluster %x, not to member %x of cluster %x",
			md.GetNodeID(), md.GetClusterID(), cfg.ID, cfg.ClusterID)
	}
	base := rec.Snapshot.GetIndex()
	last := base + uint64(len(rec.Entries))
	if cfg.Applied < base {
		return nil, fmt.Errorf("raftnode: the log starts behind entry %d, but the state machine has only applied up to %d",
			base, cfg.Applied)
	}
	if cfg.Applied > last {
		return nil, fmt.Errorf("raftnode: the state machine has applied entry %d, but the log ends at %d: entries are missing",
			cfg.Applied, last)
	}
	conf := raftpb.EnsureConfState(proto.Clone(cfg.ConfState).(*raftpb.ConfState))
	s := &logStore{base: base, baseTerm: rec.Snapshot.GetTerm(), initialConf: conf}
	if err := s.append(rec.Entries); err != nil {
		return nil, err
	}
	if cfg.Barrier <= cfg.Applied {
		s.cut(cfg.Barrier)
	}
	// A commit index is not synced by itself, so what was applied may be ahead of it.
	s.initialState = &raftpb.HardState{
		Term:   new(rec.HardState.GetTerm()),
		Vote:   new(rec.HardState.GetVote()),
		Commit: new(max(rec.HardState.GetCommit(), cfg.Applied)),
	}
	term, err := s.Term(cfg.Applied)
	if err != nil {
		return nil, err
	}
	s.publish(cfg.Applied, term, conf)
	return s, nil
}

func raftConfig(cfg Config, store *logStore) *raft.Config {
	return &raft.Config{
		ID:                       cfg.ID,
		ElectionTick:             cfg.ElectionTicks,
		HeartbeatTick:            1,
		Storage:                  store,
		Applied:                  cfg.Applied,
		AsyncStorageWrites:       true,
		MaxSizePerMsg:            maxMessageBytes,
		MaxCommittedSizePerReady: maxApplyingBytes,
		MaxInflightMsgs:          maxInflight,
		CheckQuorum:              true,
		PreVote:                  cfg.PreVote,
		StepDownOnRemoval:        true,
		Logger:                   newRaftLogger(cfg.Logger),
	}
}

func newRawNode(cfg Config, store *logStore) (raw *raft.RawNode, err error) {
	defer func() {
		if gaveUp := raftError(recover()); gaveUp != nil {
			err = gaveUp
		}
	}()
	return raft.NewRawNode(raftConfig(cfg, store))
}

// Stop ends the node: waiting calls return ErrStopped, the WAL is closed, all goroutines have ended. It may be called
// more than once.
func (n *Node) Stop() error {
	n.fail(ErrStopped)
	<-n.done
	return n.Err()
}

// Done is closed when the node has stopped, be it by Stop or by a fatal error.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err is why the node stopped: nil after Stop, ErrRemoved, or what made it impossible to go on. Valid after Done.
func (n *Node) Err() error {
	if errors.Is(n.stopErr, ErrStopped) {
		return nil
	}
	return n.stopErr
}

// fail starts stopping. The first reason counts.
func (n *Node) fail(err error) {
	n.stopOnce.Do(func() {
		n.stopErr = err
		close(n.stopping)
	})
}

// stopped is the error for calls that the end of the node cut short. Valid after stopping was closed.
func (n *Node) stopped() error {
	if errors.Is(n.stopErr, ErrRemoved) {
		return ErrRemoved
	}
	return ErrStopped
}

// runStop ends the goroutines in the order in which they depend on each other: apply asks the loop to switch
// configurations, append waits for apply to restore a snapshot.
func (n *Node) runStop() {
	<-n.stopping
	if n.Err() != nil {
		n.log.Error("raft node stops", zap.Error(n.stopErr))
	}
	n.cancelSenders()
	close(n.applyStop)
	<-n.applyDone
	close(n.appendStop)
	<-n.appendDone
	close(n.loopStop)
	<-n.loopDone
	n.senders.Wait()
	if err := n.cfg.WAL.Close(); err != nil {
		n.log.Warn("cannot close the log", zap.Error(err))
	}
	n.reads.failAll(n.stopped())
	n.waiters.failAll(n.stopped())
	close(n.done)
}

// call has fn run by the loop and waits for it.
func (n *Node) call(fn func()) error {
	ran := make(chan struct{})
	n.queues.calls.put(func() { fn(); close(ran) })
	select {
	case <-ran:
		return nil
	case <-n.loopDone:
		return n.stopped()
	}
}
