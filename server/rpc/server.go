package rpc

import (
	"context"
	"fmt"
	"math"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/proto/v3electionpb"
	"github.com/upkeep-kv/upkeep/proto/v3lockpb"
)

// grpcOverheadBytes is what a gRPC message may be larger than the log request inside it.
const grpcOverheadBytes = 512 << 10

// MaxMessageBytes is the largest message that is received where requests may have maxRequestBytes.
func MaxMessageBytes(maxRequestBytes int) int { return maxRequestBytes + grpcOverheadBytes }

// windowBytes is how much a client may send ahead of us, on one stream or all of a connection. That it is fixed spares
// the pings by which gRPC would otherwise measure what the window should be.
const windowBytes = 4 << 20

// streamWorkers of each server take calls as they come; a call that finds none idle gets a goroutine of its own.
const streamWorkers = 64

// Defaults of Options.
const (
	defaultMaxRequestBytes   = 1536 << 10
	defaultMaxTxnOps         = 128
	defaultKeepAliveMinTime  = 5 * time.Second
	defaultKeepAliveInterval = 2 * time.Hour
	defaultKeepAliveTimeout  = 20 * time.Second
	defaultElectionTimeout   = time.Second
	defaultWarnUnaryDuration = 300 * time.Millisecond
)

func (o Options) withDefaults() Options {
	setDefault(&o.MaxRequestBytes, defaultMaxRequestBytes)
	setDefault(&o.MaxTxnOps, defaultMaxTxnOps)
	setDefault(&o.MaxConcurrentStreams, math.MaxUint32)
	setDefault(&o.KeepAliveMinTime, defaultKeepAliveMinTime)
	setDefault(&o.KeepAliveInterval, defaultKeepAliveInterval)
	setDefault(&o.KeepAliveTimeout, defaultKeepAliveTimeout)
	setDefault(&o.ElectionTimeout, defaultElectionTimeout)
	setDefault(&o.WarnUnaryDuration, defaultWarnUnaryDuration)
	return o
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// service is what every service has: its dependencies and the numbers.
type service struct {
	Deps
	callers
	opts Options
}

// NewServer returns a gRPC server with all services registered, ready to Serve. Stop ends its streams; GracefulStop
// waits for clients to end theirs, which those with open watches do not do by themselves.
func NewServer(deps Deps, opts Options) (*grpc.Server, error) {
	opts = opts.withDefaults()
	if deps.Logger == nil {
		deps.Logger = zap.NewNop()
	}
	guard := newInterceptors(deps, opts)
	server := grpc.NewServer(append([]grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec(deps.Observer)),
		grpc.MaxRecvMsgSize(MaxMessageBytes(opts.MaxRequestBytes)),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(opts.MaxConcurrentStreams),
		// Workers keep their grown stacks from call to call.
		grpc.NumStreamWorkers(streamWorkers),
		grpc.StaticConnWindowSize(windowBytes), grpc.StaticStreamWindowSize(windowBytes),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: opts.KeepAliveMinTime}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: opts.KeepAliveInterval, Timeout: opts.KeepAliveTimeout}),
		grpc.UnaryInterceptor(guard.unary),
		grpc.StreamInterceptor(guard.stream),
	}, opts.ServerOptions...)...)

	if deps.Auth == nil {
		deps.Auth = openToAll{}
	}
	who := callers{auth: deps.Auth, certificates: opts.CertificateUsers}
	deps.Proposer = signing{Proposer: deps.Proposer, callers: who}
	s := service{Deps: deps, callers: who, opts: opts}
	keys, leases := &kvService{service: s}, &leaseService{service: s}
	registerBoth(server, &pb.KV_ServiceDesc, keys)
	registerBoth(server, &pb.Watch_ServiceDesc, &watchService{service: s})
	registerBoth(server, &pb.Lease_ServiceDesc, leases)
	line := queue{kv: keys, leases: leases, watches: deps.Watches}
	registerBoth(server, &v3lockpb.Lock_ServiceDesc, &lockService{queue: line})
	registerBoth(server, &v3electionpb.Election_ServiceDesc, &electionService{queue: line})
	registerBoth(server, &pb.Cluster_ServiceDesc, &clusterService{service: s})
	registerBoth(server, &pb.Auth_ServiceDesc, &authService{service: s})
	// The health service of gRPC knows one service, "", which is SERVING from the start.
	alive := health.NewServer()
	healthpb.RegisterHealthServer(server, alive)
	registerBoth(server, &pb.Maintenance_ServiceDesc, &maintenanceService{service: s, setHealth: alive.SetServingStatus})
	upkeeppb.RegisterUpkeepServer(server, &upkeepService{service: s})
	if err := registerReflection(server); err != nil {
		return nil, err
	}
	return server, nil
}

// header returns the header of an answer that was made at the store revision rev, as h tells it. Without h, it is the
// current one.
func (s *service) header(h *pb.ResponseHeader) *pb.ResponseHeader {
	full := s.Headers.Header()
	if h != nil {
		full.Revision = h.Revision
	}
	return full
}

// propose puts r through the log and returns the answer of apply.
func propose[T any](ctx context.Context, p Proposer, r *pb.InternalRaftRequest) (T, error) {
	var none T
	value, err := p.Propose(ctx, r)
	if err != nil {
		return none, err
	}
	answer, ok := value.(T)
	if !ok {
		return none, fmt.Errorf("rpc: apply answered a %T, want a %T", value, none)
	}
	return answer, nil
}
