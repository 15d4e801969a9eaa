package raftnode

import (
	"context"
	"errors"
	"io"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
)

// Errors of proposals, reads and leadership transfer. A context's own error is returned as it is.
var (
	// ErrStopped: the node is stopping or has stopped.
	ErrStopped = errors.New("raftnode: stopped")
	// ErrRemoved: this member was removed from the cluster; the node has stopped itself.
	ErrRemoved = errors.New("raftnode: this member was removed from the cluster")
	// ErrTimeout: no result within the request timeout. The request may still be applied later.
	ErrTimeout = errors.New("raftnode: request timed out")
	// ErrTimeoutLeaderFail: as ErrTimeout, and the leader was lost shortly before or while the request waited.
	ErrTimeoutLeaderFail = errors.New("raftnode: request timed out, possibly due to previous leader failure")
	// ErrTimeoutConnectionLost: as ErrTimeout, and the leader, or a quorum if this is the leader, was out of reach.
	ErrTimeoutConnectionLost = errors.New("raftnode: request timed out, possibly due to connection lost")
	// ErrTimeoutWaitApplied: a read's index is known, but this member did not apply up to it in time.
	ErrTimeoutWaitApplied = errors.New("raftnode: request timed out, waiting for the applied index took too long")
	// ErrLeaderChanged: a new leader's log does not hold the proposal. It has not been and never will be applied.
	ErrLeaderChanged = errors.New("raftnode: leader changed")
	// ErrNoLeader: no leader is known.
	ErrNoLeader = errors.New("raftnode: no leader")
	// ErrTooManyRequests: too many committed entries wait to be applied.
	ErrTooManyRequests = errors.New("raftnode: too many requests")
	// ErrRequestTooLarge: the encoded request is larger than Config.MaxRequestBytes.
	ErrRequestTooLarge = errors.New("raftnode: request is too large")
	// ErrNotLeader: only the leader can do this.
	ErrNotLeader = errors.New("raftnode: not the leader")
	// ErrBadTransferee: leadership cannot go to that member: unknown, or a learner.
	ErrBadTransferee = errors.New("raftnode: not a voting member, cannot become leader")
	// ErrTimeoutLeaderTransfer: the new leader did not take over in time.
	ErrTimeoutLeaderTransfer = errors.New("raftnode: leadership transfer timed out")
	// ErrLogLost: raft found that the log lacks what this member had acknowledged. It must not vote with it.
	ErrLogLost = errors.New("raftnode: the log of this member is not what it was when it last ran")
	// ErrSnapshotIgnored: raft had no use for a received snapshot; the caller removes its file.
	ErrSnapshotIgnored = errors.New("raftnode: snapshot ignored")
)

// Entry is one committed entry of the log in the form that the state machine applies.
type Entry struct {
	Index, Term uint64
	// Commands of the entry in order of arrival: none for the empty entry of a new leader, several when proposals
	// were coalesced.
	Commands []*pb.InternalRaftRequest
}

// Result of one command. Err is a refusal that every member decides alike.
type Result struct {
	Value any
	Err   error
	// Barrier: the log up to this entry can be applied by nobody else any more. Members that do not have it are sent the
	// state.
	Barrier bool
}

// FatalError in a Result is no refusal: the state machine found itself broken, which other members are not. The node stops
// with it, and nobody is answered.
type FatalError struct{ Err error }

func (e *FatalError) Error() string { return e.Err.Error() }
func (e *FatalError) Unwrap() error { return e.Err }

// StateMachine is what the node replicates. All methods but Snapshot and Durable are called by the one apply
// goroutine, in log order.
type StateMachine interface {
	// Apply applies one entry and returns one Result for each of its commands. The entry's index must become
	// durable together with its effects, so that Durable tells where replay begins.
	Apply(e Entry) []Result
	// ApplyConfChange validates a membership change against replicated state, then calls install exactly once:
	// accept switches raft's configuration, refusal leaves it as it is. install returns the configuration now in
	// force, to be persisted with index and term.
	ApplyConfChange(index, term uint64, cc *raftpb.ConfChange, install func(accept bool) *raftpb.ConfState) Result
	// Snapshot pins the applied state for a member that lags behind the log. May run at any time; the caller
	// closes it.
	Snapshot(ctx context.Context) (Snapshot, error)
	// Restore replaces the whole state by the received database file, which it takes by rename, and which holds
	// the state at index.
	Restore(file string, index, term uint64) error
	// Rebuild replaces the whole state by the database file of another member, which it takes by rename and which holds
	// the state at index; then it calls again, during which Apply and ApplyConfChange are called for what this member has
	// applied beyond index before. Nobody sees a state in between. A FatalError means that the state is neither.
	Rebuild(file string, index uint64, again func() error) error
	// Durable is the index up to which applied effects survive a crash. Safe for concurrent use and cheap.
	Durable() uint64
}

// Snapshot is a pinned image of the state machine at Index.
type Snapshot struct {
	Index, Term uint64
	ConfState   *raftpb.ConfState
	// Size of the image in bytes.
	Size int64
	Image
}

