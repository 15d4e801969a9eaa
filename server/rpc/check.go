package rpc

import (
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/server/apply"
)

// checkRange refuses a range that no state of the store could answer.
func checkRange(r *pb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return ErrEmptyKey
	}
	if _, known := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]; !known {
		return ErrInvalidSortOption
	}
	if _, known := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]; !known {
		return ErrInvalidSortOption
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.GetKey()) == 0:
		return ErrEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return apply.ErrValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return apply.ErrLeaseProvided
	}
	return nil
}

func checkDeleteRange(r *pb.DeleteRangeRequest) error {
	if len(r.GetKey()) == 0 {
		return ErrEmptyKey
	}
	return nil
}

// checkTxn refuses a transaction that is too long, has an ill-formed operation or writes a key twice. Each operation is
// looked at before any overlap.
func checkTxn(r *pb.TxnRequest, maxOps int) error {
	if err := checkTxnOps(r, maxOps); err != nil {
		return err
	}
	if _, err := collectWrites(r.Success); err != nil {
		return err
	}
	_, err := collectWrites(r.Failure)
	return err
}

// checkTxnOps checks one transaction and those nested in it, which have to do with what the outer ones left of maxOps.
func checkTxnOps(r *pb.TxnRequest, maxOps int) error {
	longest := max(len(r.GetCompare()), len(r.GetSuccess()), len(r.GetFailure()))
	if longest > maxOps {
		return ErrTooManyOps
	}
	for _, c := range r.GetCompare() {
		if len(c.GetKey()) == 0 {
			return ErrEmptyKey
		}
	}
	for _, ops := range [2][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range ops {
			if err := checkOp(op, maxOps-longest); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, maxOps int) error {
	switch r := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(r.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(r.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return checkDeleteRange(r.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkTxnOps(r.RequestTxn, maxOps)
	}
	// etcd's answer to an operation with nothing in it.
	return apply.ErrKeyNotFound
}

// writes is what one branch of a transaction writes, nested transactions included.
type writes struct {
	puts    map[string]struct{}
	deletes []span
}

// span is the keys of a delete. An empty end means the single key begin.
type span struct{ begin, end []byte }

// covers tells whether key lies in s by etcd's rule for transactions, which takes a range end as it stands: the zero byte
// that elsewhere means "all keys from begin on" makes an empty range here.
func (s span) covers(key string) bool {
	if len(s.end) == 0 {
		return string(s.begin) == key
	}
	return string(s.begin) <= key && key < string(s.end)
}

// collectWrites gathers the writes of ops and refuses a key that is put twice, or put and deleted: the result would
// depend on the order. Deleting twice and reading is fine. Of a nested transaction only one branch runs, so that its
// branches are each held against the rest but not against each other. As in etcd, what a nested transaction deletes is
// not held against the puts of nested transactions before it, but only against those of later ones and of this level.
func collectWrites(ops []*pb.RequestOp) (writes, error) {
	var w writes
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			w.deletes = append(w.deletes, span{d.Key, d.RangeEnd})
		}
	}
	// Puts of nested transactions before those of this level: an error is the same error whichever comes first.
	for _, op := range ops {
		nested := op.GetRequestTxn()
		if nested == nil {
			continue
		}
		success, err := collectWrites(nested.Success)
		if err != nil {
			return w, err
		}
		failure, err := collectWrites(nested.Failure)
		if err != nil {
			return w, err
		}
		if w.clashes(success) || w.clashes(failure) {
			return w, ErrDuplicateKey
		}
		w.add(success)
		w.add(failure)
	}
	for _, op := range ops {
		put := op.GetRequestPut()
		if put == nil {
			continue
		}
		if w.touches(string(put.Key)) {
			return w, ErrDuplicateKey
		}
		w.put(string(put.Key))
	}
	return w, nil
}

// touches tells whether key is put or deleted.
func (w *writes) touches(key string) bool {
	if _, put := w.puts[key]; put {
		return true
	}
	for _, d := range w.deletes {
		if d.covers(key) {
			return true
		}
	}
	return false
}

// clashes tells whether other puts a key that w puts or deletes.
func (w *writes) clashes(other writes) bool {
	for key := range other.puts {
		if w.touches(key) {
			return true
		}
	}
	return false
}

func (w *writes) add(other writes) {
	for key := range other.puts {
		w.put(key)
	}
	w.deletes = append(w.deletes, other.deletes...)
}

func (w *writes) put(key string) {
	if w.puts == nil {
		w.puts = make(map[string]struct{})
	}
	w.puts[key] = struct{}{}
}

// readOnly tells whether a transaction can be answered without the log: nothing but ranges in both branches. A nested
// transaction goes through the log whatever it holds.
func readOnly(r *pb.TxnRequest) bool {
	for _, ops := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if _, ok := op.GetRequest().(*pb.RequestOp_RequestRange); !ok {
				return false
			}
		}
	}
	return true
}

// serializable tells whether a read-only transaction may be answered from local state: all its ranges say so. One
// without any range is, too.
func serializable(r *pb.TxnRequest) bool {
	for _, ops := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if !op.GetRequestRange().GetSerializable() {
				return false
			}
		}
	}
	return true
}
