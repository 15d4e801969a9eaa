package transport

import (
	"context"
	"errors"
	"io"
	"math"
	"strconv"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/raftnode"
)

// What a hello is refused with. The first text is etcd's.
var (
	errClusterMismatch = status.Error(codes.FailedPrecondition, "etcdserver: cluster ID mismatch")
	errMemberMismatch  = status.Error(codes.FailedPrecondition, "etcdserver: member ID mismatch")
	errNoHello         = status.Error(codes.InvalidArgument, "transport: the first message must be a hello")
	errNotReady        = status.Error(codes.Unavailable, "transport: member is starting or stopping")
)

// windowBytes is how much a peer may send ahead of its reader. That it is fixed spares a ping and its answer for nearly
// every message, by which gRPC would otherwise measure what the window should be.
const windowBytes = 8 << 20

// NewServer returns a gRPC server with the peer service registered and set up for peers: large messages, their
// keepalive, and the codec that spares a copy.
func (t *Transport) NewServer(options ...grpc.ServerOption) *grpc.Server {
	options = append([]grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.StaticConnWindowSize(windowBytes), grpc.StaticStreamWindowSize(windowBytes),
		grpc.WaitForHandlers(true), // Stop joins whoever is inside the node
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: keepaliveInterval / 2, PermitWithoutStream: true,
		}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveInterval, Timeout: keepaliveTimeout}),
	}, options...)
	server := grpc.NewServer(options...)
	t.Register(server)
	return server
}

// Register adds the peer service to a server. NewServer is the faster one.
func (t *Transport) Register(server grpc.ServiceRegistrar) {
	peerpb.RegisterPeerServer(server, &service{transport: t})
}

// service is what peers call.
type service struct {
	peerpb.UnimplementedPeerServer
	transport *Transport
}

// checkHello refuses whoever did not mean this member, or does not belong here.
func (s *service) checkHello(hello *peerpb.Hello) error {
	config := &s.transport.config
	var reason error
	switch {
	case hello == nil:
		return errNoHello
	case hello.ClusterId != config.ClusterID:
		reason = errClusterMismatch
	case hello.To != config.ID:
		reason = errMemberMismatch
	default:
		return s.admit(hello.From)
	}
	s.transport.log.Warn("refused a peer's stream", zap.Error(reason),
		hexField("remote-cluster-id", hello.ClusterId), hexField("local-cluster-id", config.ClusterID),
		hexField("remote-peer-id", hello.From), hexField("meant-for", hello.To))
	return reason
}

// admit refuses members that the owner of the transport does not want.
func (s *service) admit(from uint64) error {
	if s.transport.config.Admit == nil {
		return nil
	}
	if err := s.transport.config.Admit(from); err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return nil
}

// Raft delivers one lane of a peer.
func (s *service) Raft(stream grpc.ClientStreamingServer[peerpb.RaftBatch, peerpb.RaftClosed]) error {
	var batch inBatch
	if err := stream.RecvMsg(&batch); err != nil {
		return err
	}
	from := batch.Hello.GetFrom()
	if err := s.checkHello(batch.Hello); err != nil {
		return err
	}
	target := s.transport.target.Load()
	if target == nil || s.transport.ctx.Err() != nil {
		return errNotReady
	}
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		err := s.deliver(stream.Context(), target.handler, from, &batch)
		if err == nil {
			batch.bytes = 0
			err = stream.RecvMsg(&batch)
		}
		if err == io.EOF {
			return stream.SendAndClose(&peerpb.RaftClosed{})
		}
		if err != nil {
			s.transport.config.Observer.ReceiveFailed(from)
			return err
		}
	}
}

// deliver hands a batch to the node. A member may be removed while its stream is open, and the message that would have
// told it so may be lost: it learns of it here, when it next has something to say.
func (s *service) deliver(ctx context.Context, handler raftnode.Handler, from uint64, batch *inBatch) error {
	if err := s.admit(from); err != nil {
		return err
	}
	if err := batch.unpack(); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	s.transport.config.Observer.Received(from, batch.bytes)
	for i, m := range batch.messages {
		batch.messages[i] = nil
		if m.GetTo() != s.transport.config.ID {
			continue
		}
		err := handler.Step(ctx, m)
		switch {
		case errors.Is(err, raftnode.ErrStopped), s.transport.ctx.Err() != nil:
			return errNotReady
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			// Raft refuses single messages, such as a proposal without a leader. The stream is fine.
			s.transport.log.Debug("message was not taken", hexField("remote-peer-id", from), zap.Error(err))
		}
	}
	batch.messages = batch.messages[:0]
	return nil
}

func hexField(name string, id uint64) zap.Field { return zap.String(name, strconv.FormatUint(id, 16)) }

func (s *service) forwarder() (Forwarder, error) {
	if target := s.transport.target.Load(); target != nil && target.forwarder != nil {
		return target.forwarder, nil
	}
	return nil, errNotReady
}

func (s *service) RequestImage(ctx context.Context, r *peerpb.ImageRequest) (*peerpb.ImageResponse, error) {
	f, err := s.forwarder()
	if err != nil {
		return nil, err
	}
	if err := s.checkHello(r.Hello); err != nil {
		return nil, err
	}
	return f.RequestImage(ctx, r.Hello.From, r.Image)
}

func (s *service) DropImage(_ context.Context, r *peerpb.ImageRequest) (*peerpb.DropImageResponse, error) {
	f, err := s.forwarder()
	if err != nil {
		return nil, err
	}
	if err := s.checkHello(r.Hello); err != nil {
		return nil, err
	}
	return &peerpb.DropImageResponse{}, f.DropImage(r.Image)
}

func (s *service) Members(ctx context.Context, r *peerpb.MembersRequest) (*peerpb.MembersResponse, error) {
	f, err := s.forwarder()
	if err != nil {
		return nil, err
	}
	return f.Members(ctx, r)
}

func (s *service) LeaseKeepAlive(ctx context.Context, r *pb.LeaseKeepAliveRequest) (*pb.LeaseKeepAliveResponse, error) {
	f, err := s.forwarder()
	if err != nil {
		return nil, err
	}
	return f.LeaseKeepAlive(ctx, r)
}

func (s *service) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	f, err := s.forwarder()
	if err != nil {
		return nil, err
	}
	return f.LeaseTimeToLive(ctx, r)
}

func (s *service) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	f, err := s.forwarder()
	if err != nil {
		return nil, err
	}
	return f.MemberPromote(ctx, r)
}

func (s *service) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	f, err := s.forwarder()
	if err != nil {
		return nil, err
	}
	return f.HashKV(ctx, r)
}

func (s *service) Figures(ctx context.Context, r *schedulepb.FiguresRequest) (*schedulepb.Figures, error) {
	f, err := s.forwarder()
	if err != nil {
		return nil, err
	}
	return f.Figures(ctx, r)
}
