package transport

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/upkeep-kv/upkeep/proto/peerpb"
)

const (
	// defaultProbeInterval is how often the round trip to a peer is measured, and probeTimeout how long one may take.
	defaultProbeInterval = 3 * time.Second
	probeTimeout         = 3 * time.Second
	// keepaliveInterval and keepaliveTimeout find a peer that vanished without a word. The timeout also bounds how
	// long TCP retransmits, so that a healed network is used again at once instead of after TCP's long back-off.
	keepaliveInterval = 10 * time.Second
	keepaliveTimeout  = 5 * time.Second
	// reconnectMin and reconnectMax bound the pause between attempts to reach a peer that is away.
	reconnectMin = 20 * time.Millisecond
	reconnectMax = 500 * time.Millisecond
	// connectTimeout bounds one attempt, and secureTimeout what comes on top of it where there is a handshake, in which
	// the other side may look up names.
	connectTimeout = 2 * time.Second
	secureTimeout  = 10 * time.Second
)

// peer is another member: a connection, two lanes and a probe. close joins them.
type peer struct {
	transport *Transport
	id        uint64
	addresses []string
	conn      *grpc.ClientConn
	log       *zap.Logger
	// control carries what is small and urgent, bulk the entries.
	control, bulk *lane

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu struct {
		sync.Mutex
		// since is when the control stream was accepted; zero while there is none.
		since time.Time
		// refusal is the last reason for which the peer did not want this member.
		refusal string
		lost    bool // logged that the peer is away
	}
}

func newPeer(t *Transport, id uint64, addresses []string) (*peer, error) {
	conn, err := t.dial(addresses)
	if err != nil {
		return nil, err
	}
	p := &peer{transport: t, id: id, addresses: addresses, conn: conn}
	p.log = t.log.With(zap.String("local-member-id", fmt.Sprintf("%x", t.config.ID)),
		zap.String("remote-peer-id", fmt.Sprintf("%x", id)))
	p.ctx, p.cancel = context.WithCancel(t.ctx)
	p.control = newLane(p, controlLane)
	p.bulk = newLane(p, bulkLane)
	p.tasks.Go(p.control.run)
	p.tasks.Go(p.bulk.run)
	p.tasks.Go(p.probe)
	return p, nil
}

// send puts a message into its lane. Entries, and proposals on their way to the leader, are bulk; so is an append
// without entries, because it must not overtake those before it.
func (p *peer) send(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgProp:
		p.bulk.enqueue(m)
	default:
		p.control.enqueue(m)
	}
}

func (p *peer) close() {
	p.cancel()
	p.conn.Close()
	p.tasks.Wait()
}

func (p *peer) sameAddresses(addresses []string) bool { return slices.Equal(p.addresses, addresses) }

func (p *peer) activeSince() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.since
}

// becomeActive is called when the peer accepted the control stream.
func (p *peer) becomeActive() {
	p.mu.Lock()
	p.mu.since, p.mu.refusal = time.Now(), ""
	p.mu.lost = false
	p.mu.Unlock()
	p.log.Info("peer became active")
	p.transport.config.Observer.PeerActive(p.id, true)
}

// becomeInactive is called when the control stream ended or could not be opened.
func (p *peer) becomeInactive(cause error) {
	p.mu.Lock()
	wasActive, first := !p.mu.since.IsZero(), !p.mu.lost
	p.mu.since, p.mu.lost = time.Time{}, true
	p.mu.Unlock()
	if wasActive {
		p.transport.config.Observer.PeerActive(p.id, false)
	}
	if first && p.ctx.Err() == nil {
		p.log.Warn("peer became inactive (message send to peer failed)", zap.Error(cause))
	}
}

// refused logs a peer's refusal once for each different reason.
func (p *peer) refused(reason error) {
	p.mu.Lock()
	known := p.mu.refusal == reason.Error()
	p.mu.refusal = reason.Error()
	p.mu.Unlock()
	if known {
		return
	}
	p.log.Error("peer refuses this member's messages", zap.Error(reason))
	if p.transport.config.Refused != nil {
		p.transport.config.Refused(p.id, reason)
	}
}

// probe measures round trips while the peer is active.
func (p *peer) probe() {
	ticker := time.NewTicker(cmp.Or(p.transport.config.ProbeInterval, defaultProbeInterval))
	defer ticker.Stop()
	client := peerpb.NewPeerClient(p.conn)
	for {
		select {
		case <-ticker.C:
		case <-p.ctx.Done():
			return
		}
		if p.activeSince().IsZero() {
			continue
		}
		ctx, cancel := context.WithTimeout(p.ctx, probeTimeout)
		start := time.Now()
		// A header without an id names no transfer: the answer is position 0.
		_, err := client.SnapshotOffset(ctx, &peerpb.SnapshotHeader{Hello: p.transport.hello(p.id)})
		cancel()
		if err == nil {
			p.transport.config.Observer.RoundTrip(p.id, time.Since(start))
		}
	}
}

// dial makes a connection that tries the addresses, which are URLs, in turn, for as long as it is open.
func (t *Transport) dial(addresses []string) (*grpc.ClientConn, error) {
	builder := manual.NewBuilderWithScheme("peer")
	var endpoints []resolver.Endpoint
	for _, a := range addresses {
		endpoints = append(endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	builder.InitialState(resolver.State{Endpoints: endpoints})
	timeout := connectTimeout
	if slices.ContainsFunc(addresses, isSecure) {
		timeout += secureTimeout
	}
	first, err := url.Parse(addresses[0])
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("peer:///"+cmp.Or(first.Host, "localhost"),
		grpc.WithResolvers(builder),
		grpc.WithContextDialer(t.connect),
		// What connect returns is secure already where it has to be.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithStaticConnWindowSize(windowBytes), grpc.WithStaticStreamWindowSize(windowBytes),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: reconnectMin, Multiplier: 2, Jitter: 0.2, MaxDelay: reconnectMax},
			MinConnectTimeout: timeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveInterval, Timeout: keepaliveTimeout, PermitWithoutStream: true,
		}),
	)
}
