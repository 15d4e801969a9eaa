package cluster

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/raftnode/memnet"
	"github.com/upkeep-kv/upkeep/server"
	"github.com/upkeep-kv/upkeep/server/config"
)

const (
	clientPort = 2379
	peerPort   = 2380
	// patience bounds every wait for the cluster, in the time of the test, virtual or real.
	patience = 30 * time.Second
)

// Cluster is a set of members on one in-memory network. Its methods are for the goroutine of the test; they fail the
// test on what the test did not ask for.
type Cluster struct {
	t       testing.TB
	network *memnet.Network
	options options
	dir     string
	members []*Member
}

type options struct {
	members   int
	configure []func(*config.Config)
	logger    *zap.Logger
	seed      uint64
}

// Option changes how a cluster is started.
type Option func(*options)

// Members sets how many members the cluster is founded with; 3 without it.
func Members(n int) Option { return func(o *options) { o.members = n } }

// Quota sets --quota-backend-bytes of every member.
func Quota(bytes int64) Option {
	return Configure(func(c *config.Config) { c.QuotaBackendBytes = bytes })
}

// Retention keeps a time window of history.
func Retention(window time.Duration) Option {
	return Configure(func(c *config.Config) {
		c.AutoCompaction = config.Retention{Mode: config.CompactPeriodic, Period: window}
	})
}

// Configure changes the configuration of every member before it starts.
func Configure(change func(*config.Config)) Option {
	return func(o *options) { o.configure = append(o.configure, change) }
}

// Logger sends the members' logs somewhere; without it they are dropped.
func Logger(l *zap.Logger) Option { return func(o *options) { o.logger = l } }

// Start founds a cluster and returns once every member serves clients.
func Start(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	o := options{members: 3, logger: zap.NewNop(), seed: 1}
	for _, opt := range opts {
		opt(&o)
	}
	c := &Cluster{t: t, network: memnet.New(o.seed), options: o, dir: t.TempDir()}
	for i := range o.members {
		c.members = append(c.members, c.newMember(i, config.ClusterNew))
	}
	for _, m := range c.members {
		m.initial = c.initialCluster()
		m.start()
	}
	t.Cleanup(c.finish)
	for _, m := range c.members {
		m.WaitReady()
	}
	return c
}

// initialCluster names every member that the cluster has by now.
func (c *Cluster) initialCluster() []config.Member {
	var out []config.Member
	for _, m := range c.members {
		out = append(out, config.Member{Name: m.Name, PeerURLs: []string{m.PeerURL()}})
	}
	return out
}

// Member returns one member, counted from 0.
func (c *Cluster) Member(i int) *Member { return c.members[i] }

// Members returns all members, stopped ones too.
func (c *Cluster) Members() []*Member { return slices.Clone(c.members) }

// Network is where members can be partitioned and slowed down, by Member.Host.
func (c *Cluster) Network() *memnet.Network { return c.network }

// Client returns a client of a running member.
func (c *Cluster) Client() *clientv3.Client {
	for _, m := range c.members {
		if m.Running() {
			return m.Client()
		}
	}
	c.t.Fatal("cluster: every member is stopped; Restart one before asking for a client")
	return nil
}

// Put writes one pair and returns its revision.
func (c *Cluster) Put(key, value string) int64 {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := c.Client().Put(ctx, key, value)
	if err != nil {
		c.t.Fatalf("put %s: %v", key, err)
	}
	return resp.Header.Revision
}

// Leader waits until the running members agree on a leader that runs, and returns it.
func (c *Cluster) Leader() *Member {
	c.t.Helper()
	var leader *Member
	c.Wait("a leader that all running members agree on", func() bool {
		leader = nil
		for _, m := range c.members {
			if !m.Running() {
				continue
			}
			lead := m.Server().Leader()
			if lead == 0 || (leader != nil && leader.Server().ID() != lead) {
				return false
			}
			if leader == nil {
				if leader = c.byID(lead); leader == nil || !leader.Running() {
					return false
				}
			}
		}
		return leader != nil
	})
	return leader
}

func (c *Cluster) byID(id uint64) *Member {
	for _, m := range c.members {
		if m.Running() && m.Server().ID() == id {
			return m
		}
	}
	return nil
}

// Wait waits until condition holds, asking every 10 ms of the test's time.
func (c *Cluster) Wait(what string, condition func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("cluster: waited %v in vain for %s", patience, what)
		}
	}
}

// AddMember adds a voter or a learner and starts it. It returns once the new member serves clients.
func (c *Cluster) AddMember(learner bool) *Member {
	c.t.Helper()
	m := c.newMember(len(c.members), config.ClusterExisting)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	add := c.Client().MemberAdd
	if learner {
		add = c.Client().MemberAddAsLearner
	}
	if _, err := add(ctx, []string{m.PeerURL()}); err != nil {
		c.t.Fatalf("adding a member: %v", err)
	}
	c.members = append(c.members, m)
	m.initial = c.initialCluster()
	m.start()
	m.WaitReady()
	return m
}

