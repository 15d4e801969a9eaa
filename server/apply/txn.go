package apply

import (
	"context"
	"errors"
	"fmt"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// A transaction runs in three steps: plan evaluates every comparison of the whole tree against the state before the
// transaction, check validates the operations on the chosen path against the same state, and only then are they
// executed. A failure in the first two leaves nothing behind; the third fails only where the database is damaged.

// errHalfTxn is a failure of the third step.
var errHalfTxn = errors.New("a checked transaction failed")

// plan is the path that a transaction takes: its own outcome and that of each nested transaction on that path, in
// order.
type plan struct {
	succeeded bool
	nested    []*plan
}

// chosen returns the operations on the path.
func (p *plan) chosen(r *pb.TxnRequest) []*pb.RequestOp {
	if p.succeeded {
		return r.Success
	}
	return r.Failure
}

func planTxn(read ranger, r *pb.TxnRequest) (*plan, error) {
	succeeded, err := holds(read, r.Compare)
	if err != nil {
		return nil, err
	}
	p := &plan{succeeded: succeeded}
	for _, op := range p.chosen(r) {
		nested := op.GetRequestTxn()
		if nested == nil {
			continue
		}
		child, err := planTxn(read, nested)
		if err != nil {
			return nil, err
		}
		p.nested = append(p.nested, child)
	}
	return p, nil
}

// checkTxn refuses a transaction whose chosen path names an unknown lease, keeps what is not there, or reads a
// revision that is compacted or still to come.
func (m *Machine) checkTxn(read ranger, r *pb.TxnRequest, p *plan) error {
	nested := p.nested
	for _, op := range p.chosen(r) {
		var err error
		switch {
		case op.GetRequestRange() != nil:
			err = checkRevision(op.GetRequestRange().Revision, m.Store.Revision(), m.Store.CompactRevision())
		case op.GetRequestPut() != nil:
			_, err = m.checkPut(read, op.GetRequestPut())
		case op.GetRequestTxn() != nil:
			err = m.checkTxn(read, op.GetRequestTxn(), nested[0])
			nested = nested[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkRevision refuses a range inside a transaction. Unlike one on its own, it takes a negative revision for a very old
// one, as etcd does.
func checkRevision(rev, current, floor int64) error {
	switch {
	case rev == 0:
		return nil
	case rev > current:
		return mvcc.ErrFutureRevision
	case rev < floor:
		return mvcc.ErrCompacted
	}
	return nil
}

// txn applies a transaction.
func (m *Machine) txn(batch *backend.Batch, r *pb.TxnRequest) (any, error) {
	w := m.Store.Begin(batch)
	p, err := planTxn(w, r)
	if err == nil {
		err = m.checkTxn(w, r, p)
	}
	if err != nil {
		m.end(w)
		return nil, err
	}
	resp, err := m.runTxn(w, r, p)
	if err != nil {
		// The path was checked: a failure here would leave half a transaction, differently on each member.
		return nil, fmt.Errorf("%w: %w", errHalfTxn, err)
	}
	resp.Header.Revision = m.end(w)
	return resp, nil
}

// runTxn executes the chosen path. Nested responses carry an empty header, as etcd's do.
func (m *Machine) runTxn(w *mvcc.WriteTxn, r *pb.TxnRequest, p *plan) (*pb.TxnResponse, error) {
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: p.succeeded}
	nested := p.nested
	for _, op := range p.chosen(r) {
		out := &pb.ResponseOp{}
		switch {
		case op.GetRequestRange() != nil:
			found, err := rangeIn(w, op.GetRequestRange())
			if err != nil {
				return nil, err
			}
			out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: found}
		case op.GetRequestPut() != nil:
			prev, err := previous(w, op.GetRequestPut())
			if err != nil {
				return nil, err
			}
			out.Response = &pb.ResponseOp_ResponsePut{ResponsePut: putIn(w, op.GetRequestPut(), prev)}
		case op.GetRequestDeleteRange() != nil:
			deleted, err := m.deleteIn(w, op.GetRequestDeleteRange())
			if err != nil {
				return nil, err
			}
			out.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: deleted}
		case op.GetRequestTxn() != nil:
			child, err := m.runTxn(w, op.GetRequestTxn(), nested[0])
			if err != nil {
				return nil, err
			}
			nested = nested[1:]
			out.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: child}
		}
		resp.Responses = append(resp.Responses, out)
	}
	return resp, nil
}

// Pinned is a read transaction of the store.
type Pinned interface {
	Reader
	Rev() int64
}

// ReadTxn runs a transaction of nothing but ranges on read. floor is the store's compact revision.
func ReadTxn(ctx context.Context, read Pinned, r *pb.TxnRequest, floor int64) (*pb.TxnResponse, error) {
	succeeded, err := holds(reader{ctx, read}, r.Compare)
	if err != nil {
		return nil, err
	}
	ops := (&plan{succeeded: succeeded}).chosen(r)
	for _, op := range ops {
		if err := checkRevision(op.GetRequestRange().Revision, read.Rev(), floor); err != nil {
			return nil, err
		}
	}
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: read.Rev()}, Succeeded: succeeded}
	for _, op := range ops {
		found, err := Range(ctx, read, op.GetRequestRange())
		if err != nil {
			return nil, err
		}
		resp.Responses = append(resp.Responses,
			&pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: found}})
	}
	return resp, nil
}
