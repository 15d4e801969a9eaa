package rpc

import (
	"context"
	"io"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/upkeep-kv/upkeep/mvcc/watch"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
	"github.com/upkeep-kv/upkeep/server/auth"
)

// Deps is everything that the services ask of the rest of the server. All fields but Auth and Observer are required.
// Every method may be called from many goroutines at once.
type Deps struct {
	Headers     Headers
	State       State
	Proposer    Proposer
	Admission   Admission
	KV          KV
	Watches     Watches
	Leases      Leases
	Cluster     Cluster
	Maintenance Maintenance
	// Auth may be nil: then there are no users, and everybody may do everything.
	Auth     Auth
	Upkeep   Upkeep
	Observer Observer
	Logger   *zap.Logger
}

// Options are the numbers of the client-facing listener. The zero value of a field means the default in brackets.
type Options struct {
	// MaxRequestBytes bounds one encoded log request [1.5 MiB]. A gRPC message may be 512 KiB larger, and watch responses
	// that are at least that large are split for watchers that asked for fragments.
	MaxRequestBytes int
	// MaxTxnOps bounds each of the three lists of a transaction [128].
	MaxTxnOps int
	// MaxConcurrentStreams bounds the HTTP/2 streams of a connection [no bound].
	MaxConcurrentStreams uint32
	// KeepAliveMinTime is how often a client may ping [5s]; a more eager one is disconnected.
	KeepAliveMinTime time.Duration
	// KeepAliveInterval is the idle time after which the server pings [2h], KeepAliveTimeout how long it waits [20s].
	KeepAliveInterval, KeepAliveTimeout time.Duration
	// ElectionTimeout is the unit of the require-leader rule [1s]: three of them without a leader cut such streams.
	ElectionTimeout time.Duration
	// WarnUnaryDuration is how long a unary call may take before it is logged [300ms]; negative switches the log off.
	WarnUnaryDuration time.Duration
	// NotServingOnDefrag has the health service say NOT_SERVING while a client's defragmentation runs.
	NotServingOnDefrag bool
	// CertificateUsers takes the common name of a verified client certificate for a user, where no token is presented.
	CertificateUsers bool
	// ServerOptions are added after ours (credentials, stats handlers).
	ServerOptions []grpc.ServerOption
}

// Headers stamps answers.
type Headers interface {
	// Header returns a fresh header: cluster, member, term and the store's current revision. The caller owns it.
	Header() *pb.ResponseHeader
}

// State is what the interceptors ask about this member, on every call: it must be as cheap as an atomic load.
type State interface {
	IsLearner() bool
	HasLeader() bool
}

// Proposer puts a command through the log and waits until this member applied it.
type Proposer interface {
	// Propose returns what apply answered: a *pb.PutResponse for a put and so on, owned by the caller, its header holding
	// the revision after apply (nil where nothing but the current revision can be told; rpc then asks Headers). For a
	// compaction the value implements CompactResult and may be non-nil beside an error.
	Propose(ctx context.Context, req *pb.InternalRaftRequest) (any, error)
}

// CompactResult is what Propose answers to a compaction.
type CompactResult interface {
	// Done is closed when this member has deleted all that the newest compaction covers and the deletion is durable.
	// nil where there is nothing to wait for.
	Done() <-chan struct{}
}

// Admission refuses commands that would need space which is not there (quota.ErrNoSpace), before they reach the log.
type Admission interface {
	Admit(ctx context.Context, req *pb.InternalRaftRequest) error
}

// KV reads this member's store. Requests were checked by check.go. Responses are owned by the caller; their
// Header.Revision is the store's revision at the time of the read, the rest of the header is filled in here.
type KV interface {
	// LinearizableRead returns when this member has applied all that was committed before the call.
	LinearizableRead(ctx context.Context) error
	// Range reads at once, from local state, with sorting and filters.
	Range(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error)
	// ReadTxn runs a transaction of nothing but ranges at one revision, from local state.
	ReadTxn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error)
	// Pin holds one revision (0 or less: the current one) readable, compactions notwithstanding, until Close.
	Pin(ctx context.Context, rev int64) (PinnedReader, error)
}

// PinnedReader pages through one revision, for RangeStream. Used by one goroutine.
type PinnedReader interface {
	// StoreRevision is the store's revision when the pin was taken, for the header.
	StoreRevision() int64
	// Page returns at most limit pairs of [key, end) in key order and whether there are more. It does not count the rest.
	Page(ctx context.Context, key, end []byte, limit int64, keysOnly bool) (kvs []*mvccpb.KeyValue, more bool, err error)
	// Count returns the number of keys in [key, end).
	Count(ctx context.Context, key, end []byte) (int64, error)
	Close()
}

// Watches opens the server side of watch streams. *watch.Hub is one.
type Watches interface {
	NewStream() *watch.Stream
}

