package rpc

import (
	"bytes"
	"context"
	"errors"

	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/mvcc/watch"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
	"github.com/upkeep-kv/upkeep/proto/v3electionpb"
)

// electionService serves elections: whoever is first in the queue of a name leads, and the value of its key is what it
// has to say.
type electionService struct {
	v3electionpb.UnimplementedElectionServer
	queue
}

// Campaign returns once the caller leads. A caller who goes away while it waits is out of the race. etcd's service takes a
// caller for the leader even if its key went away, with its lease, while it waited; here that is ErrNotElected.
func (s *electionService) Campaign(
	ctx context.Context, r *v3electionpb.CampaignRequest,
) (*v3electionpb.CampaignResponse, error) {
	lease, err := s.session(ctx, r.Lease)
	if err != nil {
		return nil, err
	}
	p, header, found, first, err := s.enter(ctx, r.Name, lease, r.Value)
	if err != nil {
		return nil, err
	}
	if found != nil && !bytes.Equal(found.Value, r.Value) {
		if _, err = s.proclaim(ctx, p.key, p.rev, lease, r.Value); err != nil {
			s.leave(ctx, p)
			return nil, err
		}
	}
	if first.CreateRevision != p.rev {
		_, err = s.wait(ctx, p)
	}
	switch {
	case errors.Is(err, errLost):
		return nil, ErrNotElected
	case err != nil && ctx.Err() != nil:
		s.leave(ctx, p)
		return nil, err
	case err != nil:
		return nil, err
	}
	return &v3electionpb.CampaignResponse{
		Header: header, Leader: &v3electionpb.LeaderKey{Name: r.Name, Key: p.key, Rev: p.rev, Lease: lease},
	}, nil
}

// Proclaim changes what the leader has to say.
func (s *electionService) Proclaim(
	ctx context.Context, r *v3electionpb.ProclaimRequest,
) (*v3electionpb.ProclaimResponse, error) {
	if r.Leader == nil {
		return nil, ErrNoLeaderKey
	}
	lease, err := s.session(ctx, r.Leader.Lease)
	if err != nil {
		return nil, err
	}
	header, err := s.proclaim(ctx, r.Leader.Key, r.Leader.Rev, lease, r.Value)
	if err != nil {
		return nil, err
	}
	return &v3electionpb.ProclaimResponse{Header: header}, nil
}

func (s *electionService) proclaim(ctx context.Context, key []byte, rev, lease int64, value []byte) (*pb.ResponseHeader, error) {
	resp, err := s.txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(key, rev)},
		Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: key, Value: value, Lease: lease})},
	})
	if err != nil {
		return nil, err
	}
	if !resp.Succeeded {
		return nil, ErrNotElected
	}
	return resp.Header, nil
}

// Resign gives leadership, or the place in the race, away. Somebody else's is left alone, without an error.
func (s *electionService) Resign(ctx context.Context, r *v3electionpb.ResignRequest) (*v3electionpb.ResignResponse, error) {
	if r.Leader == nil {
		return nil, ErrNoLeaderKey
	}
	resp, err := s.resign(ctx, r.Leader.Key, r.Leader.Rev)
	if err != nil {
		return nil, err
	}
	return &v3electionpb.ResignResponse{Header: resp.Header}, nil
}

// Leader returns the key of who leads now.
func (s *electionService) Leader(ctx context.Context, r *v3electionpb.LeaderRequest) (*v3electionpb.LeaderResponse, error) {
	resp, err := s.first(ctx, queuePrefix(r.Name))
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) == 0 {
		return nil, ErrNoneElected
	}
	return &v3electionpb.LeaderResponse{Header: resp.Header, Kv: resp.Kvs[0]}, nil
}

// Observe tells who leads, now and whenever that or its value changes. Every value of one leader is told; a leader who has
// gone again by the time it is looked for is not.
func (s *electionService) Observe(
	r *v3electionpb.LeaderRequest, stream grpc.ServerStreamingServer[v3electionpb.LeaderResponse],
) error {
	ctx, prefix := stream.Context(), queuePrefix(r.Name)
	for {
		resp, err := s.first(ctx, prefix)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return ErrObserveClosed // all that etcd tells
		}
		rev := resp.Header.Revision
		if len(resp.Kvs) == 0 {
			if err := s.awaitCandidate(ctx, prefix, rev+1); err != nil {
				return err
			}
			continue
		}
		if err := stream.Send(&v3electionpb.LeaderResponse{Header: resp.Header, Kv: resp.Kvs[0]}); err != nil {
			return err
		}
		err = s.follow(ctx, resp.Kvs[0].Key, rev+1, func(rev int64, kv *mvccpb.KeyValue) error {
			return stream.Send(&v3electionpb.LeaderResponse{Header: s.kv.header(&pb.ResponseHeader{Revision: rev}), Kv: kv})
		})
		if err != nil {
			return err
		}
	}
}

// awaitCandidate returns when a key with the prefix may have been put.
func (s *electionService) awaitCandidate(ctx context.Context, prefix []byte, from int64) error {
	return s.events(ctx, watch.CreateOptions{Key: prefix, End: prefixEnd(prefix), StartRev: from, NoDelete: true},
		func(*watch.Response) (bool, error) { return false, nil })
}

// follow tells every value of the key until it is deleted.
func (s *electionService) follow(ctx context.Context, key []byte, from int64, tell func(int64, *mvccpb.KeyValue) error) error {
	return s.events(ctx, watch.CreateOptions{Key: key, StartRev: from}, func(r *watch.Response) (bool, error) {
		for _, event := range r.Events {
			if event.Type == mvccpb.Event_DELETE {
				return false, nil
			}
			if err := tell(r.Rev, event.Kv); err != nil {
				return false, err
			}
		}
		return true, nil
	})
}

// events hands the responses with events of one watcher to fn, as long as that wants more and the history is there.
func (s *electionService) events(ctx context.Context, opt watch.CreateOptions, fn func(*watch.Response) (bool, error)) error {
	stream := s.watches.NewStream()
	defer stream.Close()
	if _, _, err := stream.Create(opt); err != nil {
		return err
	}
	for {
		r, err := stream.Next(ctx)
		if err != nil || r.Canceled {
			return err
		}
		if len(r.Events) == 0 {
			continue
		}
		if more, err := fn(&r); !more {
			return err
		}
	}
}
