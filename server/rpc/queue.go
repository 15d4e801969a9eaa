package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/mvcc/watch"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// sessionTTLSeconds is how long the lease lasts that a caller gets who brings none. Source: etcd.
const sessionTTLSeconds = 60

// leaveTimeout bounds the attempt to take a caller's key out of a queue when the caller is gone.
const leaveTimeout = 10 * time.Second

// errLost: the key that stands for the caller is gone, most likely with its lease.
var errLost = errors.New("place in the queue is lost")

// queue is what locks and elections have in common: callers who want the same thing line up as keys under one prefix, in
// the order in which these were created, and the first one has it. Keys, values and leases are those that etcd's client
// library writes, so that programs that queue up by themselves and callers of the services meet in the same queue.
//
//	name "jobs", leases 0x7f and 0x80:    jobs/7f   created at revision 12: has it
//	                                      jobs/80   created at revision 15: waits until the former is gone
//
// All of it is ordinary requests in the caller's name, with the same checks as when the caller had made them.
type queue struct {
	kv      *kvService
	leases  *leaseService
	watches Watches
}

// place is where a caller stands in a queue.
type place struct {
	prefix []byte // of the keys of all who queue
	key    []byte // the caller's own
	rev    int64  // its create revision
	lease  int64
}

// session returns the lease that the caller's key is to hang on.
func (q *queue) session(ctx context.Context, lease int64) (int64, error) {
	if lease != 0 {
		return lease, nil
	}
	granted, err := textOnly(q.leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: sessionTTLSeconds}))
	if err != nil {
		return 0, err
	}
	return granted.ID, nil
}

// enter puts the caller's key at the end of the queue, unless it is there already: then found is its pair. The header is
// that of the entry, first the key at the head of the queue.
func (q *queue) enter(ctx context.Context, name []byte, lease int64, value []byte) (
	p place, header *pb.ResponseHeader, found, first *mvccpb.KeyValue, err error,
) {
	p = place{prefix: queuePrefix(name), lease: lease}
	p.key = fmt.Appendf(p.prefix[:len(p.prefix):len(p.prefix)], "%x", lease)
	head := rangeOp(headOf(p.prefix))
	resp, err := q.txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(p.key, 0)},
		Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: p.key, Value: value, Lease: lease}), head},
		Failure: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: p.key}), head},
	})
	if err != nil {
		return p, nil, nil, nil, err
	}
	p.rev = resp.Header.Revision
	if !resp.Succeeded {
		found = resp.Responses[0].GetResponseRange().Kvs[0]
		p.rev = found.CreateRevision
	}
	return p, resp.Header, found, resp.Responses[1].GetResponseRange().Kvs[0], nil
}

// wait returns when nobody is before p any more. errLost when p itself is gone.
func (q *queue) wait(ctx context.Context, p place) (*pb.ResponseHeader, error) {
	before := &pb.RangeRequest{
		Key: p.prefix, RangeEnd: prefixEnd(p.prefix), MaxCreateRevision: p.rev - 1, Limit: 1, KeysOnly: true,
		SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_DESCEND,
	}
	own := &pb.RangeRequest{Key: p.key}
	for {
		resp, err := q.txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(before), rangeOp(own)}})
		if err != nil {
			return nil, err
		}
		earlier, mine := resp.Responses[0].GetResponseRange().Kvs, resp.Responses[1].GetResponseRange().Kvs
		if len(mine) == 0 || mine[0].CreateRevision != p.rev {
			return nil, errLost
		}
		if len(earlier) == 0 {
			return resp.Header, nil
		}
		// Only the key right before p is watched, so that the end of one key wakes one caller.
		if err := q.awaitDelete(ctx, resp.Header.Revision+1, earlier[0].Key, p.key); err != nil {
			return nil, err
		}
	}
}

// awaitDelete returns when one of the keys was deleted at or after revision from, or when that cannot be told any more.
func (q *queue) awaitDelete(ctx context.Context, from int64, keys ...[]byte) error {
	stream := q.watches.NewStream()
	defer stream.Close()
	for _, key := range keys {
		if _, _, err := stream.Create(watch.CreateOptions{Key: key, StartRev: from, NoPut: true}); err != nil {
			return err
		}
	}
	for {
		r, err := stream.Next(ctx)
		if err != nil {
			return err
		}
		if len(r.Events) > 0 || r.Canceled {
			return nil
		}
	}
}

// leave deletes the caller's key, even though the caller may have gone away: others wait for it.
func (q *queue) leave(ctx context.Context, p place) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	// Where it fails, the key goes when its lease ends.
	_, _ = q.resign(ctx, p.key, p.rev)
}

// resign deletes the key if it is still the one that was created at revision rev.
func (q *queue) resign(ctx context.Context, key []byte, rev int64) (*pb.TxnResponse, error) {
	return q.txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(key, rev)},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{
			RequestDeleteRange: &pb.DeleteRangeRequest{Key: key},
		}}},
	})
}

// first returns the pair at the head of a queue, or none.
func (q *queue) first(ctx context.Context, prefix []byte) (*pb.RangeResponse, error) {
	return textOnly(q.kv.Range(ctx, headOf(prefix)))
}

func (q *queue) txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	return textOnly(q.kv.Txn(ctx, r))
}

// textOnly takes the code from what a request was refused with: etcd's services make these requests as a client does, and
// hand on no more than the text.
func textOnly[T any](resp T, err error) (T, error) {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return resp, err
	}
	return resp, errors.New(status.Convert(Status(err)).Message())
}

func queuePrefix(name []byte) []byte { return append(append([]byte(nil), name...), '/') }

// prefixEnd is the end of the range of all keys with a prefix that ends with a slash.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	end[len(end)-1]++
	return end
}

func headOf(prefix []byte) *pb.RangeRequest {
	return &pb.RangeRequest{
		Key: prefix, RangeEnd: prefixEnd(prefix), Limit: 1,
		SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_ASCEND,
	}
}

func createdAt(key []byte, rev int64) *pb.Compare {
	return &pb.Compare{
		Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, Key: key,
		TargetUnion: &pb.Compare_CreateRevision{CreateRevision: rev},
	}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func putOp(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}
