package rpc

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/mvcc/watch"
	"github.com/upkeep-kv/upkeep/raftnode"

	"github.com/upkeep-kv/upkeep/server/schedule"
)

// strange are the texts whose code on the wire is not the one that etcd's client library declares, or that it does not
// declare at all.
var strange = map[string]codes.Code{
	"etcdserver: re-configuration failed due to not enough started members": codes.Unknown,
	"etcdserver: too many requests":                                         codes.Unknown,
	"etcdserver: request timed out, leader transfer took too long":          codes.Unknown,
	"etcdserver: unknown method":                                            codes.Unknown,
	"etcdserver: state was replaced by a snapshot":                          codes.Unavailable,
	"etcdserver: defragmentation is already running":                        codes.FailedPrecondition,
	"etcdserver: not enough free disk space":                                codes.ResourceExhausted,
	"RangeStream does not support custom sort orders":                       codes.Unimplemented,
	schedule.ErrBusy.Error():                                                codes.FailedPrecondition,
	schedule.ErrPaused.Error():                                              codes.FailedPrecondition,
	schedule.ErrNotOpen.Error():                                             codes.FailedPrecondition,
	schedule.ErrTooManyRuns.Error():                                         codes.FailedPrecondition,
	"RangeStream does not support revision filters":                         codes.Unimplemented,
}

// TestErrorTexts holds every line of the table against what etcd's client library knows: the text must be one of its, with
// the same code, but for the strange ones.
func TestErrorTexts(t *testing.T) {
	for _, e := range wireErrors() {
		st := status.Convert(e.status())
		if want, ok := strange[st.Message()]; ok {
			if st.Code() != want {
				t.Errorf("%v: code %v, want %v", e.sentinel, st.Code(), want)
			}
			continue
		}
		var known rpctypes.EtcdError
		if !errors.As(rpctypes.Error(e.status()), &known) {
			// Not in the library's reverse table. These are declared all the same.
			if !declared(e.status()) {
				t.Errorf("%v: text %q is unknown to etcd's clients", e.sentinel, st.Message())
			}
			continue
		}
		if known.Code() != st.Code() {
			t.Errorf("%v: code %v, clients expect %v", e.sentinel, st.Code(), known.Code())
		}
	}
}

func declared(err error) bool {
	for _, known := range []error{
		rpctypes.ErrGRPCCanceled, rpctypes.ErrGRPCDeadlineExceeded, rpctypes.ErrGRPCInvalidClientAPIVersion,
		rpctypes.ErrGRPCTimeoutWaitAppliedIndex, rpctypes.ErrGRPCPermissionNotGiven,
	} {
		if status.Code(known) == status.Code(err) && known.Error() == err.Error() {
			return true
		}
	}
	return false
}

func TestStatus(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"sentinel", ErrEmptyKey, codes.InvalidArgument, "etcdserver: key is not provided"},
		{"wrapped", fmt.Errorf("range: %w", watch.ErrCompacted), codes.OutOfRange,
			"etcdserver: mvcc: required revision has been compacted"},
		{"raft", raftnode.ErrTimeoutLeaderFail, codes.Unavailable,
			"etcdserver: request timed out, possibly due to previous leader failure"},
		{"too many", raftnode.ErrTooManyRequests, codes.Unknown, "etcdserver: too many requests"},
		{"raw text", ErrStreamSort, codes.Unimplemented, "RangeStream does not support custom sort orders"},
		{"context", context.Canceled, codes.Canceled, "etcdserver: request canceled"},
		{"unknown", errors.New("disk on fire"), codes.Unknown, "disk on fire"},
		{"answered by another member", fmt.Errorf("forward: %w", status.Error(codes.NotFound, "etcdserver: member not found")),
			codes.NotFound, "etcdserver: member not found"},
	} {
		st := status.Convert(Status(test.err))
		if st.Code() != test.code || st.Message() != test.text {
			t.Errorf("%s: got %v %q, want %v %q", test.name, st.Code(), st.Message(), test.code, test.text)
		}
	}
	if err := Status(nil); err != nil {
		t.Errorf("nil: got %v", err)
	}
}
