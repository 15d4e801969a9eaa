package quota

import (
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

const (
	// putOverheadBytes stands for the index entry, the revision key and the page share of one put. Source: etcd.
	putOverheadBytes = 256
	// leaseGrantBytes is the cost of a lease record. Source: etcd.
	leaseGrantBytes = 64
)

// Cost returns how many bytes r may add to the database, 0 for a request that cannot add any. A transaction costs the
// dearer of its two branches.
func Cost(r *pb.InternalRaftRequest) int64 {
	switch {
	case r.Put != nil:
		return putCost(r.Put)
	case r.Txn != nil:
		return txnCost(r.Txn)
	case r.LeaseGrant != nil:
		return leaseGrantBytes
	}
	return 0
}

func putCost(r *pb.PutRequest) int64 {
	return putOverheadBytes + int64(len(r.Key)) + int64(len(r.Value))
}

func txnCost(r *pb.TxnRequest) int64 {
	return max(branchCost(r.Success), branchCost(r.Failure))
}

func branchCost(ops []*pb.RequestOp) int64 {
	var sum int64
	for _, op := range ops {
		switch {
		case op.GetRequestPut() != nil:
			sum += putCost(op.GetRequestPut())
		case op.GetRequestTxn() != nil:
			sum += txnCost(op.GetRequestTxn())
		}
	}
	return sum
}