// CheckHashes waits until the running members have applied the same and compares their histories.
func (c *Cluster) CheckHashes() {
	c.t.Helper()
	c.Wait("equal revisions", func() bool {
		revs := map[int64]bool{}
		for _, m := range c.members {
			if m.Running() {
				revs[m.Server().Revision()] = true
			}
		}
		return len(revs) <= 1
	})
	hashes := map[string][]string{}
	for _, m := range c.members {
		if !m.Running() {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		h, err := m.Server().HashKV(ctx, 0)
		cancel()
		if err != nil {
			c.t.Errorf("HashKV of %s: %v", m.Name, err)
			continue
		}
		// Floors may differ for a moment; the hash is comparable only under the same one.
		id := fmt.Sprintf("floor %d", h.CompactRevision)
		hashes[id] = append(hashes[id], fmt.Sprintf("%08x@%d", h.Hash, h.HashRevision))
	}
	for floor, all := range hashes {
		if slices.Sort(all); len(slices.Compact(slices.Clone(all))) > 1 {
			c.t.Errorf("members differ at %s: %v", floor, all)
		}
	}
}

func (c *Cluster) finish() {
	if !c.t.Failed() {
		c.CheckHashes()
	}
	for _, m := range c.members {
		if m.Running() {
			m.Stop()
		}
	}
}

// Member is one member, running or stopped.
type Member struct {
	Name string
	// Host is the member's name on the network.
	Host    string
	cluster *Cluster
	dir     string
	state   config.ClusterState
	initial []config.Member
	server  *server.Server
	client  *clientv3.Client
}

func (c *Cluster) newMember(i int, state config.ClusterState) *Member {
	name := "m" + strconv.Itoa(i)
	return &Member{
		Name: name, Host: fmt.Sprintf("127.0.1.%d", i+1), cluster: c, state: state, dir: filepath.Join(c.dir, name),
	}
}

// PeerURL is where other members reach this one; ClientURL is where clients do.
func (m *Member) PeerURL() string   { return m.urlOf(peerPort).String() }
func (m *Member) ClientURL() string { return m.urlOf(clientPort).String() }

func (m *Member) urlOf(port int) *url.URL {
	return &url.URL{Scheme: "http", Host: net.JoinHostPort(m.Host, strconv.Itoa(port))}
}

// Server is the running member, nil while it is stopped.
func (m *Member) Server() *server.Server { return m.server }

// Running tells whether the member is started.
func (m *Member) Running() bool { return m.server != nil }

// DataDir is the member's directory.
func (m *Member) DataDir() string { return m.dir }

func (m *Member) start() {
	m.cluster.t.Helper()
	if m.Running() {
		m.cluster.t.Fatalf("cluster: %s runs already", m.Name)
	}
	cfg := config.Default()
	cfg.Name, cfg.DataDir = m.Name, m.dir
	cfg.ListenPeerURLs = []url.URL{*m.urlOf(peerPort)}
	cfg.ListenClientURLs = []url.URL{*m.urlOf(clientPort)}
	cfg.AdvertisePeerURLs, cfg.AdvertiseClientURLs = cfg.ListenPeerURLs, cfg.ListenClientURLs
	cfg.InitialCluster, cfg.InitialClusterState = m.initial, m.state
	for _, change := range m.cluster.options.configure {
		change(cfg)
	}
	host := m.cluster.network.Host(m.Host)
	s, err := server.Start(context.Background(), cfg, server.Options{
		Logger: m.cluster.options.logger.Named(m.Name),
		Listen: func(_, address string) (net.Listener, error) { return m.cluster.network.Listen(address) },
		Dial:   host.Dial,
	})
	if err != nil {
		m.cluster.t.Fatalf("starting %s: %v", m.Name, err)
	}
	m.server = s
}

// WaitReady waits until the member serves clients.
func (m *Member) WaitReady() {
	m.cluster.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-m.server.Ready():
	case <-m.server.Done():
		m.cluster.t.Fatalf("%s stopped by itself: %v", m.Name, m.server.Err())
	case <-timer.C:
		m.cluster.t.Fatalf("%s was not ready after %v", m.Name, patience)
	}
}

// Client returns the member's own client. It lives until the member stops.
func (m *Member) Client() *clientv3.Client {
	m.cluster.t.Helper()
	if !m.Running() {
		m.cluster.t.Fatalf("cluster: %s is stopped; Restart it before asking for its client", m.Name)
	}
	if m.client == nil {
		client, err := clientv3.New(clientv3.Config{
			Endpoints:   []string{m.ClientURL()},
			DialOptions: []grpc.DialOption{grpc.WithContextDialer(m.cluster.network.Host("client").Dial)},
			Logger:      zap.NewNop(),
		})
		if err != nil {
			m.cluster.t.Fatalf("client of %s: %v", m.Name, err)
		}
		m.client = client
	}
	return m.client
}

// Stop stops the member in good order.
func (m *Member) Stop() {
	m.cluster.t.Helper()
	if !m.Running() {
		m.cluster.t.Fatalf("cluster: %s is stopped already", m.Name)
	}
	if m.client != nil {
		m.client.Close()
		m.client = nil
	}
	if err := m.server.Close(); err != nil {
		m.cluster.t.Errorf("stopping %s: %v", m.Name, err)
	}
	m.server = nil
}

// Restart starts a stopped member on its data, or stops and starts a running one, and waits until it serves.
func (m *Member) Restart() {
	m.cluster.t.Helper()
	if m.Running() {
		m.Stop()
	}
	m.start()
	m.WaitReady()
}
