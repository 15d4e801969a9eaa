package rpc

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/mvcc/watch"
	"github.com/upkeep-kv/upkeep/raftnode"
)

// Errors that the services themselves find, and that implementations of Deps return where no package of the state side
// has a word for it.
var (
	ErrEmptyKey                = errors.New("key is not provided")
	ErrKeyNotFound             = errors.New("key not found")
	ErrValueProvided           = errors.New("value is provided")
	ErrLeaseProvided           = errors.New("lease is provided")
	ErrTooManyOps              = errors.New("too many operations in txn request")
	ErrDuplicateKey            = errors.New("duplicate key given in txn request")
	ErrInvalidSortOption       = errors.New("invalid sort option")
	ErrInvalidClientAPIVersion = errors.New("invalid client api version")
	ErrInvalidURLs             = errors.New("given member URLs are invalid")
	ErrNoLeader                = errors.New("no leader")
	ErrLearner                 = errors.New("rpc not supported for learner")
	ErrNotCapable              = errors.New("not capable")
	ErrStopped                 = errors.New("server stopped")
	ErrWaitAppliedIndex        = errors.New("request timed out, waiting for the applied index took too long")
	ErrConnectionLost          = errors.New("request timed out, possibly due to connection lost")
	ErrClusterIDMismatch       = errors.New("cluster ID mismatch")
	ErrLeaseNotFound           = errors.New("requested lease not found")
	ErrLeaseExists             = errors.New("lease already exists")
	ErrFutureRevision          = errors.New("mvcc: required revision is a future revision")
	ErrUnknownMethod           = errors.New("unknown method")

	ErrDowngradeFormat      = errors.New("wrong downgrade target version format")
	ErrDowngradeTarget      = errors.New("invalid downgrade target version")
	ErrDowngradeNoVersion   = errors.New("cluster version not found during downgrade")
	ErrDowngradeInProgress  = errors.New("cluster has a downgrade job in progress")
	ErrNoInflightDowngrade  = errors.New("no inflight downgrade job")
	ErrStreamSort           = errors.New("RangeStream does not support custom sort orders")
	ErrStreamRevisionFilter = errors.New("RangeStream does not support revision filters")
)

// wireError is one line of the table: what clients see of a sentinel. They match on the text, so it is etcd's to the
// letter, and so is the code where it is a strange one.
type wireError struct {
	sentinel error
	code     codes.Code
	text     string // without textPrefix unless raw
	raw      bool   // text stands alone
}

const textPrefix = "etcdserver: "

