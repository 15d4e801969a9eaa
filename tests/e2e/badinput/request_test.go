package badinput

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestBadRequests: each is refused with etcd's words and code, through the real client, and changes nothing.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"upkeep", "etcd"} {
		t.Run(name, func(t *testing.T) {
			program := upkeep(t)
			if name == "etcd" { // what is expected here is what etcd does
				program = proc.Peer(t, "etcd")
			}
			m := proc.Single(t, program, filepath.Join(t.TempDir(), "data"), peerURL(t), "--max-txn-ops=4")
			badRequests(t, m)
		})
	}
}

func badRequests(t *testing.T, m *proc.Member) {
	client, ctx := m.Client(), t.Context()
	for i := range 5 {
		put(t, client, "k", fmt.Sprint(i))
	}
	resp, err := client.Get(ctx, "k")
	check(t, err)
	now := resp.Header.Revision
	_, err = client.Compact(ctx, now-1)
	check(t, err)
	ops := func(n int) (ops []clientv3.Op) {
		for i := range n {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("op%d", i), "v"))
		}
		return ops
	}
	txn := func(ops ...clientv3.Op) error {
		_, err := client.Txn(ctx).Then(ops...).Commit()
		return err
	}
	only := func(_ any, err error) error { return err }
	for _, c := range []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"a value over the limit", only(client.Put(ctx, "big", strings.Repeat("v", 3<<19))), codes.InvalidArgument, "etcdserver: request is too large"},
		{"a transaction over the limit", txn(clientv3.OpPut("a", strings.Repeat("v", 900_000)), clientv3.OpPut("b", strings.Repeat("v", 900_000))), codes.InvalidArgument, "etcdserver: request is too large"},
		{"more than gRPC takes", only(client.Put(ctx, "big", strings.Repeat("v", 3<<20))), codes.ResourceExhausted, "larger than max"},
		{"too many operations", txn(ops(5)...), codes.InvalidArgument, "etcdserver: too many operations in txn request"},
		{"too many operations inside", txn(clientv3.OpTxn(nil, ops(5), nil)), codes.InvalidArgument, "etcdserver: too many operations in txn request"},
		{"a key twice", txn(clientv3.OpPut("a", "1"), clientv3.OpPut("a", "2")), codes.InvalidArgument, "etcdserver: duplicate key given in txn request"},
		{"put without key", only(client.Put(ctx, "", "v")), codes.InvalidArgument, "etcdserver: key is not provided"},
		{"get without key", only(client.Get(ctx, "")), codes.InvalidArgument, "etcdserver: key is not provided"},
		{"delete without key", only(client.Delete(ctx, "")), codes.InvalidArgument, "etcdserver: key is not provided"},
		{"transaction without key", txn(clientv3.OpPut("", "v")), codes.InvalidArgument, "etcdserver: key is not provided"},
		{"future revision", only(client.Get(ctx, "k", clientv3.WithRev(now+100))), codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"},
		{"compacted revision", only(client.Get(ctx, "k", clientv3.WithRev(now-3))), codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted"},
		{"compaction of the future", only(client.Compact(ctx, now+100)), codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"},
		{"compaction once more", only(client.Compact(ctx, now-1)), codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted"},
		{"transaction at a future revision", txn(clientv3.OpPut("a", "1"), clientv3.OpGet("k", clientv3.WithRev(now+100))), codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"},
		{"hash of the future", only(client.HashKV(ctx, m.ClientURL, now+100)), codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"},
		{"put with an unknown lease", only(client.Put(ctx, "k", "v", clientv3.WithLease(77))), codes.NotFound, "etcdserver: requested lease not found"},
		{"revoke an unknown lease", only(client.Revoke(ctx, 77)), codes.NotFound, "etcdserver: requested lease not found"},
		{"keep an unknown lease alive", only(client.KeepAliveOnce(ctx, 77)), codes.NotFound, "etcdserver: requested lease not found"},
		{"a lease too long", only(client.Grant(ctx, 9_000_000_001)), codes.OutOfRange, "etcdserver: too large lease TTL"},
		{"keep a value that is not there", only(client.Put(ctx, "none", "", clientv3.WithIgnoreValue())), codes.InvalidArgument, "etcdserver: key not found"},
		{"remove an unknown member", only(client.MemberRemove(ctx, 77)), codes.NotFound, "etcdserver: member not found"},
		{"move the lead to nobody", only(client.MoveLeader(ctx, 77)), codes.FailedPrecondition, "etcdserver: bad leader transferee"},
	} {
		var known rpctypes.EtcdError
		code := status.Code(c.err)
		if e, ok := c.err.(rpctypes.EtcdError); ok {
			known, code = e, e.Code()
		}
		if c.err == nil || code != c.code || !strings.Contains(c.err.Error(), c.text) {
			t.Errorf("%s: %v (code %v, %v), want %v %q", c.name, c.err, code, known, c.code, c.text)
		}
	}
	watch := <-client.Watch(ctx, "k", clientv3.WithRev(1))
	if watch.Err() != rpctypes.ErrCompacted || watch.CompactRevision != now-1 {
		t.Errorf("watch from a compacted revision: %v, %d", watch.Err(), watch.CompactRevision)
	}
	after, err := client.Get(ctx, "", clientv3.WithFromKey())
	check(t, err)
	if after.Header.Revision != now || len(after.Kvs) != 1 {
		t.Errorf("the store is at revision %d with %d keys, was at %d with 1", after.Header.Revision, len(after.Kvs), now)
	}
	noPanic(t, m.Output())
}
