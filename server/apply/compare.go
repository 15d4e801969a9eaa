package apply

import (
	"bytes"
	"cmp"

	"github.com/upkeep-kv/upkeep/mvcc"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// holds tells whether every comparison is true of the state that r reads.
func holds(r ranger, compares []*pb.Compare) (bool, error) {
	for _, c := range compares {
		ok, err := compareHolds(r, c)
		if err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// compareHolds compares every key of the range; an empty range is compared as one absent key.
func compareHolds(r ranger, c *pb.Compare) (bool, error) {
	found, err := r.Range(c.Key, rangeEnd(c.RangeEnd), mvcc.RangeOptions{})
	if err != nil {
		return false, err
	}
	if len(found.KVs) == 0 {
		if c.Target == pb.Compare_VALUE {
			return false, nil // an absent key has no value, not even a different one
		}
		return compareOne(c, &mvccpb.KeyValue{}), nil
	}
	for _, kv := range found.KVs {
		if !compareOne(c, kv) {
			return false, nil
		}
	}
	return true, nil
}

func compareOne(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	var order int
	switch c.Target {
	case pb.Compare_VALUE:
		order = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		order = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		order = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		order = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		order = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	case pb.Compare_LESS:
		return order < 0
	}
	return true
}