// wireErrors is the one table from errors of all our packages to what stands on the wire.
func wireErrors() []wireError {
	return []wireError{
		{sentinel: ErrEmptyKey, code: codes.InvalidArgument, text: "key is not provided"},
		{sentinel: ErrKeyNotFound, code: codes.InvalidArgument, text: "key not found"},
		{sentinel: ErrValueProvided, code: codes.InvalidArgument, text: "value is provided"},
		{sentinel: ErrLeaseProvided, code: codes.InvalidArgument, text: "lease is provided"},
		{sentinel: ErrTooManyOps, code: codes.InvalidArgument, text: "too many operations in txn request"},
		{sentinel: ErrDuplicateKey, code: codes.InvalidArgument, text: "duplicate key given in txn request"},
		{sentinel: ErrInvalidSortOption, code: codes.InvalidArgument, text: "invalid sort option"},
		{sentinel: ErrInvalidClientAPIVersion, code: codes.InvalidArgument, text: "invalid client api version"},
		{sentinel: ErrInvalidURLs, code: codes.InvalidArgument, text: "given member URLs are invalid"},
		{sentinel: ErrLearner, code: codes.FailedPrecondition, text: "rpc not supported for learner"},
		{sentinel: ErrNotCapable, code: codes.FailedPrecondition, text: "not capable"},
		{sentinel: ErrClusterIDMismatch, code: codes.FailedPrecondition, text: "cluster ID mismatch"},
		{sentinel: ErrLeaseNotFound, code: codes.NotFound, text: "requested lease not found"},
		{sentinel: ErrLeaseExists, code: codes.FailedPrecondition, text: "lease already exists"},
		{sentinel: watch.ErrCompacted, code: codes.OutOfRange, text: "mvcc: required revision has been compacted"},
		{sentinel: ErrFutureRevision, code: codes.OutOfRange, text: "mvcc: required revision is a future revision"},
		{sentinel: watch.ErrClosed, code: codes.Unavailable, text: "server stopped"},
		{sentinel: ErrUnknownMethod, code: codes.Unknown, text: "unknown method"},

		{sentinel: ErrDowngradeFormat, code: codes.InvalidArgument, text: "wrong downgrade target version format"},
		{sentinel: ErrDowngradeTarget, code: codes.InvalidArgument, text: "invalid downgrade target version"},
		{sentinel: ErrDowngradeNoVersion, code: codes.FailedPrecondition, text: "cluster version not found during downgrade"},
		{sentinel: ErrDowngradeInProgress, code: codes.FailedPrecondition, text: "cluster has a downgrade job in progress"},
		{sentinel: ErrNoInflightDowngrade, code: codes.FailedPrecondition, text: "no inflight downgrade job"},
		{sentinel: ErrStreamSort, code: codes.Unimplemented, text: ErrStreamSort.Error(), raw: true},
		{sentinel: ErrStreamRevisionFilter, code: codes.Unimplemented, text: ErrStreamRevisionFilter.Error(), raw: true},

		{sentinel: ErrNoLeader, code: codes.Unavailable, text: "no leader"},
		{sentinel: raftnode.ErrNoLeader, code: codes.Unavailable, text: "no leader"},
		{sentinel: raftnode.ErrLeaderChanged, code: codes.Unavailable, text: "leader changed"},
		{sentinel: ErrStopped, code: codes.Unavailable, text: "server stopped"},
		{sentinel: raftnode.ErrStopped, code: codes.Unavailable, text: "server stopped"},
		{sentinel: raftnode.ErrRemoved, code: codes.Unavailable, text: "server stopped"},
		{sentinel: raftnode.ErrTimeout, code: codes.Unavailable, text: "request timed out"},
		{sentinel: raftnode.ErrTimeoutLeaderFail, code: codes.Unavailable,
			text: "request timed out, possibly due to previous leader failure"},
		{sentinel: ErrConnectionLost, code: codes.Unavailable, text: "request timed out, possibly due to connection lost"},
		{sentinel: ErrWaitAppliedIndex, code: codes.Unavailable,
			text: "request timed out, waiting for the applied index took too long"},
		{sentinel: raftnode.ErrRequestTooLarge, code: codes.InvalidArgument, text: "request is too large"},
		{sentinel: raftnode.ErrNotLeader, code: codes.FailedPrecondition, text: "not leader"},
		{sentinel: raftnode.ErrBadTransferee, code: codes.FailedPrecondition, text: "bad leader transferee"},
		// The next two were meant to have better codes; clients have always seen these.
		{sentinel: raftnode.ErrTooManyRequests, code: codes.Unknown, text: "too many requests"},
		{sentinel: raftnode.ErrTimeoutLeaderTransfer, code: codes.Unknown,
			text: "request timed out, leader transfer took too long"},

		{sentinel: context.Canceled, code: codes.Canceled, text: "request canceled"},
		{sentinel: context.DeadlineExceeded, code: codes.DeadlineExceeded, text: "context deadline exceeded"},
	}
}

// errorTable finds the status of an error. It is built once per server and only read after that.
type errorTable struct {
	bySentinel map[error]error
	ordered    []wireError
}

func newErrorTable() *errorTable {
	t := &errorTable{ordered: wireErrors(), bySentinel: make(map[error]error)}
	for _, e := range t.ordered {
		t.bySentinel[e.sentinel] = e.status()
	}
	return t
}

func (e wireError) status() error {
	if e.raw {
		return status.Error(e.code, e.text)
	}
	return status.Error(e.code, textPrefix+e.text)
}

// toStatus returns err as clients must see it: by the table, or as code Unknown with its own text. An error that is a
// status already, such as one that another member answered, stays.
func (t *errorTable) toStatus(err error) error {
	if err == nil {
		return nil
	}
	var carrier interface{ GRPCStatus() *status.Status }
	if errors.As(err, &carrier) {
		return carrier.GRPCStatus().Err()
	}
	for _, e := range t.ordered {
		if errors.Is(err, e.sentinel) {
			return t.bySentinel[e.sentinel]
		}
	}
	return status.Error(codes.Unknown, err.Error())
}
