package apply

import (
	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// put applies a put that is a command of its own.
func (m *Machine) put(batch *backend.Batch, r *pb.PutRequest) (any, error) {
	w := m.Store.Begin(batch)
	prev, err := m.checkPut(w, r)
	if err != nil {
		m.end(w)
		return nil, err
	}
	resp := putIn(w, r, prev)
	m.end(w)
	return resp, nil
}

// checkPut returns the pair that a put replaces, nil if there is none or nobody asks for it, and the error that
// refuses the put.
func (m *Machine) checkPut(w ranger, r *pb.PutRequest) (*mvccpb.KeyValue, error) {
	switch {
	case r.Lease != 0 && !m.Lessor.Exists(r.Lease):
		return nil, errLeaseNotFound
	case r.IgnoreValue && len(r.Value) > 0:
		return nil, ErrValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return nil, ErrLeaseProvided
	}
	prev, err := previous(w, r)
	if err == nil && prev == nil && (r.IgnoreValue || r.IgnoreLease) {
		err = ErrKeyNotFound
	}
	return prev, err
}

// previous returns the pair that a put replaces, nil if there is none or the put does not depend on it.
func previous(w ranger, r *pb.PutRequest) (*mvccpb.KeyValue, error) {
	if !r.IgnoreValue && !r.IgnoreLease && !r.PrevKv {
		return nil, nil
	}
	return get(w, r.Key)
}

// putIn writes one checked pair in w. What it keeps of prev is nothing where prev is nil: a transaction may have
// deleted, a moment ago, the key that its check found. (etcd does not survive such a transaction.)
func putIn(w *mvcc.WriteTxn, r *pb.PutRequest, prev *mvccpb.KeyValue) *pb.PutResponse {
	value, leaseID := r.Value, r.Lease
	if r.IgnoreValue {
		value = prev.GetValue()
	}
	if r.IgnoreLease {
		leaseID = prev.GetLease()
	}
	_, rev := w.Put(r.Key, value, leaseID)
	resp := &pb.PutResponse{Header: &pb.ResponseHeader{Revision: rev}}
	if r.PrevKv {
		resp.PrevKv = prev
	}
	return resp
}

// deleteRange applies a delete that is a command of its own.
func (m *Machine) deleteRange(batch *backend.Batch, r *pb.DeleteRangeRequest) (any, error) {
	w := m.Store.Begin(batch)
	resp, err := m.deleteIn(w, r)
	m.end(w)
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (m *Machine) deleteIn(w *mvcc.WriteTxn, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	resp := &pb.DeleteRangeResponse{}
	end := rangeEnd(r.RangeEnd)
	if r.PrevKv {
		found, err := w.Range(r.Key, end, mvcc.RangeOptions{})
		if err != nil {
			return nil, err
		}
		resp.PrevKvs = found.KVs
	}
	deleted, rev := w.DeleteRange(r.Key, end)
	resp.Deleted = deleted
	resp.Header = &pb.ResponseHeader{Revision: rev}
	return resp, nil
}

// end publishes what w wrote: leases follow their keys, readers see the revision, watchers are told. Returns the
// store's revision.
func (m *Machine) end(w *mvcc.WriteTxn) int64 {
	changes := w.Changes()
	if len(changes) == 0 {
		return w.End()
	}
	events := make([]*mvccpb.Event, len(changes))
	for i, change := range changes {
		events[i] = &mvccpb.Event{Type: change.Type, Kv: change.KV}
		if change.PrevLease != 0 && change.PrevLease != change.KV.Lease {
			m.Lessor.Detach(string(change.KV.Key), change.PrevLease)
		}
		if change.KV.Lease != 0 && change.PrevLease != change.KV.Lease {
			m.Lessor.Attach(string(change.KV.Key), change.KV.Lease)
		}
	}
	rev := w.End()
	if !m.again {
		m.Hub.Notify(rev, events)
	}
	return rev
}
