package server

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/raftnode/transport"
	"github.com/upkeep-kv/upkeep/server/apply"
	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/server/httpapi"
	"github.com/upkeep-kv/upkeep/server/member"
	"github.com/upkeep-kv/upkeep/server/rpc"
	"github.com/upkeep-kv/upkeep/server/tracing"

	"go.etcd.io/raft/v3/raftpb"
)

// The round trip to a peer is measured every 3 s at the default heartbeat, and less often where members are far apart.
const (
	heartbeatsPerProbe = 30
	minProbeInterval   = 3 * time.Second
)

// startNode connects the machine to its peers through the log.
func (s *Server) startNode(l *openLog, opts Options) error {
	var err error
	s.transport, err = transport.New(transport.Config{
		ID: s.id, ClusterID: s.clusterID, Version: Version,
		Dial: opts.Dial, Secure: s.securePeer, FS: s.disk.fs(), SnapDir: s.dir.snap, FreeBytes: s.disk.freeBytes,
		ProbeInterval: max(minProbeInterval, heartbeatsPerProbe*s.cfg.HeartbeatInterval),
		Admit:         s.admitPeer, Refused: s.refusedByPeer,
		Logger: s.logger, Observer: s.transportObserver(),
	})
	if err != nil {
		return err
	}
	s.contacts = l.contacts
	if known := s.cluster.Members(); len(known) > 0 {
		s.contacts = known
	}
	for _, m := range s.contacts {
		s.transport.AddPeer(m.ID, m.PeerURLs)
	}
	if err := s.checkBeforeServing(); err != nil {
		return err
	}
	applied := s.backendApplied()
	var confState *raftpb.ConfState
	if applied > 0 {
		confState = s.cluster.ConfState()
	}
	view := s.backend.View()
	barrier, err := apply.Barrier(view)
	view.Close()
	if err != nil {
		return s.unusable(err)
	}
	s.node, err = raftnode.Start(raftnode.Config{
		ID: s.id, ClusterID: s.clusterID,
		WAL: l.wal, Recovered: l.recovered, ConfState: confState, Applied: applied, Barrier: barrier,
		StateMachine: s.machine, Transport: s.transport,
		TickInterval: s.cfg.HeartbeatInterval, ElectionTicks: s.cfg.ElectionTicks(), PreVote: s.cfg.PreVote,
		InitialElectionTickAdvance: s.cfg.InitialElectionTickAdvance,
		MaxRequestBytes:            int(s.cfg.MaxRequestBytes),
		Coalesce:                   s.cfg.CoalesceProposals,
		CatchUpEntries:             s.cfg.SnapshotCatchUpEntries,
		SnapshotEntries:            s.cfg.SnapshotCount,
		RequestTimeout:             s.cfg.requestTimeout(),
		SaveSnap:                   s.saveSnap,
		Logger:                     s.logger,
		Observer:                   s.nodeObserver(),
	})
	if err != nil {
		return err
	}
	s.transport.Attach(s.node, peerService{s})
	return nil
}

// admitPeer refuses the streams of members that were removed.
func (s *Server) admitPeer(from uint64) error {
	if s.cluster.IsRemoved(from) {
		return member.ErrIDRemoved
	}
	return nil
}

// membershipChanged keeps the peers in step with the membership, whatever changed it: a change that was applied, or a
// state transfer. Called by apply.
func (s *Server) membershipChanged() {
	if s.transport == nil {
		return // offline, in Migrate
	}
	for _, m := range s.cluster.Members() {
		s.transport.UpdatePeer(m.ID, m.PeerURLs)
	}
	for _, id := range s.cluster.Removed() {
		s.transport.RemovePeer(id)
	}
	s.learner.Store(s.cluster.IsLearner(s.id))
}

// serve opens the peer ports and the ports that do not wait for a quorum.
func (s *Server) serve() error {
	options := s.rpcOptions()
	var err error
	if s.tracer, err = s.openTracer(); err != nil {
		return err
	}
	if s.tracer != nil {
		options.ServerOptions = append(options.ServerOptions, s.tracer.ServerOption())
	}
	if s.clients, err = rpc.NewServer(s.rpcDeps(), options); err != nil {
		return err
	}
	for service, info := range s.clients.GetServiceInfo() {
		for _, method := range info.Methods {
			s.metrics.DeclareMethod(methodKind(method), service, method.Name)
		}
	}
	s.openGateway()
	s.peers = s.transport.NewServer()
	for _, l := range s.listeners.peerGRPC {
		s.background.Go(func() { s.ended("peer gRPC", s.peers.Serve(l)) })
	}
	s.serveHTTP(s.peerHandler(), s.listeners.peerHTTP, s.peers)
	s.serveHTTP(s.metricsHandler(), s.listeners.metricsHTTP, nil)
	return nil
}

