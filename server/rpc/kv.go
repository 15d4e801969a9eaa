package rpc

import (
	"context"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/server/apply"
)

// kvService serves keys and values. Source of the order of checks and of all semantics: etcd's behaviour.
type kvService struct {
	pb.UnimplementedKVServer
	service
}

func (s *kvService) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	if !r.Serializable {
		if err := s.KV.LinearizableRead(ctx); err != nil {
			return nil, err
		}
	}
	allowed, err := s.access(ctx)
	if err != nil {
		return nil, err
	}
	if err := allowed.read(r.Key, r.RangeEnd); err != nil {
		return nil, err
	}
	resp, err := s.KV.Range(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := allowed.fresh(); err != nil {
		return nil, err
	}
	resp.Header = s.header(resp.Header)
	return resp, nil
}

func (s *kvService) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	command := &pb.InternalRaftRequest{Put: r}
	if err := s.Admission.Admit(ctx, command); err != nil {
		return nil, err
	}
	if err := checkPut(r); err != nil {
		return nil, err
	}
	resp, err := propose[*pb.PutResponse](ctx, s.Proposer, command)
	if err != nil {
		return nil, err
	}
	resp.Header = s.header(resp.Header)
	return resp, nil
}

func (s *kvService) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := checkDeleteRange(r); err != nil {
		return nil, err
	}
	resp, err := propose[*pb.DeleteRangeResponse](ctx, s.Proposer, &pb.InternalRaftRequest{DeleteRange: r})
	if err != nil {
		return nil, err
	}
	resp.Header = s.header(resp.Header)
	return resp, nil
}

// Txn sends a transaction through the log, unless it only reads.
func (s *kvService) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	command := &pb.InternalRaftRequest{Txn: r}
	if err := s.Admission.Admit(ctx, command); err != nil {
		return nil, err
	}
	if err := checkTxn(r, s.opts.MaxTxnOps); err != nil {
		return nil, err
	}
	var resp *pb.TxnResponse
	var err error
	if readOnly(r) {
		resp, err = s.readTxn(ctx, r)
	} else {
		resp, err = propose[*pb.TxnResponse](ctx, s.Proposer, command)
	}
	if err != nil {
		return nil, err
	}
	resp.Header = s.header(resp.Header)
	return resp, nil
}

func (s *kvService) readTxn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if !serializable(r) {
		if err := s.KV.LinearizableRead(ctx); err != nil {
			return nil, err
		}
	}
	allowed, err := s.access(ctx)
	if err != nil {
		return nil, err
	}
	if allowed.auth == nil {
		return s.KV.ReadTxn(ctx, r)
	}
	if err := apply.AuthorizeReadTxn(allowed.auth, allowed.id, r); err != nil {
		return nil, err
	}
	resp, err := s.KV.ReadTxn(ctx, r)
	if err != nil {
		return nil, err
	}
	return resp, allowed.fresh()
}

// Compact raises the compaction floor. A physical one waits for the deletion too, and so does one that comes too late
// and is refused: the deletion that it would have asked for may still be under way.
func (s *kvService) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	value, err := s.Proposer.Propose(ctx, &pb.InternalRaftRequest{Compaction: r})
	if result, ok := value.(CompactResult); ok && r.Physical && result.Done() != nil {
		select {
		case <-result.Done():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	return &pb.CompactionResponse{Header: s.Headers.Header()}, nil
}
