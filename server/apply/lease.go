package apply

import (
	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/lease"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

var errLeaseNotFound = lease.ErrNotFound

func (m *Machine) leaseGrant(batch *backend.Batch, r *pb.LeaseGrantRequest) (any, error) {
	granted, err := m.Lessor.Grant(batch, r.ID, r.TTL)
	if err != nil {
		return nil, err
	}
	return &pb.LeaseGrantResponse{ID: granted.ID, TTL: granted.TTL}, nil
}

// leaseRevoke deletes the lease's keys, in order and in one revision, and then the lease.
func (m *Machine) leaseRevoke(batch *backend.Batch, r *pb.LeaseRevokeRequest) (any, error) {
	keys, err := m.Lessor.Keys(r.ID)
	if err != nil {
		return nil, err
	}
	if len(keys) > 0 {
		w := m.Store.Begin(batch)
		for _, key := range keys {
			w.DeleteRange([]byte(key), nil)
		}
		m.end(w)
	}
	m.Lessor.Remove(batch, r.ID)
	return &pb.LeaseRevokeResponse{}, nil
}

func (m *Machine) leaseCheckpoint(batch *backend.Batch, r *pb.LeaseCheckpointRequest) (any, error) {
	for _, c := range r.Checkpoints {
		m.Lessor.Checkpoint(batch, c.ID, c.Remaining_TTL)
	}
	return &pb.LeaseCheckpointResponse{}, nil
}
