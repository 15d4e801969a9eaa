package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/raftnode/memnet"
	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/server/tlsconfig"
)

// Cluster is a set of members on one in-memory network. Its methods are for the goroutine of the test; they fail the
// test on what the test did not ask for.
type Cluster struct {
	t       testing.TB
	network *memnet.Network
	options options
	dir     string
	id      string
	// members that are part of the cluster; one that was removed is not.
	members []*Member
	founded int // how many members there ever were
	events  events
	// atWork are the members that are under maintenance right now.
	atWork struct {
		sync.Mutex
		busy     map[*Member]string
		problems []string
	}
}

type options struct {
	members   int
	configure []func(*config.Config)
	logger    *zap.Logger
	seed      uint64
	patience  time.Duration
	dataDirs  []string
	tls       *tls.Config // of clients; nil without TLS
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
	return Configure(func(c *config.Config) { c.AutoCompaction = periodic(window) })
}

func periodic(window time.Duration) config.Retention {
	return config.Retention{Mode: config.CompactPeriodic, Period: window}
}

// Heartbeat sets the heartbeat interval, and the election timeout to ten of them. Heartbeats are what costs in virtual
// time: at 100 ms, the default, an hour has 36,000 and takes a second or two; at 1 s it takes a tenth of that. The
// shortest lease and the patience with a lost leader grow along.
func Heartbeat(interval time.Duration) Option {
	return func(o *options) {
		o.patience = max(o.patience, 60*interval)
		Configure(func(c *config.Config) { c.HeartbeatInterval, c.ElectionTimeout = interval, 10*interval })(o)
	}
}

// Configure changes the configuration of every member before it starts.
func Configure(change func(*config.Config)) Option {
	return func(o *options) { o.configure = append(o.configure, change) }
}

// TLS makes every connection one of TLS. All members show the certificate in side, to clients and to each other, so it
// must have their addresses, 127.0.1.1, 127.0.1.2 and so on; clients connect with the configuration client. See tests/certs.
func TLS(side tlsconfig.Settings, client *tls.Config) Option {
	return func(o *options) {
		o.tls = client
		Configure(func(c *config.Config) { c.ClientTLS, c.PeerTLS = side, side })(o)
	}
}

// Logger sends the members' logs somewhere; without it they are dropped.
func Logger(l *zap.Logger) Option { return func(o *options) { o.logger = l } }

// Seed fixes what is random in the network, the jitter of SlowLink; 1 without it.
func Seed(seed uint64) Option { return func(o *options) { o.seed = seed } }

// DataDirs starts the members on existing data directories, such as restored ones, in the order of the members and for
// their names and peer URLs. See Founders.
func DataDirs(dirs ...string) Option {
	return func(o *options) { o.members, o.dataDirs = len(dirs), dirs }
}

// Start founds a cluster and returns once every member serves clients.
func Start(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	o := options{members: 3, logger: zap.NewNop(), seed: 1, patience: 30 * time.Second}
	for _, opt := range opts {
		opt(&o)
	}
	if o.members < 1 {
		t.Fatalf("cluster: Members(%d): a cluster has at least one", o.members)
	}
	c := &Cluster{t: t, network: memnet.New(o.seed), options: o, dir: t.TempDir()}
	c.id = fmt.Sprintf("%s %p", t.Name(), c)
	c.events.init()
	c.atWork.busy = map[*Member]string{}
	for i := range o.members {
		m := c.newMember(config.ClusterNew)
		if o.dataDirs != nil {
			m.dir = o.dataDirs[i]
		}
		c.members = append(c.members, m)
	}
	t.Cleanup(c.finish)
	c.startAll()
	for _, m := range c.members {
		m.WaitReady()
	}
	return c
}

// startAll starts the founders side by side: one that comes up alone asks for votes that nobody hears yet, and waits for
// another election timeout.
func (c *Cluster) startAll() {
	c.t.Helper()
	errs := make([]error, len(c.members))
	var starts sync.WaitGroup
	for i, m := range c.members {
		m.initial = c.initialCluster()
		starts.Go(func() { errs[i] = m.tryStart() })
	}
	starts.Wait()
	for i, err := range errs {
		if err != nil {
			c.t.Fatalf("cluster: starting %s: %v", c.members[i].Name, err)
		}
	}
}

// Founders are the names and peer URLs of the members that Start founds a cluster of n with, so that data directories
// can be made for them before; see DataDirs.
func Founders(n int) []config.Member {
	var out []config.Member
	for i := range n {
		m := &Member{Name: nameOf(i), Host: hostOf(i)}
		out = append(out, config.Member{Name: m.Name, PeerURLs: []string{m.PeerURL()}})
	}
	return out
}

// initialCluster names every member that the cluster has by now.
func (c *Cluster) initialCluster() []config.Member {
	var out []config.Member
	for _, m := range c.members {
		out = append(out, config.Member{Name: m.Name, PeerURLs: []string{m.PeerURL()}})
	}
	return out
}

// Member returns one member, counted from 0 in the order in which they came.
func (c *Cluster) Member(i int) *Member {
	c.t.Helper()
	if i < 0 || i >= len(c.members) {
		c.t.Fatalf("cluster: Member(%d): there are %d members, counted from 0", i, len(c.members))
	}
	return c.members[i]
}

// Members returns all members, stopped ones too.
func (c *Cluster) Members() []*Member { return slices.Clone(c.members) }

func (c *Cluster) running() []*Member {
	return slices.DeleteFunc(c.Members(), func(m *Member) bool { return !m.Running() })
}

// Network is what connects the members, for faults beyond the verbs of Cluster. Member.Host is a member's name on it,
// ClientHost that of all clients.
func (c *Cluster) Network() *memnet.Network { return c.network }

// ClientHost is where clients are on the network.
const ClientHost = "client"

// Client returns a client of a running member.
func (c *Cluster) Client() *clientv3.Client {
	c.t.Helper()
	for _, m := range c.members {
		if m.Running() && !m.paused {
			return m.Client()
		}
	}
	c.t.Fatal("cluster: every member is stopped or paused; Restart or Resume one before asking for a client")
	return nil
}

// context bounds one request of a verb.
func (c *Cluster) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), c.options.patience)
}

// Put writes one pair and returns its revision.
func (c *Cluster) Put(key, value string) int64 {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	resp, err := c.Client().Put(ctx, key, value)
	if err != nil {
		c.t.Fatalf("cluster: put %s: %v", key, err)
	}
	return resp.Header.Revision
}

// Get reads one key; ok is false if it does not exist.
func (c *Cluster) Get(key string) (value string, ok bool) {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	resp, err := c.Client().Get(ctx, key)
	if err != nil {
		c.t.Fatalf("cluster: get %s: %v", key, err)
	}
	if len(resp.Kvs) == 0 {
		return "", false
	}
	return string(resp.Kvs[0].Value), true
}

func (c *Cluster) newMember(state config.ClusterState) *Member {
	i := c.founded
	c.founded++
	return &Member{
		Name: nameOf(i), Host: hostOf(i), cluster: c, state: state, dir: filepath.Join(c.dir, nameOf(i)), disk: newDisk(),
	}
}

func nameOf(i int) string { return fmt.Sprintf("m%d", i) }
func hostOf(i int) string { return fmt.Sprintf("127.0.%d.%d", 1+i/250, 1+i%250) }
