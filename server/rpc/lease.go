package rpc

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"

	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/mvcc/lease"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// leaseService serves leases.
type leaseService struct {
	pb.UnimplementedLeaseServer
	service
}

// LeaseGrant makes a lease. The id must be the same on every member, so one that the client leaves to us is chosen before
// the request goes into the log.
func (s *leaseService) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	command := &pb.InternalRaftRequest{LeaseGrant: r}
	if err := s.Admission.Admit(ctx, command); err != nil {
		return nil, err
	}
	if err := s.requireUser(ctx); err != nil {
		return nil, err
	}
	chosen := r.ID == 0
	for {
		if chosen {
			r.ID = rand.Int64N(math.MaxInt64) + 1
		}
		resp, err := propose[*pb.LeaseGrantResponse](ctx, s.Proposer, command)
		if chosen && errors.Is(err, lease.ErrExists) {
			continue // 63 random bits hit a lease that exists: none of the client's doing
		}
		if err != nil {
			return nil, err
		}
		resp.Header = s.Headers.Header()
		return resp, nil
	}
}

// LeaseRevoke deletes the lease's keys; whether the caller may, apply knows.
func (s *leaseService) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if err := s.requireUser(ctx); err != nil {
		return nil, err
	}
	resp, err := propose[*pb.LeaseRevokeResponse](ctx, s.Proposer, &pb.InternalRaftRequest{LeaseRevoke: r})
	if err != nil {
		return nil, err
	}
	resp.Header = s.Headers.Header()
	return resp, nil
}

// LeaseKeepAlive renews each lease that the client names and answers with its time to live; 0 says that it is gone, which
// does not end the stream.
func (s *leaseService) LeaseKeepAlive(
	stream grpc.BidiStreamingServer[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse],
) error {
	ctx := stream.Context()
	requests := receive(ctx, stream.Recv)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case got := <-requests:
			if errors.Is(got.err, io.EOF) {
				return nil
			}
			if got.err != nil {
				s.failed("receive", "lease-keepalive", got.err)
				return got.err
			}
			resp, err := s.keepAlive(ctx, got.message.ID)
			if err != nil {
				return err
			}
			if err := stream.Send(resp); err != nil {
				s.failed("send", "lease-keepalive", err)
				return err
			}
		}
	}
}

func (s *leaseService) keepAlive(ctx context.Context, id int64) (*pb.LeaseKeepAliveResponse, error) {
	// The header says what was current before the renewal: a client that sees the lease alive knows at which revision.
	resp := &pb.LeaseKeepAliveResponse{Header: s.Headers.Header(), ID: id}
	if err := s.mayKeepAlive(ctx, id); err != nil {
		return nil, err
	}
	ttl, err := s.Leases.Renew(ctx, id)
	if err != nil && !errors.Is(err, lease.ErrNotFound) {
		return nil, err
	}
	if err == nil {
		resp.TTL = ttl
	}
	return resp, nil
}

// mayKeepAlive refuses a caller who may not write every key of the lease.
func (s *leaseService) mayKeepAlive(ctx context.Context, id int64) error {
	allowed, err := s.access(ctx)
	if err != nil || allowed.auth == nil {
		return err
	}
	if err := allowed.auth.CheckUser(allowed.id); err != nil {
		return err
	}
	return each(allowed, s.Leases.Keys(id), allowed.write)
}

// each returns the first error of check over the keys of a lease. Who holds the role root need not be checked for each.
func each[K ~string | ~[]byte](allowed access, keys []K, check func(key, end []byte) error) error {
	if allowed.auth == nil || len(keys) == 0 || allowed.auth.CheckRoot(allowed.id) == nil {
		return nil
	}
	for _, key := range keys {
		if err := check([]byte(key), nil); err != nil {
			return err
		}
	}
	return nil
}

// LeaseTimeToLive tells the lease's keys to callers who may read them all.
func (s *leaseService) LeaseTimeToLive(
	ctx context.Context, r *pb.LeaseTimeToLiveRequest,
) (*pb.LeaseTimeToLiveResponse, error) {
	if err := s.requireUser(ctx); err != nil {
		return nil, err
	}
	resp, err := s.Leases.TimeToLive(ctx, r)
	if errors.Is(err, lease.ErrNotFound) {
		resp, err = &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1}, nil
	}
	if err != nil {
		return nil, err
	}
	if len(resp.Keys) > 0 {
		allowed, err := s.access(ctx)
		if err != nil {
			return nil, err
		}
		if err := each(allowed, resp.Keys, allowed.read); err != nil {
			return nil, err
		}
	}
	resp.Header = s.Headers.Header()
	return resp, nil
}

// LeaseLeases lists all leases, to callers who may read every key that is attached to one.
func (s *leaseService) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	if err := s.requireUser(ctx); err != nil {
		return nil, err
	}
	ids, err := s.Leases.List(ctx)
	if err != nil {
		return nil, err
	}
	allowed, err := s.access(ctx)
	if err != nil {
		return nil, err
	}
	if allowed.auth != nil {
		for _, id := range ids {
			if err := each(allowed, s.Leases.Keys(id), allowed.read); err != nil {
				return nil, err
			}
		}
	}
	resp := &pb.LeaseLeasesResponse{Header: s.Headers.Header(), Leases: make([]*pb.LeaseStatus, len(ids))}
	for i, id := range ids {
		resp.Leases[i] = &pb.LeaseStatus{ID: id}
	}
	return resp, nil
}
