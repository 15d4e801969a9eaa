package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/backend/pace"
	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/mvcc/lease"
	"github.com/upkeep-kv/upkeep/mvcc/watch"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/quota"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/raftnode/transport"
	"github.com/upkeep-kv/upkeep/server/apply"
	"github.com/upkeep-kv/upkeep/server/auth"
	"github.com/upkeep-kv/upkeep/server/backups"
	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/server/gateway"
	"github.com/upkeep-kv/upkeep/server/integrity"
	"github.com/upkeep-kv/upkeep/server/maintenance"
	"github.com/upkeep-kv/upkeep/server/member"
	"github.com/upkeep-kv/upkeep/server/metrics"
	"github.com/upkeep-kv/upkeep/server/schedule"
	"github.com/upkeep-kv/upkeep/server/tracing"
)

// Options are what a program or a test hands in beside the configuration. The zero value serves on the network.
type Options struct {
	Logger *zap.Logger
	// Listen opens a listener for one of the configured URLs; nil listens on the network.
	Listen func(network, address string) (net.Listener, error)
	// Dial connects to a peer's address, host:port or unix:path; nil dials the network.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	Disk Disk
	// Resolver looks up SRV records and addresses for --discovery-srv; nil asks the machine's.
	Resolver *net.Resolver
	// Changed, if set, is called when what the member has applied or committed, or its leader, has changed. It runs on
	// the member's own goroutines and must not wait.
	Changed func()
	// Working, if set, is called when this member begins a piece of maintenance and when it is through with it.
	Working func(kind string, working bool)
}

// Server is one running member.
//
// The order of the fields is the order in which Start opens them; Close goes the other way.
type Server struct {
	cfg    settings
	logger *zap.Logger
	dir    dataDir
	disk   Disk
	// changed is Options.Changed; never nil.
	changed func()
	working func(kind string, working bool) // Options.Working; never nil

	id, clusterID uint64

	governor *pace.Governor // of all background work
	progress progressBoard
	// compacting is the compaction on the board; the compactor's goroutine only.
	compacting *progressEntry

	metrics  *metrics.Metrics
	backend  *backend.Backend
	walLock  io.Closer // nil before it is taken
	store    *mvcc.Store
	lessor   *lease.Lessor
	hub      *watch.Hub
	alarms   *quota.Alarms
	auth     *auth.Store
	cluster  *member.Cluster
	timeline *apply.Timeline
	schedule *schedule.State

	backups       *backups.Worker
	revisionClock *backups.Clock
	machine       *apply.Machine
	limit         quota.Limit
	tokens        auth.Tokens
	transport     *transport.Transport
	node          *raftnode.Node
	peers         *grpc.Server
	clients       *grpc.Server
	gateway       *gateway.Gateway // nil without --enable-grpc-gateway
	tracer        *tracing.Tracer  // nil without --enable-distributed-tracing
	rings         keyrings
	listeners     listeners
	compactor     *maintenance.Compactor
	checker       *integrity.Checker
	agent         *maintenance.Agent
	// coordinator runs on every member and decides on the leader. alarmed, which holds one, makes it look at once.
	coordinator *maintenance.Coordinator
	alarmed     chan struct{}
	// versionChanged, of capacity 1, wakes followVersion.
	versionChanged chan struct{}

	restarted bool            // the log was there already
	walked    bool            // all pages of the database were looked at before it was opened
	contacts  []member.Member // where peers are until the log tells
	refused   refusals

	quotaAlarm     *quotaAlarm
	images         images
	restoring      sync.Mutex   // held by the one online restore that this member conducts
	restorePause   atomic.Int64 // nanoseconds that the last replacement of the state took
	committedBytes atomic.Int64 // size of the file at the last commit
	learner        atomic.Bool

	defragmenting atomic.Int32 // defragmentations under way, by turn or not

	killed atomic.Bool // by Kill: nothing more is to reach the database

	// background joins every goroutine that the server itself starts.
	background sync.WaitGroup
	// started is closed when Start has ended, stopping when Close begins, ready when this member has published itself,
	// done when Close has ended.
	started, stopping, ready, done chan struct{}
	closing                        atomic.Bool
	err                            error // why the server stopped by itself; guarded by done
}

// Start opens the member that cfg describes and begins to serve. It returns once the member's own parts run; it does
// not wait for a quorum: Ready tells when clients are served.
func Start(ctx context.Context, cfg *config.Config, opts Options) (*Server, error) {
	cfg.Complete()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := newServer(cfg, opts)
	err := s.start(ctx, opts)
	close(s.started)
	if err != nil {
		return nil, errors.Join(advise(err), s.stop())
	}
	return s, nil
}

