package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/raftnode"
)

// Errors of Conn.
var (
	ErrUnknownPeer = errors.New("transport: no such peer")
	ErrClosed      = errors.New("transport: closed")
)

// Config of a Transport.
type Config struct {
	ID, ClusterID uint64
	// Version of this program, told to peers.
	Version string
	// Dial connects to "host:port", or to "unix:path"; nil means the network.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Secure does the handshake on a connection to a peer URL of https or unixs; nil refuses those.
	Secure func(ctx context.Context, conn net.Conn, peer *url.URL) (net.Conn, error)
	// FS and SnapDir are where received databases are stored.
	FS      vfs.FS
	SnapDir string
	// FreeBytes tells how much room a directory has, so that a database that does not fit is refused at once; nil
	// means that this is not known.
	FreeBytes func(dir string) (int64, error)
	// SnapshotBytesPerSecond paces the sending of databases, so that it does not crowd out the log; 0 means 64 MiB
	// and a negative number no limit.
	SnapshotBytesPerSecond int64
	// ProbeInterval is how often the round trip to a peer is measured; 0 means 3 s.
	ProbeInterval time.Duration
	// Admit may refuse the streams of a member, such as one that was removed; nil admits all of this cluster.
	Admit func(from uint64) error
	// Refused is told when a peer refused this member's hello, once for each different reason; may be nil. It runs on
	// a goroutine that Close joins, so it must not call Close itself.
	Refused  func(peer uint64, err error)
	Logger   *zap.Logger
	Observer Observer
}

// Observer receives measurements; nil functions are skipped. They must not block.
type Observer struct {
	Sent          func(to uint64, bytes int)
	SendFailed    func(to uint64)
	Received      func(from uint64, bytes int)
	ReceiveFailed func(from uint64)
	RoundTrip     func(to uint64, d time.Duration)
	// PeerKnown and PeerActive are told on every change.
	PeerKnown  func(peer uint64, known bool)
	PeerActive func(peer uint64, active bool)

	SnapshotSending   func(to uint64)
	SnapshotSent      func(to uint64, ok bool, d time.Duration)
	SnapshotReceiving func(from uint64)
	SnapshotReceived  func(from uint64, ok bool, d time.Duration)
	// SnapshotSynced is told how long the last sync of a received file took.
	SnapshotSynced func(d time.Duration)
}

// Forwarder answers what other members ask of this one besides raft.
type Forwarder interface {
	Members(context.Context, *peerpb.MembersRequest) (*peerpb.MembersResponse, error)
	LeaseKeepAlive(context.Context, *pb.LeaseKeepAliveRequest) (*pb.LeaseKeepAliveResponse, error)
	LeaseTimeToLive(context.Context, *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error)
	MemberPromote(context.Context, *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error)
	HashKV(context.Context, *pb.HashKVRequest) (*pb.HashKVResponse, error)
	Figures(context.Context, *schedulepb.FiguresRequest) (*schedulepb.Figures, error)
	// RequestImage sends this member's database to another one, with SendImage, in the background.
	RequestImage(ctx context.Context, to uint64, image string) (*peerpb.ImageResponse, error)
	// DropImage removes an image that another member has sent and given up.
	DropImage(image string) error
	// ImageArrives tells whether this member waits for an image of that name and, if so, how much of it is here.
	ImageArrives(image string, received, size uint64) error
	// ImageReceived takes a received and verified image that does not concern raft. On an error the file remains the
	// caller's to remove.
	ImageReceived(image string, index, term uint64, confState *raftpb.ConfState, file string) error
}

// Transport implements raftnode.Transport.
type Transport struct {
	config   Config
	log      *zap.Logger
	receiver *receiver
	// target is set by Attach.
	target atomic.Pointer[target]

	// ctx ends with Close; tasks are the snapshot senders.
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu struct {
		sync.RWMutex
		closed bool
		peers  map[uint64]*peer
	}
}

var _ raftnode.Transport = (*Transport)(nil)

type target struct {
	handler   raftnode.Handler
	forwarder Forwarder
}

// New makes a transport without peers. It removes what broken transfers left in SnapDir.
func New(config Config) (*Transport, error) {
	if config.Logger == nil {
		config.Logger = zap.NewNop()
	}
	if config.Dial == nil {
		config.Dial = dialNetwork
	}
	if config.SnapshotBytesPerSecond == 0 {
		config.SnapshotBytesPerSecond = 64 << 20
	}
	config.Observer.fill()
	r, err := newReceiver(config.FS, config.SnapDir)
	if err != nil {
		return nil, err
	}
	r.freeBytes, r.synced = config.FreeBytes, config.Observer.SnapshotSynced
	t := &Transport{config: config, log: config.Logger, receiver: r}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.mu.peers = make(map[uint64]*peer)
	return t, nil
}

// Attach begins delivery. Until then peers that connect are told to try again.
func (t *Transport) Attach(handler raftnode.Handler, forwarder Forwarder) {
	t.target.Store(&target{handler: handler, forwarder: forwarder})
}

