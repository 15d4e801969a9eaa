package rpc

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/mvcc/lease"
	"github.com/upkeep-kv/upkeep/mvcc/watch"
	"github.com/upkeep-kv/upkeep/quota"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/server/apply"
	"github.com/upkeep-kv/upkeep/server/auth"
	"github.com/upkeep-kv/upkeep/server/member"
)

// Errors that the services themselves find, and that implementations of Deps return where no package of the state side
// has a word for it.
var (
	ErrEmptyKey                = errors.New("key is not provided")
	ErrTooManyOps              = errors.New("too many operations in txn request")
	ErrDuplicateKey            = errors.New("duplicate key given in txn request")
	ErrInvalidSortOption       = errors.New("invalid sort option")
	ErrInvalidClientAPIVersion = errors.New("invalid client api version")
	ErrLearner                 = errors.New("rpc not supported for learner")

	ErrDowngradeFormat      = errors.New("wrong downgrade target version format")
	ErrDowngradeTarget      = errors.New("invalid downgrade target version")
	ErrDowngradeNoVersion   = errors.New("cluster version not found during downgrade")
	ErrDowngradeInProgress  = errors.New("cluster has a downgrade job in progress")
	ErrStreamSort           = errors.New("RangeStream does not support custom sort orders")
	ErrStreamRevisionFilter = errors.New("RangeStream does not support revision filters")

	// Of locks and elections. They are in no table: clients get the text as it is.
	ErrLockExpired   = errors.New("mutex: session is expired")
	ErrNotElected    = errors.New("election: not leader")
	ErrNoneElected   = errors.New("election: no leader")
	ErrObserveClosed = errors.New("election: observe closed early")
	ErrNoLeaderKey   = errors.New(`"leader" field must be provided`)
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
	return slices.Concat(requestErrors(), stateErrors(), clusterErrors(), authErrors(), scheduleErrors())
}

// requestErrors: the request makes no sense.
func requestErrors() []wireError {
	return []wireError{
		{sentinel: ErrEmptyKey, code: codes.InvalidArgument, text: "key is not provided"},
		{sentinel: ErrTooManyOps, code: codes.InvalidArgument, text: "too many operations in txn request"},
		{sentinel: ErrDuplicateKey, code: codes.InvalidArgument, text: "duplicate key given in txn request"},
		{sentinel: ErrInvalidSortOption, code: codes.InvalidArgument, text: "invalid sort option"},
		{sentinel: ErrInvalidClientAPIVersion, code: codes.InvalidArgument, text: "invalid client api version"},
		{sentinel: member.ErrInvalidURLs, code: codes.InvalidArgument, text: "given member URLs are invalid"},
		{sentinel: apply.ErrKeyNotFound, code: codes.InvalidArgument, text: "key not found"},
		{sentinel: apply.ErrValueProvided, code: codes.InvalidArgument, text: "value is provided"},
		{sentinel: apply.ErrLeaseProvided, code: codes.InvalidArgument, text: "lease is provided"},
		{sentinel: apply.ErrUnknownCommand, code: codes.Unknown, text: "unknown method"},
		{sentinel: ErrDowngradeFormat, code: codes.InvalidArgument, text: "wrong downgrade target version format"},
		{sentinel: ErrDowngradeTarget, code: codes.InvalidArgument, text: "invalid downgrade target version"},
		{sentinel: ErrDowngradeNoVersion, code: codes.FailedPrecondition, text: "cluster version not found during downgrade"},
		{sentinel: ErrDowngradeInProgress, code: codes.FailedPrecondition, text: "cluster has a downgrade job in progress"},
		{sentinel: ErrStreamSort, code: codes.Unimplemented, text: ErrStreamSort.Error(), raw: true},
		{sentinel: ErrStreamRevisionFilter, code: codes.Unimplemented, text: ErrStreamRevisionFilter.Error(), raw: true},
		{sentinel: raftnode.ErrRequestTooLarge, code: codes.InvalidArgument, text: "request is too large"},
	}
}

// stateErrors: the store, its leases or the disk say no.
func stateErrors() []wireError {
	return []wireError{
		{sentinel: quota.ErrNoSpace, code: codes.ResourceExhausted, text: "mvcc: database space exceeded"},
		{sentinel: quota.ErrCorrupt, code: codes.DataLoss, text: "corrupt cluster"},
		{sentinel: lease.ErrNotFound, code: codes.NotFound, text: "requested lease not found"},
		{sentinel: lease.ErrExists, code: codes.FailedPrecondition, text: "lease already exists"},
		{sentinel: watch.ErrCompacted, code: codes.OutOfRange, text: "mvcc: required revision has been compacted"},
		{sentinel: mvcc.ErrCompacted, code: codes.OutOfRange, text: "mvcc: required revision has been compacted"},
		{sentinel: mvcc.ErrFutureRevision, code: codes.OutOfRange, text: "mvcc: required revision is a future revision"},
		{sentinel: lease.ErrTTLTooLarge, code: codes.OutOfRange, text: "too large lease TTL"},
		{sentinel: mvcc.ErrClosed, code: codes.Unavailable, text: "server stopped"},
		{sentinel: lease.ErrClosed, code: codes.Unavailable, text: "server stopped"},
		{sentinel: backend.ErrClosed, code: codes.Unavailable, text: "server stopped"},
		{sentinel: watch.ErrClosed, code: codes.Unavailable, text: "server stopped"},

		// Ours: etcd knows no such refusals.
		{sentinel: backend.ErrBusy, code: codes.FailedPrecondition, text: "defragmentation is already running"},
		{sentinel: backend.ErrNoDiskSpace, code: codes.ResourceExhausted, text: "not enough free disk space"},
		{sentinel: backend.ErrReplaced, code: codes.Unavailable, text: "state was replaced by a snapshot"},
	}
}