// newServer returns a server of which nothing is open yet.
func newServer(cfg *config.Config, opts Options) *Server {
	s := &Server{
		cfg:     settings{cfg},
		logger:  opts.Logger,
		dir:     newDataDir(cfg),
		disk:    opts.Disk,
		changed: opts.Changed,
		working: opts.Working,
		alarmed: make(chan struct{}, 1),

		versionChanged: make(chan struct{}, 1),
		started:        make(chan struct{}),
		stopping:       make(chan struct{}),
		ready:          make(chan struct{}),
		done:           make(chan struct{}),
	}
	if s.logger == nil {
		s.logger = zap.NewNop()
	}
	if s.changed == nil {
		s.changed = func() {}
	}
	if s.working == nil {
		s.working = func(string, bool) {}
	}
	s.governor = pace.New()
	s.metrics = metrics.New(prometheus.NewRegistry(), cfg.ExtensiveMetrics)
	return s
}

// start is Start in the order in which things depend on each other.
func (s *Server) start(ctx context.Context, opts Options) error {
	if opts.Dial == nil {
		opts.Dial = s.cfg.dialPeers()
	}
	if err := s.checkBootstrap(); err != nil {
		return err
	}
	if err := s.parseTokens(); err != nil {
		return err
	}
	if err := s.openKeyrings(); err != nil {
		return err
	}
	if err := s.checkDirectory(); err != nil {
		return err
	}
	if err := s.listeners.open(s.cfg, opts.Listen); err != nil {
		return err
	}
	if err := s.dir.prepare(s.logger); err != nil {
		return err
	}
	if err := s.makeKeyrings(); err != nil {
		return err
	}
	s.listeners.secure(s.rings, s.logger)
	if err := s.openBackend(ctx); err != nil {
		return err
	}
	log, err := s.openWAL(ctx, opts)
	if err != nil {
		return err
	}
	defer func() {
		if s.node == nil {
			_ = log.wal.Close() // else it is the node's
		}
	}()
	s.metrics.Identify(metrics.Identity{MemberID: s.id, Version: APIVersion, Gates: s.cfg.gates()})
	if err := s.openState(log); err != nil {
		return err
	}
	if err := s.forceNewCluster(log); err != nil {
		return err
	}
	if err := s.startNode(log, opts); err != nil {
		return err
	}
	if err := s.openBackups(); err != nil {
		return err
	}
	s.observeLevels()
	s.startAgent() // which peers may ask as soon as they are served
	if err := s.serve(); err != nil {
		return err
	}
	s.startLoops()
	s.startCoordinator()
	return nil
}

// openState builds everything that mirrors the backend.
func (s *Server) openState(log *openLog) error {
	if err := s.installTransfer(log); err != nil {
		return err
	}
	if err := s.loadState(); err != nil {
		return s.unusable(err)
	}
	return nil
}

// loadState fails only where the database holds what no server has written.
func (s *Server) loadState() error {
	var err error
	s.store, err = mvcc.Open(s.backend, s.mvccConfig())
	if err != nil {
		return err
	}
	s.lessor, err = lease.Open(s.backend, s.leaseConfig())
	if err != nil {
		return err
	}
	s.store.AttachedLeases(s.lessor.Attach)
	s.hub = watch.NewHub(s.store, s.watchConfig())

	view := s.backend.View()
	defer view.Close()
	if s.alarms, err = quota.Load(view); err != nil {
		return err
	}
	if s.auth, err = auth.Open(s.backend, s.authConfig()); err != nil {
		return err
	}
	s.timeline = &apply.Timeline{}
	if err := s.timeline.Load(view); err != nil {
		return err
	}
	s.schedule = schedule.New()
	if err := s.schedule.Load(view); err != nil {
		return err
	}
	s.cluster = member.New(s.clusterID, s.cfg.MaxLearners)
	if err := s.cluster.Load(view.ScanBucket); err != nil {
		return err
	}
	s.learner.Store(s.cluster.IsLearner(s.id))
	s.machine = apply.New(apply.Config{
		Backend: s.backend, Store: s.store, Hub: s.hub, Lessor: s.lessor, Alarms: s.alarms, Auth: s.auth,
		Members: s.cluster, Timeline: s.timeline, Schedule: s.schedule, Logger: s.logger, MembershipChanged: s.membershipChanged,
		Staged: s.dir.staged,
		Observer: &applyObserver{metrics: s.metrics, logger: s.logger, warn: s.cfg.WarningApplyDuration, alarmed: s.alarmed,
			versioned: s.versionChanged, restored: s.restorePause.Store},
	})
	return nil
}

