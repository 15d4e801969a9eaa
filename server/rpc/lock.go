package rpc

import (
	"context"
	"errors"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/v3lockpb"
)

// lockService serves locks: whoever is first in the queue of a name holds it.
type lockService struct {
	v3lockpb.UnimplementedLockServer
	queue
}

// Lock returns once the caller holds the lock. A caller who goes away while it waits loses its place.
func (s *lockService) Lock(ctx context.Context, r *v3lockpb.LockRequest) (*v3lockpb.LockResponse, error) {
	lease, err := s.session(ctx, r.Lease)
	if err != nil {
		return nil, err
	}
	p, header, _, first, err := s.enter(ctx, r.Name, lease, nil)
	if err != nil {
		return nil, err
	}
	if first.CreateRevision != p.rev {
		header, err = s.wait(ctx, p)
	}
	switch {
	case errors.Is(err, errLost):
		return nil, ErrLockExpired
	case err != nil:
		s.leave(ctx, p)
		return nil, err
	}
	return &v3lockpb.LockResponse{Header: header, Key: p.key}, nil
}

// Unlock deletes the key, whoever holds it and whether it is there or not.
func (s *lockService) Unlock(ctx context.Context, r *v3lockpb.UnlockRequest) (*v3lockpb.UnlockResponse, error) {
	resp, err := textOnly(s.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: r.Key}))
	if err != nil {
		return nil, err
	}
	return &v3lockpb.UnlockResponse{Header: resp.Header}, nil
}