// Leases reads leases. Each method answers for the leader: the server forwards.
type Leases interface {
	// Renew restarts a lease's time to live and returns it in seconds. lease.ErrNotFound for one that is gone.
	Renew(ctx context.Context, id int64) (ttlSeconds int64, err error)
	// TimeToLive fills all but the header. lease.ErrNotFound for an unknown lease.
	TimeToLive(ctx context.Context, req *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error)
	// List returns the ids of all leases by remaining time.
	List(ctx context.Context) ([]int64, error)
	// Keys returns the keys that are attached to a lease as far as this member knows; none for an unknown lease.
	Keys(id int64) []string
}

// WatchMessage is what a message to a watching client is about.
type WatchMessage int

const (
	WatchEvents   WatchMessage = iota
	WatchProgress              // nothing has happened up to a revision
	WatchControl               // a watcher is made or has ended
)

// Auth knows users and what they may do. *auth.Store is one.
type Auth interface {
	Permissions
	Passwords
}

// Permissions say who calls and what is allowed. An auth.Identity that presents nothing is nobody.
type Permissions interface {
	// Enabled is asked on every call: it must be as cheap as an atomic load.
	Enabled() bool
	// Identify returns who presents a token. auth.ErrInvalidToken.
	Identify(ctx context.Context, token string) (auth.Identity, error)
	// Named is a user whom something else than a token has proved.
	Named(username string) auth.Identity
	// CheckRead and CheckWrite refuse the keys [key, end); CheckRoot whoever does not hold the role root; CheckUser nobody
	// but nobody; CheckFresh who was found out before the last change of users or roles.
	CheckRead(id auth.Identity, key, end []byte) error
	CheckWrite(id auth.Identity, key, end []byte) error
	CheckRoot(id auth.Identity) error
	CheckUser(id auth.Identity) error
	CheckFresh(id auth.Identity) error
}

// Passwords turn passwords into hashes and tokens.
type Passwords interface {
	// CheckPassword returns the auth revision at which the password was right.
	CheckPassword(ctx context.Context, username, password string) (revision uint64, err error)
	// Hash returns what goes into the log instead of a password.
	Hash(ctx context.Context, password string) (string, error)
	// TokenPart is what goes into the log to make a token, Sign makes the token of what came out.
	TokenPart() string
	Sign(token string, id auth.Identity) (string, error)
}

// Cluster changes the membership. Members returned are owned by the caller, sorted by id.
type Cluster interface {
	Members() []*pb.Member
	Add(ctx context.Context, peerURLs []string, learner bool) (added *pb.Member, members []*pb.Member, err error)
	Remove(ctx context.Context, id uint64) ([]*pb.Member, error)
	Update(ctx context.Context, id uint64, peerURLs []string) ([]*pb.Member, error)
	// Promote is forwarded to the leader by the server.
	Promote(ctx context.Context, id uint64) ([]*pb.Member, error)
}

// Maintenance is the state and the upkeep of this member.
type Maintenance interface {
	// Alarms returns all alarms of the cluster.
	Alarms() []*pb.AlarmMember
	// Status fills all but the header and the errors.
	Status() *pb.StatusResponse
	// Defragment fills all but the header.
	Defragment(ctx context.Context) (*pb.DefragmentResponse, error)
	Hash(ctx context.Context) (uint32, error)
	// HashKV fills all but the header. rev 0 is the current revision.
	HashKV(ctx context.Context, rev int64) (*pb.HashKVResponse, error)
	// Snapshot yields the database as it is now, or, compact, a copy without holes. version is the storage version, like
	// "3.7.0".
	Snapshot(ctx context.Context, compact bool) (snap Snapshot, version string, err error)
	// MoveLeader returns once target leads. raftnode.ErrNotLeader, raftnode.ErrBadTransferee.
	MoveLeader(ctx context.Context, target uint64) error
	// ClusterVersion is the version all members agreed on, like "3.7.0"; empty while unknown.
	ClusterVersion() string
	// DowngradeInfo tells of a downgrade in progress. Never nil.
	DowngradeInfo() *pb.DowngradeInfo
}

// Snapshot is an image of the database file.
type Snapshot interface {
	Size() int64
	io.WriterTo
	io.Closer
}

// Observer gets told what happens, for metrics. Any function may be nil. Called on the goroutine of the call.
type Observer struct {
	// Started and Handled frame every call. kind is "unary", "client_stream", "server_stream" or "bidi_stream"; service
	// and method are as the client named them.
	Started func(kind, service, method string)
	Handled func(kind, service, method string, code codes.Code, took time.Duration)
	// Received and Sent count messages.
	Received func(kind, service, method string)
	Sent     func(kind, service, method string)
	// ReceivedBytes and SentBytes add up the encoded sizes of messages.
	ReceivedBytes func(bytes int)
	SentBytes     func(bytes int)
	// ClientRequest counts calls by the version that the client says it speaks ("unknown" without).
	ClientRequest func(kind, clientAPIVersion string)
	// StreamFailed counts streams that ended by the network's fault. kind is "send" or "receive", api like "watch".
	StreamFailed func(kind, api string)
	// WatchSent is told of every message to a watching client, how many events were in it, and how long sending took.
	WatchSent func(kind WatchMessage, events int, took time.Duration)
	// SlowUnary is told of every unary call that took longer than Options.WarnUnaryDuration.
	SlowUnary func(service, method string, took time.Duration)
}