// Ready is closed once the member has joined a quorum, published itself and serves clients.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Done is closed once the server has stopped, by Close or by itself; Err then says why.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err returns why the server stopped by itself, nil after a Close that somebody asked for. Valid after Done.
func (s *Server) Err() error { return s.err }

// ID returns the member's ID.
func (s *Server) ID() uint64 { return s.id }

// Leader returns the ID of the leader that this member follows, 0 for none.
func (s *Server) Leader() uint64 { return s.node.Lead() }

// Revision returns the newest revision that this member has applied.
func (s *Server) Revision() int64 { return s.store.Revision() }

// CompactRevision returns the floor of this member's history, -1 before the first compaction.
func (s *Server) CompactRevision() int64 { return s.store.CompactRevision() }

// Applied returns the index of the last log entry that this member has applied.
func (s *Server) Applied() uint64 { return s.node.AppliedIndex() }

// UnderMaintenance tells whether this member is at work on itself right now, by its turn or not.
func (s *Server) UnderMaintenance() bool { return s.defragmenting.Load() > 0 }

// Alarms lists the alarms that this member has applied.
func (s *Server) Alarms() []*pb.AlarmMember { return upkeep{s}.Alarms() }

// Figures are what this member says of itself to whoever plans maintenance.
func (s *Server) Figures() *schedulepb.Figures { return s.figures() }

// Maintenance is the schedule of maintenance as this member has applied it. It is shared and not to be modified.
func (s *Server) Maintenance() *schedulepb.State { return s.schedule.Now() }

// MaintenanceEvents are the events of maintenance after a sequence number, oldest first.
func (s *Server) MaintenanceEvents(after uint64) []*schedulepb.Event { return s.schedule.Events(after) }

// HashKV hashes this member's history up to rev, 0 for the newest.
func (s *Server) HashKV(ctx context.Context, rev int64) (mvcc.HashKVResult, error) {
	return s.store.HashKV(ctx, rev)
}

// Close hands over leadership where it can, stops serving, makes everything durable and releases the data directory.
func (s *Server) Close() error {
	s.handOver()
	err := s.stop()
	<-s.done
	return err
}

// Kill ends the member as a power cut would, as far as that is possible inside a living process: nothing is handed over
// and the database stays as its last commit left it. What the log still writes on its way down is for Disk.FS to refuse,
// and connections are for the network to cut. All goroutines have ended when it returns.
func (s *Server) Kill() {
	s.killed.Store(true)
	_ = s.stop() // that the database lacks something is what was asked for
	<-s.done
}

// fail stops the server because of err, from one of its own goroutines, once it has started.
func (s *Server) fail(err error) {
	go func() { //nolint:gosec // joined through done: stop waits for background, which runs the caller
		<-s.started
		s.stopFor(advise(err))
	}()
}

func (s *Server) stop() error { return s.stopFor(nil) }

// stopFor closes whatever start has opened, in reverse order.
func (s *Server) stopFor(cause error) error {
	if !s.closing.CompareAndSwap(false, true) {
		<-s.done // not in a sync.Once: whoever waits for one keeps the time of a bubble from passing
		return nil
	}
	defer close(s.done)
	if cause != nil {
		s.logger.Error("the server stops", zap.Error(cause))
	}
	close(s.stopping)
	s.err = cause
	return s.closeParts()
}

func (s *Server) closeParts() error {
	if s.killed.Load() && s.backend != nil {
		s.backend.Abandon()
	}
	if s.compactor != nil {
		s.compactor.Close()
	}
	if s.checker != nil {
		s.checker.Close()
	}
	if s.coordinator != nil {
		s.coordinator.Close()
	}
	if s.agent != nil {
		s.agent.Close()
	}
	if s.hub != nil {
		s.hub.Close()
	}
	if s.clients != nil {
		s.clients.Stop()
	}
	s.listeners.close()
	if s.gateway != nil {
		s.gateway.Close()
	}
	if s.tracer != nil {
		s.tracer.Close()
	}
	if s.lessor != nil {
		s.lessor.Close()
	}
	if s.node != nil {
		s.backend.Unbind() // else the node waits for an apply that waits for a full disk
		s.node.Stop()
	}
	if s.peers != nil {
		s.peers.Stop()
	}
	if s.transport != nil {
		s.transport.Close()
	}
	s.background.Wait()
	if s.auth != nil {
		s.auth.Close()
	}
	if s.store != nil {
		s.store.Close()
	}
	var err error
	if s.walLock != nil {
		err = s.walLock.Close()
	}
	if s.backend != nil {
		if closeErr := s.backend.Close(); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("closing the database: %w; what it lacks is in the log, and will be "+
				"applied at the next start", closeErr))
		}
	}
	return err
}