// openTracer returns nil without --enable-distributed-tracing.
func (s *Server) openTracer() (*tracing.Tracer, error) {
	t := s.cfg.Tracing
	if !t.Enabled {
		return nil, nil
	}
	s.logger.Info("distributed tracing enabled", zap.String("address", t.Address), zap.String("service-name", t.Service),
		zap.String("service-instance-id", t.InstanceID), zap.Int("sampling-rate", t.SamplingRate))
	return tracing.Open(context.Background(), tracing.Config{
		Address: t.Address, Service: t.Service, InstanceID: t.InstanceID, Version: Version, PerMillion: t.SamplingRate, Logger: s.logger,
	})
}

// methodKind is the word for a method's shape in metrics.
func methodKind(m grpc.MethodInfo) string {
	switch {
	case m.IsClientStream && m.IsServerStream:
		return "bidi_stream"
	case m.IsClientStream:
		return "client_stream"
	case m.IsServerStream:
		return "server_stream"
	}
	return "unary"
}

// manyKeys make it worth a tenth of a second to give back the memory that only the start needed.
const manyKeys = 100_000

// serveClients lets clients in. What connected before waited in the listener's queue.
func (s *Server) serveClients() {
	if s.store.Stats().Keys > manyKeys {
		// What reading them left behind is as large as what stays of them.
		debug.FreeOSMemory()
	}
	for _, l := range s.listeners.clientGRPC {
		s.background.Go(func() { s.ended("client gRPC", s.clients.Serve(l)) })
	}
	mixed := s.clients
	if len(s.cfg.ListenClientHTTPURLs) > 0 {
		mixed = nil // gRPC has ports of its own
	}
	s.serveHTTP(s.clientHandler(), s.listeners.clientHTTP, mixed)
	close(s.ready)
	for _, u := range s.cfg.ListenClientURLs {
		message := "serving client traffic insecurely; this is strongly discouraged!"
		if config.IsSecure(&u) {
			message = "serving client traffic securely"
		}
		s.logger.Info(message, zap.String("address", u.Host+u.Path))
	}
	s.logger.Info("ready to serve client requests")
}

const (
	// readHeaderTimeout cuts off connections that never get to their request.
	readHeaderTimeout = 5 * time.Minute
	// idleTimeout cuts off connections that have nothing more to ask.
	idleTimeout = 10 * time.Minute
)

// serveHTTP serves handler, and calls of mixed, unless that is nil, where HTTP/2 may bring them.
func (s *Server) serveHTTP(handler http.Handler, ports []port, mixed *grpc.Server) {
	for _, l := range ports {
		server := &http.Server{Handler: handler, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout}
		if config.IsSecure(&l.url) {
			httpapi.Secure(server, mixed)
		}
		s.background.Go(func() { s.ended("HTTP", server.Serve(l)) })
		s.background.Go(func() {
			<-s.stopping
			server.Close()
		})
	}
}

// ended notes why a listener stopped, unless the server is stopping.
func (s *Server) ended(what string, err error) {
	select {
	case <-s.stopping:
	default:
		if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			s.logger.Error("a listener failed", zap.String("listener", what), zap.Error(err))
		}
	}
}

// peerService answers what other members ask besides raft.
type peerService struct{ *Server }

func (p peerService) Members(context.Context, *peerpb.MembersRequest) (*peerpb.MembersResponse, error) {
	return &peerpb.MembersResponse{
		ClusterId:      p.clusterID,
		Members:        members(p).Members(),
		Removed:        p.cluster.Removed(),
		ClusterVersion: p.cluster.Version(),
	}, nil
}

// leaderOnly runs a forwarded call if this member leads.
func leaderOnly[Q, R any](ctx context.Context, s *Server, req Q, call func(context.Context, Q) (R, error)) (R, error) {
	if !s.node.IsLeader() {
		var none R
		return none, status.Error(codes.Aborted, raftnode.ErrNotLeader.Error())
	}
	resp, err := call(ctx, req)
	if err != nil && wrongLeader(err) {
		return resp, status.Error(codes.Aborted, err.Error())
	}
	return resp, rpc.Status(err)
}

func (p peerService) LeaseKeepAlive(ctx context.Context, req *pb.LeaseKeepAliveRequest) (*pb.LeaseKeepAliveResponse, error) {
	return leaderOnly(ctx, p.Server, req.ID, leases(p).renewHere)
}

func (p peerService) LeaseTimeToLive(ctx context.Context, req *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	return leaderOnly(ctx, p.Server, req, leases(p).timeToLiveHere)
}

func (p peerService) MemberPromote(ctx context.Context, req *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	return leaderOnly(ctx, p.Server, req.ID, members(p).promoteHere)
}

func (p peerService) HashKV(ctx context.Context, req *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	if req.Revision > p.store.Revision() {
		// Whoever asks has applied that revision. If it does not come up here either, it never will.
		if err := p.node.LinearizableRead(ctx); err != nil {
			return nil, rpc.Status(err)
		}
	}
	resp, err := upkeep(p).HashKV(ctx, req.Revision)
	if err != nil {
		return nil, rpc.Status(err)
	}
	resp.Header = headers(p).Header()
	return resp, nil
}