// clusterErrors: the other members, or the place of this one among them, say no; or the caller gave up.
func clusterErrors() []wireError {
	return []wireError{
		{sentinel: member.ErrMemberNotFound, code: codes.NotFound, text: "member not found"},
		{sentinel: member.ErrIDRemoved, code: codes.NotFound, text: "member not found"},
		{sentinel: member.ErrIDExists, code: codes.FailedPrecondition, text: "member ID already exist"},
		{sentinel: member.ErrPeerURLExists, code: codes.FailedPrecondition, text: "Peer URLs already exists"},
		{sentinel: member.ErrNotLearner, code: codes.FailedPrecondition, text: "can only promote a learner member"},
		{sentinel: member.ErrLearnerNotReady, code: codes.FailedPrecondition,
			text: "can only promote a learner member which is in sync with leader"},
		{sentinel: member.ErrTooManyLearners, code: codes.FailedPrecondition, text: "too many learner members in cluster"},
		{sentinel: member.ErrUnhealthy, code: codes.Unavailable, text: "unhealthy cluster"},
		{sentinel: ErrLearner, code: codes.FailedPrecondition, text: "rpc not supported for learner"},
		{sentinel: raftnode.ErrNoLeader, code: codes.Unavailable, text: "no leader"},
		{sentinel: raftnode.ErrLeaderChanged, code: codes.Unavailable, text: "leader changed"},
		{sentinel: raftnode.ErrStopped, code: codes.Unavailable, text: "server stopped"},
		{sentinel: raftnode.ErrRemoved, code: codes.Unavailable, text: "server stopped"},
		{sentinel: raftnode.ErrTimeout, code: codes.Unavailable, text: "request timed out"},
		{sentinel: raftnode.ErrTimeoutLeaderFail, code: codes.Unavailable,
			text: "request timed out, possibly due to previous leader failure"},
		{sentinel: raftnode.ErrTimeoutConnectionLost, code: codes.Unavailable, text: "request timed out, possibly due to connection lost"},
		{sentinel: raftnode.ErrTimeoutWaitApplied, code: codes.Unavailable,
			text: "request timed out, waiting for the applied index took too long"},
		{sentinel: raftnode.ErrNotLeader, code: codes.FailedPrecondition, text: "not leader"},
		{sentinel: raftnode.ErrBadTransferee, code: codes.FailedPrecondition, text: "bad leader transferee"},
		{sentinel: context.Canceled, code: codes.Canceled, text: "request canceled"},
		{sentinel: context.DeadlineExceeded, code: codes.DeadlineExceeded, text: "context deadline exceeded"},

		// Meant to have better codes; clients have always seen these.
		{sentinel: member.ErrNotEnoughStarted, code: codes.Unknown,
			text: "re-configuration failed due to not enough started members"},
		{sentinel: raftnode.ErrTooManyRequests, code: codes.Unknown, text: "too many requests"},
		{sentinel: raftnode.ErrTimeoutLeaderTransfer, code: codes.Unknown,
			text: "request timed out, leader transfer took too long"},
	}
}

// authErrors: the caller may not, or what it wants of users and roles makes no sense.
func authErrors() []wireError {
	invalid, failed := codes.InvalidArgument, codes.FailedPrecondition
	table := []wireError{
		{sentinel: auth.ErrPermissionDenied, code: codes.PermissionDenied},
		{sentinel: auth.ErrInvalidToken, code: codes.Unauthenticated},
		{sentinel: auth.ErrUserEmpty, code: invalid}, {sentinel: auth.ErrRoleEmpty, code: invalid},
		{sentinel: auth.ErrAuthFailed, code: invalid}, {sentinel: auth.ErrPermissionGiven, code: invalid},
		{sentinel: auth.ErrInvalidManagement, code: invalid}, {sentinel: auth.ErrOldRevision, code: invalid},
		{sentinel: auth.ErrRootUserMissing, code: failed}, {sentinel: auth.ErrRootRoleMissing, code: failed},
		{sentinel: auth.ErrUserExists, code: failed}, {sentinel: auth.ErrUserNotFound, code: failed},
		{sentinel: auth.ErrRoleExists, code: failed}, {sentinel: auth.ErrRoleNotFound, code: failed},
		{sentinel: auth.ErrRoleNotGranted, code: failed}, {sentinel: auth.ErrPermissionMissing, code: failed},
		{sentinel: auth.ErrNotEnabled, code: failed},
	}
	for i := range table {
		table[i].text = table[i].sentinel.Error()
	}
	return table
}

// wireTable is wireErrors, each with its status. It is never changed.
var wireTable = func() (table []tableLine) {
	for _, e := range wireErrors() {
		table = append(table, tableLine{sentinel: e.sentinel, status: e.status()})
	}
	return table
}()

type tableLine struct{ sentinel, status error }

func (e wireError) status() error {
	if e.raw {
		return status.Error(e.code, e.text)
	}
	return status.Error(e.code, textPrefix+e.text)
}

// Status returns err as clients must see it: by the table, or as code Unknown with its own text. An error that is a status
// already, such as one that another member answered, stays.
func Status(err error) error {
	if err == nil {
		return nil
	}
	var carrier interface{ GRPCStatus() *status.Status }
	if errors.As(err, &carrier) {
		return carrier.GRPCStatus().Err()
	}
	for _, line := range wireTable {
		if errors.Is(err, line.sentinel) {
			return line.status
		}
	}
	return status.Error(codes.Unknown, err.Error())
}
