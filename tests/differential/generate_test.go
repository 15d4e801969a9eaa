package differential

import (
	"fmt"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// generator makes requests that mean something: few keys, so that they meet; revisions around the current one and the
// floor; a share of requests that must be refused.
type generator struct {
	*rand.Rand
	rev     int64 // newest revision seen
	leases  []int64
	members int
}

const keyCount = 12

func (g *generator) one(n int) bool { return g.IntN(n) == 0 }

func (g *generator) key() []byte {
	switch {
	case g.one(60):
		return nil
	case g.one(30):
		return []byte{0}
	}
	return fmt.Appendf(nil, "k%02d", g.IntN(keyCount))
}

func (g *generator) end() []byte {
	switch g.IntN(6) {
	case 0:
		return []byte{0}
	case 1:
		return g.key()
	case 2:
		return []byte("k1")
	}
	return nil
}

// revision is mostly 0, else somewhere between before the floor and after the present.
func (g *generator) revision() int64 {
	if g.one(3) {
		return g.Int64N(g.rev+3) - 1
	}
	return 0
}

func (g *generator) lease() int64 {
	switch {
	case g.one(40):
		return 4711 // unknown
	case len(g.leases) > 0 && g.one(4):
		return g.leases[g.IntN(len(g.leases))]
	}
	return 0
}

func (g *generator) value() []byte {
	if g.one(10) {
		return nil
	}
	return fmt.Appendf(nil, "v%d", g.IntN(5))
}

func (g *generator) request() proto.Message {
	switch n := g.IntN(100); {
	case n < 30:
		return g.put()
	case n < 55:
		return g.ranged()
	case n < 65:
		return g.deleted()
	case n < 88:
		return g.txn(2)
	case n < 91:
		// Not at 0: etcd takes that on a store that was never compacted, and from then on answers HashKV at 0, which means
		// the newest revision, with the hash of nothing.
		return &pb.CompactionRequest{Revision: max(1, g.Int64N(g.rev+3)-1), Physical: g.one(2)}
	case n < 94:
		return &pb.HashKVRequest{Revision: g.revision()}
	case n < 96:
		return &pb.LeaseGrantRequest{ID: 1000 + int64(g.IntN(6)), TTL: 3600}
	case n < 98:
		return &pb.LeaseRevokeRequest{ID: 1000 + int64(g.IntN(6))}
	default:
		return &pb.LeaseTimeToLiveRequest{ID: 1000 + int64(g.IntN(6)), Keys: g.one(2)}
	}
}

func (g *generator) put() *pb.PutRequest {
	return &pb.PutRequest{
		Key: g.key(), Value: g.value(), Lease: g.lease(), PrevKv: g.one(4), IgnoreValue: g.one(15), IgnoreLease: g.one(15),
	}
}

func (g *generator) deleted() *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: g.key(), RangeEnd: g.end(), PrevKv: g.one(3)}
}

func (g *generator) ranged() *pb.RangeRequest {
	r := &pb.RangeRequest{
		Key: g.key(), RangeEnd: g.end(), Revision: g.revision(), Serializable: g.one(2),
		KeysOnly: g.one(6), CountOnly: g.one(8),
	}
	if g.one(3) {
		r.Limit = int64(g.IntN(5))
	}
	if g.one(4) {
		// Only orders in which no two keys are alike: others leave ties to chance.
		r.SortOrder = pb.RangeRequest_SortOrder(g.IntN(3))
		if g.one(20) {
			r.SortOrder = 7
		}
	}
	if g.one(8) {
		r.MinModRevision = g.revision()
		r.MaxModRevision = g.revision()
		r.MinCreateRevision = g.revision()
		r.MaxCreateRevision = g.revision()
	}
	return r
}

func (g *generator) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range g.IntN(3) {
		r.Compare = append(r.Compare, g.compare())
	}
	for range g.IntN(4) {
		r.Success = append(r.Success, g.op(depth))
	}
	for range g.IntN(3) {
		r.Failure = append(r.Failure, g.op(depth))
	}
	return r
}

func (g *generator) op(depth int) *pb.RequestOp {
	switch n := g.IntN(10); {
	case n < 4:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.put()}}
	case n < 7:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.ranged()}}
	case n < 9 || depth == 0:
		// Not to the end of the keys: etcd lets such a delete stand beside a put of a key that it deletes, and then does
		// not survive a put that keeps value or lease, nor a compaction at that revision.
		r := g.deleted()
		if len(r.RangeEnd) == 1 {
			r.RangeEnd = nil
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
	default:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txn(depth - 1)}}
	}
}

func (g *generator) compare() *pb.Compare {
	c := &pb.Compare{
		Key: g.key(), Result: pb.Compare_CompareResult(g.IntN(4)), Target: pb.Compare_CompareTarget(g.IntN(5)),
	}
	if g.one(4) {
		c.RangeEnd = g.end()
	}
	union := c.Target
	if g.one(20) {
		union = pb.Compare_CompareTarget(g.IntN(5)) // does not match the target
	}
	switch union {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: int64(g.IntN(3))}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: g.revision()}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.revision()}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: g.lease()}
	}
	return c
}
