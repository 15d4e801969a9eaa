package apply

import (
	"bytes"
	"cmp"
	"context"
	"slices"

	"github.com/upkeep-kv/upkeep/mvcc"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// ranger reads pairs. A write transaction is one, which sees its own writes; reader makes one of the store.
type ranger interface {
	Range(key, end []byte, opt mvcc.RangeOptions) (*mvcc.RangeResult, error)
}

// Reader is the store, or a read transaction of it.
type Reader interface {
	Range(ctx context.Context, key, end []byte, opt mvcc.RangeOptions) (*mvcc.RangeResult, error)
}

// reader is a Reader on behalf of one call.
type reader struct {
	ctx context.Context
	Reader
}

func (r reader) Range(key, end []byte, opt mvcc.RangeOptions) (*mvcc.RangeResult, error) {
	return r.Reader.Range(r.ctx, key, end, opt)
}

// Range answers a range request from r. The header holds only the revision at the time of the read.
func Range(ctx context.Context, r Reader, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	return rangeIn(reader{ctx, r}, req)
}

// rangeIn adds sorting and filters to what the store can do. Semantics and their surprises are etcd's.
func rangeIn(r ranger, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	opt := mvcc.RangeOptions{
		Rev:       req.Revision,
		CountOnly: req.CountOnly,
		KeysOnly:  req.KeysOnly && req.SortTarget != pb.RangeRequest_VALUE,
		Limit:     req.Limit,
	}
	filtered := hasFilters(req)
	cutLater := filtered || sortsBeforeLimit(req)
	if cutLater {
		opt.Limit = 0
	}
	if opt.Limit > 0 {
		opt.Limit++ // one more tells whether there are more
	}
	found, err := r.Range(req.Key, rangeEnd(req.RangeEnd), opt)
	if err != nil {
		return nil, err
	}
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: found.Rev}, Count: found.Count}
	if req.CountOnly {
		return resp, nil
	}
	kvs := found.KVs
	if filtered {
		kvs = slices.DeleteFunc(kvs, func(kv *mvccpb.KeyValue) bool { return !passes(req, kv) })
	}
	sortPairs(kvs, req)
	if req.Limit > 0 && int64(len(kvs)) > req.Limit {
		kvs, resp.More = kvs[:req.Limit], true
	}
	if req.KeysOnly && !opt.KeysOnly {
		for _, kv := range kvs {
			kv.Value = nil
		}
	}
	resp.Kvs = kvs
	return resp, nil
}

// sortsBeforeLimit tells whether the limit is to be applied to the sorted result. An order that was not asked for
// does not count: then etcd sorts the first limit + 1 pairs by key, and cuts those.
func sortsBeforeLimit(req *pb.RangeRequest) bool {
	switch req.SortOrder {
	case pb.RangeRequest_NONE:
		return false
	case pb.RangeRequest_ASCEND:
		return req.SortTarget != pb.RangeRequest_KEY
	default:
		return true
	}
}

func hasFilters(req *pb.RangeRequest) bool {
	return req.MinModRevision != 0 || req.MaxModRevision != 0 || req.MinCreateRevision != 0 || req.MaxCreateRevision != 0
}

func passes(req *pb.RangeRequest, kv *mvccpb.KeyValue) bool {
	within := func(rev, low, high int64) bool { return (low == 0 || rev >= low) && (high == 0 || rev <= high) }
	return within(kv.ModRevision, req.MinModRevision, req.MaxModRevision) &&
		within(kv.CreateRevision, req.MinCreateRevision, req.MaxCreateRevision)
}

func sortPairs(kvs []*mvccpb.KeyValue, req *pb.RangeRequest) {
	if req.SortTarget == pb.RangeRequest_KEY && req.SortOrder != pb.RangeRequest_DESCEND {
		return // as the store yields them
	}
	by := comparePairs(req.SortTarget)
	if req.SortOrder == pb.RangeRequest_DESCEND {
		slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int { return by(b, a) })
		return
	}
	slices.SortFunc(kvs, by)
}

func comparePairs(target pb.RangeRequest_SortTarget) func(a, b *mvccpb.KeyValue) int {
	switch target {
	case pb.RangeRequest_VERSION:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.Version, b.Version) }
	case pb.RangeRequest_CREATE:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) }
	case pb.RangeRequest_MOD:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) }
	case pb.RangeRequest_VALUE:
		return func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) }
	default:
		return func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) }
	}
}

// rangeEnd normalizes the end of a range: an empty one means the single key.
func rangeEnd(end []byte) []byte {
	if len(end) == 0 {
		return nil
	}
	return end
}

// get returns the newest pair of one key, nil if there is none.
func get(r ranger, key []byte) (*mvccpb.KeyValue, error) {
	found, err := r.Range(key, nil, mvcc.RangeOptions{})
	if err != nil || len(found.KVs) == 0 {
		return nil, err
	}
	return found.KVs[0], nil
}
