package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/mvcc/lease"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/raftnode"
)

// leases answers for the leader, who alone knows how much time a lease has left.
type leases struct{ *Server }

func (l leases) Renew(ctx context.Context, id int64) (int64, error) {
	resp, err := onLeader(ctx, l.Server, func() (*pb.LeaseKeepAliveResponse, error) {
		return l.renewHere(ctx, id)
	}, func(ctx context.Context, peer peerpb.PeerClient) (*pb.LeaseKeepAliveResponse, error) {
		return peer.LeaseKeepAlive(ctx, &pb.LeaseKeepAliveRequest{ID: id})
	})
	if err != nil {
		return 0, err
	}
	if resp.TTL == 0 {
		return 0, lease.ErrNotFound
	}
	return resp.TTL, nil
}

// renewHere renews as leader. A lease that is not known here yet may have been granted a moment ago by another member,
// so only a linearizable read makes its absence certain.
func (l leases) renewHere(ctx context.Context, id int64) (*pb.LeaseKeepAliveResponse, error) {
	ttl, err := l.lessor.Renew(ctx, id)
	if errors.Is(err, lease.ErrNotFound) {
		if err := l.node.LinearizableRead(ctx); err != nil {
			return nil, err
		}
		ttl, err = l.lessor.Renew(ctx, id)
	}
	if errors.Is(err, lease.ErrNotFound) {
		return &pb.LeaseKeepAliveResponse{ID: id}, nil
	}
	return &pb.LeaseKeepAliveResponse{ID: id, TTL: ttl}, err
}

func (l leases) TimeToLive(ctx context.Context, req *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	resp, err := onLeader(ctx, l.Server, func() (*pb.LeaseTimeToLiveResponse, error) {
		return l.timeToLiveHere(ctx, req)
	}, func(ctx context.Context, peer peerpb.PeerClient) (*pb.LeaseTimeToLiveResponse, error) {
		return peer.LeaseTimeToLive(ctx, req)
	})
	if err == nil && resp.TTL < 0 {
		return nil, lease.ErrNotFound
	}
	return resp, err
}

func (l leases) timeToLiveHere(ctx context.Context, req *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	if err := l.node.LinearizableRead(ctx); err != nil {
		return nil, err
	}
	info, err := l.lessor.TimeToLive(req.ID, req.Keys)
	if errors.Is(err, lease.ErrNotFound) {
		return &pb.LeaseTimeToLiveResponse{ID: req.ID, TTL: -1}, nil
	}
	if err != nil {
		return nil, err
	}
	resp := &pb.LeaseTimeToLiveResponse{ID: req.ID, TTL: info.Remaining, GrantedTTL: info.Granted}
	for _, key := range info.Keys {
		resp.Keys = append(resp.Keys, []byte(key))
	}
	return resp, nil
}

func (l leases) List(ctx context.Context) ([]int64, error) {
	if err := l.node.LinearizableRead(ctx); err != nil {
		return nil, err
	}
	return l.lessor.List(), nil
}

func (l leases) Keys(id int64) []string {
	keys, err := l.lessor.Keys(id)
	if err != nil {
		return nil // there is no such lease, here or any more
	}
	return keys
}

// leaderRetry is how long a forwarded call waits before it looks for the leader again.
const leaderRetry = 50 * time.Millisecond

// onLeader runs here if this member leads, and there, on the leader, if another one does. It tries again while the
// leader changes, until ctx ends.
func onLeader[T any](ctx context.Context, s *Server, here func() (T, error),
	there func(context.Context, peerpb.PeerClient) (T, error),
) (T, error) {
	var none T
	ctx, cancel := context.WithTimeout(ctx, s.cfg.requestTimeout())
	defer cancel()
	for {
		resp, err := none, error(raftnode.ErrNoLeader)
		switch lead := s.node.Lead(); lead {
		case 0:
		case s.id:
			resp, err = here()
		default:
			var conn *grpc.ClientConn
			if conn, err = s.transport.Conn(lead); err == nil {
				resp, err = there(ctx, peerpb.NewPeerClient(conn))
			}
		}
		if err == nil || !wrongLeader(err) {
			return resp, err
		}
		select {
		case <-ctx.Done():
			if errors.Is(err, raftnode.ErrNoLeader) {
				return none, err
			}
			return none, raftnode.ErrTimeout
		case <-s.stopping:
			return none, raftnode.ErrStopped
		case <-time.After(leaderRetry):
		}
	}
}

// wrongLeader tells whether an error means that the leader was not where it was looked for. Between members that is
// code Aborted, which no service of etcd's uses.
func wrongLeader(err error) bool {
	for _, moved := range []error{raftnode.ErrNoLeader, raftnode.ErrNotLeader, lease.ErrNotPrimary} {
		if errors.Is(err, moved) {
			return true
		}
	}
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.Aborted
}
