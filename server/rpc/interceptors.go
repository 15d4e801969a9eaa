package rpc

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/raftnode"
)

// Metadata that clients send.
const (
	metaRequireLeader    = "hasleader"
	metaClientAPIVersion = "client-api-version"
)

// interceptors frame every call: what the observer is told, who may call what, and how errors look on the wire.
type interceptors struct {
	state    State
	observer Observer
	logger   *zap.Logger
	warn     time.Duration // slower unary calls are logged; negative: none
	leader   *leaderWatch
}

func newInterceptors(deps Deps, opts Options) *interceptors {
	return &interceptors{
		state:    deps.State,
		observer: deps.Observer,
		logger:   deps.Logger,
		warn:     opts.WarnUnaryDuration,
		leader:   newLeaderWatch(deps.State.HasLeader, opts.ElectionTimeout),
	}
}

func (i *interceptors) unary(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	// info.FullMethod is the generated name, ours; the stream knows the one that the client used.
	name, ok := grpc.Method(ctx)
	if !ok {
		name = info.FullMethod
	}
	call := i.begin("unary", name)
	call.received()
	resp, err := i.guardedUnary(ctx, req, name, handler)
	err = Status(err)
	if err == nil {
		call.sent()
	}
	took := call.end(err)
	if i.warn >= 0 && took > i.warn {
		i.reportSlow(ctx, call, took, req, resp)
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (i *interceptors) guardedUnary(ctx context.Context, req any, name string, handler grpc.UnaryHandler) (any, error) {
	if i.state.IsLearner() && !learnerServes(req) && !isReflection(name) {
		return nil, ErrLearner
	}
	if err := i.checkMetadata(ctx, "unary"); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (i *interceptors) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	call := i.begin(streamKind(info), info.FullMethod)
	err := Status(i.guardedStream(srv, stream, info, call, handler))
	call.end(err)
	return err
}

func (i *interceptors) guardedStream(
	srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, call *call, handler grpc.StreamHandler,
) error {
	if i.state.IsLearner() && !strings.HasSuffix(info.FullMethod, ".Maintenance/Snapshot") && !isReflection(info.FullMethod) {
		return ErrLearner
	}
	ctx := stream.Context()
	if err := i.checkMetadata(ctx, "stream"); err != nil {
		return err
	}
	framed := &framedStream{ServerStream: stream, ctx: ctx, call: call}
	if !requiresLeader(ctx) {
		return handler(srv, framed)
	}
	ctx, leave := i.leader.join(ctx)
	defer leave()
	framed.ctx = ctx
	err := handler(srv, framed)
	if err != nil && errors.Is(context.Cause(ctx), raftnode.ErrNoLeader) {
		return raftnode.ErrNoLeader
	}
	return err
}

// checkMetadata looks at what the client says of itself and at what it demands.
func (i *interceptors) checkMetadata(ctx context.Context, kind string) error {
	version := "unknown"
	if values := metadata.ValueFromIncomingContext(ctx, metaClientAPIVersion); len(values) > 0 {
		version = values[0]
		if !utf8.ValidString(version) {
			return ErrInvalidClientAPIVersion
		}
	}
	if i.observer.ClientRequest != nil {
		i.observer.ClientRequest(kind, version)
	}
	if requiresLeader(ctx) && !i.state.HasLeader() {
		return raftnode.ErrNoLeader
	}
	return nil
}

func requiresLeader(ctx context.Context) bool {
	values := metadata.ValueFromIncomingContext(ctx, metaRequireLeader)
	return len(values) > 0 && values[0] == "true"
}

// learnerServes tells whether a learner answers the unary request: it knows itself, and serves reads that may be old.
func learnerServes(req any) bool {
	switch r := req.(type) {
	case *pb.StatusRequest:
		return true
	case *pb.RangeRequest:
		return r.Serializable
	}
	return false
}

// isReflection: what the services look like has nothing to do with the state of the member.
func isReflection(name string) bool { return strings.HasPrefix(name, "/grpc.reflection.") }

func streamKind(info *grpc.StreamServerInfo) string {
	switch {
	case info.IsClientStream && info.IsServerStream:
		return "bidi_stream"
	case info.IsClientStream:
		return "client_stream"
	default:
		return "server_stream"
	}
}

// reportSlow logs a unary call that took too long. Keys and values stay out of the log.
func (i *interceptors) reportSlow(ctx context.Context, call *call, took time.Duration, req, resp any) {
	if i.observer.SlowUnary != nil {
		i.observer.SlowUnary(call.service, call.method, took)
	}
	remote := "unknown"
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		remote = p.Addr.String()
	}
	i.logger.Warn("request stats",
		zap.Time("start time", call.start),
		zap.Duration("time spent", took),
		zap.String("remote", remote),
		zap.String("response type", "/"+call.service+"/"+call.method),
		zap.Int("request size", sizeOf(req)),
		zap.Int("response size", sizeOf(resp)),
	)
}

func sizeOf(message any) int {
	if m, ok := message.(vtMessage); ok && m != nil {
		return m.SizeVT()
	}
	return -1
}

// call is one call as the observer sees it.
type call struct {
	observer              *Observer
	kind, service, method string
	start                 time.Time
}

func (i *interceptors) begin(kind, fullMethod string) *call {
	service, method, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	c := &call{observer: &i.observer, kind: kind, service: service, method: method, start: time.Now()}
	if c.observer.Started != nil {
		c.observer.Started(kind, service, method)
	}
	return c
}

func (c *call) received() {
	if c.observer.Received != nil {
		c.observer.Received(c.kind, c.service, c.method)
	}
}

func (c *call) sent() {
	if c.observer.Sent != nil {
		c.observer.Sent(c.kind, c.service, c.method)
	}
}

func (c *call) end(err error) time.Duration {
	took := time.Since(c.start)
	if c.observer.Handled != nil {
		c.observer.Handled(c.kind, c.service, c.method, status.Code(err), took)
	}
	return took
}

// framedStream is a stream whose messages are counted and whose context may end before the client's.
type framedStream struct {
	grpc.ServerStream
	ctx  context.Context
	call *call
}

func (s *framedStream) Context() context.Context { return s.ctx }

func (s *framedStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.call.sent()
	}
	return err
}

func (s *framedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.call.received()
	}
	return err
}
