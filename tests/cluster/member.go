package cluster

import (
	"context"
	"net"
	"net/url"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/server"
	"github.com/upkeep-kv/upkeep/server/config"
)

const (
	clientPort = 2379
	peerPort   = 2380
	// logSegmentBytes is small, since a segment is made ahead and read whole at every start and by the checks at the end.
	logSegmentBytes = 4 << 20
)

// Member is one member, running or stopped.
type Member struct {
	Name string
	// Host is the member's name on the network.
	Host    string
	cluster *Cluster
	dir     string
	state   config.ClusterState
	initial []config.Member
	// changes of the configuration of this member alone.
	changes []func(*config.Config)
	disk    *disk
	paused  bool
	learner bool
	// damaged: the test has written to the member's files, so they are not checked.
	damaged bool

	mu struct {
		sync.Mutex
		server *server.Server // nil while the member is stopped
		client *clientv3.Client
	}
}

// PeerURL is where other members reach this one; ClientURL is where clients do.
func (m *Member) PeerURL() string   { return m.urlOf(peerPort).String() }
func (m *Member) ClientURL() string { return m.urlOf(clientPort).String() }

func (m *Member) urlOf(port int) *url.URL {
	scheme := "http"
	if m.cluster != nil && m.cluster.options.tls != nil {
		scheme = "https"
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(m.Host, strconv.Itoa(port))}
}

// Server is the running member, nil while it is stopped.
func (m *Member) Server() *server.Server {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.server
}

// Running tells whether the member is started. A paused one is.
func (m *Member) Running() bool { return m.Server() != nil }

// DataDir is the member's directory.
func (m *Member) DataDir() string { return m.dir }

// mustRun refuses a verb on a member that is stopped or paused.
func (m *Member) mustRun(verb string) *server.Server {
	m.cluster.t.Helper()
	s := m.Server()
	switch {
	case s == nil:
		m.cluster.t.Fatalf("cluster: %s of %s: it is stopped; Restart it first", verb, m.Name)
	case m.paused:
		m.cluster.t.Fatalf("cluster: %s of %s: it is paused; Resume it first", verb, m.Name)
	}
	return s
}

func (m *Member) config() *config.Config {
	cfg := config.Default()
	cfg.Name, cfg.DataDir = m.Name, m.dir
	cfg.ListenPeerURLs = []url.URL{*m.urlOf(peerPort)}
	cfg.ListenClientURLs = []url.URL{*m.urlOf(clientPort)}
	cfg.AdvertisePeerURLs, cfg.AdvertiseClientURLs = cfg.ListenPeerURLs, cfg.ListenClientURLs
	cfg.InitialCluster, cfg.InitialClusterState = m.initial, m.state
	for _, change := range m.cluster.options.configure {
		change(cfg)
	}
	for _, change := range m.changes {
		change(cfg)
	}
	return cfg
}

func (m *Member) start() {
	m.cluster.t.Helper()
	if err := m.tryStart(); err != nil {
		m.cluster.t.Fatalf("cluster: starting %s: %v", m.Name, err)
	}
}