// Send implements raftnode.Transport.
func (t *Transport) Send(messages []*raftpb.Message) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, m := range messages {
		if p := t.mu.peers[m.GetTo()]; p != nil {
			p.send(m)
		}
	}
}

// AddPeer begins to connect to a member. Known members are updated; adding oneself does nothing.
func (t *Transport) AddPeer(id uint64, urls []string) {
	if id == t.config.ID {
		return
	}
	t.UpdatePeer(id, urls)
}

// UpdatePeer connects to a member at other addresses; unknown members are added.
func (t *Transport) UpdatePeer(id uint64, urls []string) {
	if id == t.config.ID {
		return
	}
	addresses, err := addressesOf(urls)
	if err != nil {
		t.log.Warn("peer has no usable URL", zap.String("peer", fmt.Sprintf("%x", id)), zap.Error(err))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed {
		return
	}
	old := t.mu.peers[id]
	if old != nil && old.sameAddresses(addresses) {
		return
	}
	p, err := newPeer(t, id, addresses)
	if err != nil {
		t.log.Warn("cannot set up peer", zap.String("peer", fmt.Sprintf("%x", id)), zap.Error(err))
		return
	}
	t.mu.peers[id] = p
	if old != nil {
		t.retireLocked(old)
	} else {
		t.config.Observer.PeerKnown(id, true)
	}
}

// RemovePeer closes the streams to a member. What is queued for it is dropped.
func (t *Transport) RemovePeer(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.mu.peers[id]; p != nil {
		delete(t.mu.peers, id)
		t.config.Observer.PeerKnown(id, false)
		t.retireLocked(p)
	}
}

// retireLocked closes a peer in the background, since its goroutines may be inside the handler, whose owner may be
// the caller.
func (t *Transport) retireLocked(p *peer) {
	p.cancel()
	t.tasks.Go(p.close)
}

// ActiveSince implements raftnode.Transport.
func (t *Transport) ActiveSince(id uint64) time.Time {
	if p := t.peer(id); p != nil {
		return p.activeSince()
	}
	return time.Time{}
}

// Conn is the connection to a member, for calls of peerpb.Peer. It stays owned by the transport.
func (t *Transport) Conn(id uint64) (*grpc.ClientConn, error) {
	if p := t.peer(id); p != nil {
		return p.conn, nil
	}
	return nil, fmt.Errorf("%w: %x", ErrUnknownPeer, id)
}

// DialURLs connects to a member that is known by its peer URLs only, as one that joins must. The caller closes it.
func (t *Transport) DialURLs(urls []string) (*grpc.ClientConn, error) {
	addresses, err := addressesOf(urls)
	if err != nil {
		return nil, err
	}
	return t.dial(addresses)
}

func (t *Transport) peer(id uint64) *peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.mu.peers[id]
}

// Close ends all streams to peers and joins their goroutines. The gRPC server is its owner's to stop, before this.
func (t *Transport) Close() {
	t.mu.Lock()
	peers := t.mu.peers
	t.mu.closed, t.mu.peers = true, nil
	t.mu.Unlock()
	t.cancel()
	for _, p := range peers {
		p.close()
		t.config.Observer.PeerKnown(p.id, false)
	}
	t.tasks.Wait()
	t.receiver.close()
}

func (t *Transport) reportUnreachable(id uint64) {
	t.config.Observer.SendFailed(id)
	if target := t.target.Load(); target != nil {
		target.handler.ReportUnreachable(id)
	}
}

func (t *Transport) hello(to uint64) *peerpb.Hello {
	return &peerpb.Hello{ClusterId: t.config.ClusterID, From: t.config.ID, To: to, Version: t.config.Version}
}

func (o *Observer) fill() {
	o.Sent, o.Received = orNothing2(o.Sent), orNothing2(o.Received)
	o.SendFailed, o.ReceiveFailed = orNothing1(o.SendFailed), orNothing1(o.ReceiveFailed)
	o.RoundTrip = orNothing2(o.RoundTrip)
	o.PeerKnown, o.PeerActive = orNothing2(o.PeerKnown), orNothing2(o.PeerActive)
	o.SnapshotSending, o.SnapshotReceiving = orNothing1(o.SnapshotSending), orNothing1(o.SnapshotReceiving)
	o.SnapshotSynced = orNothing1(o.SnapshotSynced)
	o.SnapshotSent, o.SnapshotReceived = orNothing3(o.SnapshotSent), orNothing3(o.SnapshotReceived)
}

func orNothing1[A any](f func(A)) func(A) {
	if f == nil {
		return func(A) {}
	}
	return f
}

func orNothing2[A, B any](f func(A, B)) func(A, B) {
	if f == nil {
		return func(A, B) {}
	}
	return f
}

func orNothing3[A, B, C any](f func(A, B, C)) func(A, B, C) {
	if f == nil {
		return func(A, B, C) {}
	}
	return f
}