// Image yields the bytes of a database file.
type Image interface {
	// WriteTo writes the whole image. It may be called again to send it again.
	io.WriterTo
	Close() error
}

// Transport carries messages to the other members. The node calls Send and SendSnapshot; peers are added and removed
// by whoever keeps the member list, since only it knows their addresses. The node does not close it.
type Transport interface {
	// Send queues messages and returns at once; it may drop them, and then reports the peer unreachable. Messages
	// are shared with raft: they must not be modified. Several goroutines of the node may call it at once.
	Send(messages []*raftpb.Message)
	// SendSnapshot streams s to m.To in the background and reports the outcome to Handler.ReportSnapshot. It owns
	// s and closes it. m is the MsgSnap, its metadata that of s.
	SendSnapshot(m *raftpb.Message, s Snapshot)
	AddPeer(id uint64, urls []string)
	UpdatePeer(id uint64, urls []string)
	RemovePeer(id uint64)
	// ActiveSince tells since when the peer has been reachable without a break; zero if it is not.
	ActiveSince(id uint64) time.Time
	Close()
}

// Handler is what a transport delivers to. Node implements it.
type Handler interface {
	// Step takes one message from a peer. It waits only while the node's inbox is full.
	Step(ctx context.Context, m *raftpb.Message) error
	// ReportUnreachable tells raft that messages to the peer were lost.
	ReportUnreachable(id uint64)
	// ReportSnapshot tells raft how sending a snapshot to the peer ended.
	ReportSnapshot(id uint64, ok bool)
	// InstallSnapshot takes a received and verified database file with its MsgSnap and returns when the state
	// machine has been replaced by it. ErrSnapshotIgnored means that raft had no use for it; then and on any other
	// error the file remains the caller's to remove.
	InstallSnapshot(m *raftpb.Message, file string) error
}

// Config starts a Node.
type Config struct {
	ID, ClusterID uint64
	// WAL is open and positioned behind Recovered. The node owns and closes it.
	WAL       *wal.WAL
	Recovered *wal.Recovered
	// ConfState is the configuration at Applied, as the state machine persisted it. If nil, that of
	// Recovered.Snapshot.
	ConfState *raftpb.ConfState
	// Applied is the index that the state machine holds durably; replay starts behind it.
	Applied uint64
	// Barrier is the index of the newest entry that gave a Result with Barrier, 0 for none.
	Barrier      uint64
	StateMachine StateMachine
	Transport    Transport

	// TickInterval is the heartbeat interval; ElectionTicks of them make the election timeout.
	TickInterval  time.Duration
	ElectionTicks int
	PreVote       bool
	// InitialElectionTickAdvance skips most of the first election timeout, since a member that just started has no
	// leader to disturb.
	InitialElectionTickAdvance bool

	// MaxRequestBytes bounds one encoded request; 0 means 1.5 MiB.
	MaxRequestBytes int
	// Coalesce lets proposals that wait together share a log entry.
	Coalesce bool
	// CatchUpEntries stay in memory behind the applied index for slow followers; 0 means 5000.
	CatchUpEntries uint64
	// SnapshotEntries is how many durably applied entries lie between two snapshot records in the log; 0 means
	// 10000.
	SnapshotEntries uint64
	// RequestTimeout bounds a proposal or a read whose context has no earlier deadline; 0 means 5 s plus two
	// election timeouts.
	RequestTimeout time.Duration

	// SaveSnap writes etcd's .snap file when a snapshot record is due, before the record; may be nil. Called on a
	// goroutine of its own, one call at a time. An error is logged and puts the record off.
	SaveSnap func(index, term uint64, cs *raftpb.ConfState) error
	Logger   *zap.Logger
	Observer Observer
}

// Observer receives measurements; nil functions are skipped. They are called on the node's goroutines and must not
// block.
type Observer struct {
	LeaderChanged    func(from, to uint64)
	Committed        func(index uint64)
	Applied          func(index uint64)
	ProposalsPending func(n int)
	ProposalFailed   func()
	// EntryCoalesced is told how many commands each proposed entry carries.
	EntryCoalesced func(commands int)
	// ReadIndexSlow: a read index did not come in time and is asked for again. ReadIndexFail: it was given up.
	ReadIndexSlow func()
	ReadIndexFail func()
	// HeartbeatLate: the leader sent a heartbeat more than one interval too late.
	HeartbeatLate func(by time.Duration)
}

// Status is a consistent picture of the node.
type Status struct {
	ID, Lead, Term  uint64
	Vote            uint64
	Commit, Applied uint64
	// State is raft's own word for the role: StateFollower, StatePreCandidate, StateCandidate or StateLeader.
	State string
	// LeadTransferee is set while leadership is being handed over.
	LeadTransferee uint64
	// ConfState is the configuration in force.
	ConfState *raftpb.ConfState
	// Progress of every member by id; on the leader only.
	Progress map[uint64]Progress
}

// Progress is how far the leader knows a member to be.
type Progress struct {
	Match, Next uint64
	// State is raft's word: StateProbe, StateReplicate or StateSnapshot.
	State           string
	PendingSnapshot uint64
	RecentActive    bool
	IsLearner       bool
}