func (m *Member) tryStart() (err error) {
	m.cluster.t.Helper()
	if m.Running() {
		m.cluster.t.Fatalf("cluster: %s runs already", m.Name)
	}
	c := m.cluster
	var s *server.Server
	c.labelled(func() {
		s, err = server.Start(context.Background(), m.config(), server.Options{
			Logger: c.options.logger.Named(m.Name),
			Listen: func(_, address string) (net.Listener, error) { return c.network.Listen(address) },
			Dial:   c.network.Host(m.Host).Dial,
			Disk: server.Disk{
				FS: m.disk, BeforeCommit: m.disk.beforeCommit, FreeBytes: m.disk.freeBytes, NoSync: true,
				LogSegmentBytes: logSegmentBytes,
			},
			Changed: c.events.happened,
			Working: func(kind string, working bool) {
				if working {
					c.workBegins(m, kind)
				} else {
					c.workEnds(m)
				}
			},
		})
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.server = s
	return nil
}

// WaitReady waits until the member serves clients.
func (m *Member) WaitReady() {
	m.cluster.t.Helper()
	s := m.mustRun("WaitReady")
	timer := time.NewTimer(m.cluster.options.patience)
	defer timer.Stop()
	select {
	case <-s.Ready():
	case <-s.Done():
		m.cluster.t.Fatalf("cluster: %s stopped by itself: %v", m.Name, s.Err())
	case <-timer.C:
		m.cluster.t.Fatalf("cluster: %s was not ready after %v\n%s", m.Name, m.cluster.options.patience, m.cluster.describe())
	}
}

// Client returns the member's own client. It lives until the member stops.
func (m *Member) Client() *clientv3.Client {
	m.cluster.t.Helper()
	m.mustRun("Client")
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.client == nil {
		m.mu.client = m.newClient()
	}
	return m.mu.client
}

// NewClient returns another client, which outlives restarts of the member, for use in a goroutine of the test. It is
// closed when the test ends.
func (m *Member) NewClient() *clientv3.Client {
	m.cluster.t.Helper()
	client := m.newClient()
	m.cluster.t.Cleanup(func() { client.Close() })
	return client
}

func (m *Member) newClient() (client *clientv3.Client) {
	m.cluster.t.Helper()
	var err error
	m.cluster.labelled(func() {
		client, err = clientv3.New(clientv3.Config{
			Endpoints:   []string{m.ClientURL()},
			TLS:         m.cluster.options.tls,
			DialOptions: []grpc.DialOption{grpc.WithContextDialer(m.cluster.network.Host(ClientHost).Dial)},
			Logger:      zap.NewNop(),
		})
	})
	if err != nil {
		m.cluster.t.Fatalf("cluster: client of %s: %v", m.Name, err)
	}
	return client
}

// detach forgets server and client; the client is closed.
func (m *Member) detach() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.client != nil {
		m.mu.client.Close()
	}
	m.mu.client, m.mu.server = nil, nil
}

// Stop stops the member in good order.
func (m *Member) Stop() {
	m.cluster.t.Helper()
	s := m.mustRun("Stop")
	m.detach()
	if err := s.Close(); err != nil {
		m.cluster.t.Errorf("cluster: stopping %s: %v", m.Name, err)
	}
}

// Kill ends the member as a power cut would: what it had not synced is lost, nobody is told, and its connections break.
// The database is left as its last commit made it. A paused member can be killed too.
func (m *Member) Kill() {
	m.cluster.t.Helper()
	s := m.Server()
	if s == nil {
		m.cluster.t.Fatalf("cluster: Kill of %s: it is stopped", m.Name)
	}
	m.paused = false
	m.cluster.network.Isolate(m.Host)
	m.disk.powerOff()
	m.cluster.network.Crash(m.Host)
	m.detach()
	s.Kill()
	m.cluster.network.Rejoin(m.Host)
	if err := m.disk.powerOn(); err != nil {
		m.cluster.t.Fatalf("cluster: killing %s: %v", m.Name, err)
	}
}

// Restart starts a stopped member on its data, or stops and starts a running one, and waits until it serves.
func (m *Member) Restart() {
	m.cluster.t.Helper()
	m.Launch()
	m.WaitReady()
}

// Launch is Restart without waiting, for a member that has no quorum yet.
func (m *Member) Launch() {
	m.cluster.t.Helper()
	if m.Running() {
		m.Stop()
	}
	m.start()
}

// TryStart starts a stopped member and returns the error if it refuses, as one with damaged files does.
func (m *Member) TryStart() error {
	m.cluster.t.Helper()
	return m.tryStart()
}

// Reconfigure restarts the member, if it runs, with a changed configuration. The change holds from now on.
func (m *Member) Reconfigure(change func(*config.Config)) {
	m.cluster.t.Helper()
	m.changes = append(m.changes, change)
	if m.Running() {
		m.Restart()
	}
}
