package server

import (
	"context"
	"time"

	"github.com/upkeep-kv/upkeep/mvcc"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
	"github.com/upkeep-kv/upkeep/server/apply"
	"github.com/upkeep-kv/upkeep/server/rpc"
)

// The adapters in this file, leases.go, members.go and upkeep.go give each gRPC service the small interface that it
// declares, over the parts that Server holds.

// headers stamps answers.
type headers struct{ *Server }

func (h headers) Header() *pb.ResponseHeader {
	return &pb.ResponseHeader{
		ClusterId: h.clusterID,
		MemberId:  h.id,
		Revision:  h.store.Revision(),
		RaftTerm:  h.node.Term(),
	}
}

// state answers what the interceptors ask on every call.
type state struct{ *Server }

func (s state) IsLearner() bool { return s.learner.Load() }
func (s state) HasLeader() bool { return s.node.Lead() != 0 }

// proposer puts commands through the log.
type proposer struct{ *Server }

func (p proposer) Propose(ctx context.Context, req *pb.InternalRaftRequest) (any, error) {
	start := time.Now()
	result, err := p.node.Propose(ctx, req)
	if err == nil {
		err = result.Err
	}
	p.metrics.RequestDone(requestKind(req), err == nil, time.Since(start))
	return result.Value, err
}

// admission applies this member's quota.
type admission struct{ *Server }

func (a admission) Admit(ctx context.Context, req *pb.InternalRaftRequest) error {
	err := a.limit.Admit(req)
	if err != nil {
		a.quotaAlarm.trigger()
	}
	return err
}

// kv reads this member's store.
type kv struct{ *Server }

func (k kv) LinearizableRead(ctx context.Context) error { return k.node.LinearizableRead(ctx) }

func (k kv) Range(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	start := time.Now()
	resp, err := apply.Range(ctx, k.store, req)
	took := time.Since(start)
	k.metrics.Ranged()
	k.metrics.RangeDone(err == nil, took)
	k.metrics.RequestDone("Range", err == nil, took)
	return resp, err
}

func (k kv) ReadTxn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	txn, err := k.store.Read(0)
	if err != nil {
		return nil, err
	}
	defer txn.Close()
	return apply.ReadTxn(ctx, txn, req, k.store.CompactRevision())
}

func (k kv) Pin(_ context.Context, rev int64) (rpc.PinnedReader, error) {
	current := k.store.Revision()
	txn, err := k.store.Read(rev)
	if err != nil {
		return nil, err
	}
	return pinned{ReadTxn: txn, storeRev: max(current, txn.Rev())}, nil
}

// pinned pages through one revision.
type pinned struct {
	*mvcc.ReadTxn
	storeRev int64
}

func (p pinned) StoreRevision() int64 { return p.storeRev }

func (p pinned) Page(ctx context.Context, key, end []byte, limit int64, keysOnly bool) ([]*mvccpb.KeyValue, bool, error) {
	found, err := p.Range(ctx, key, end, mvcc.RangeOptions{Limit: limit + 1, KeysOnly: keysOnly, NoCount: true})
	if err != nil {
		return nil, false, err
	}
	if int64(len(found.KVs)) > limit {
		return found.KVs[:limit], true, nil
	}
	return found.KVs, false, nil
}

func (p pinned) Count(ctx context.Context, key, end []byte) (int64, error) {
	found, err := p.Range(ctx, key, end, mvcc.RangeOptions{CountOnly: true})
	if err != nil {
		return 0, err
	}
	return found.Count, nil
}
