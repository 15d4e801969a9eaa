package rpc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/mvcc/lease"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/quota"
)

// The tests of this file use etcd's own client, linked beside our messages in one program.

func TestClientKV(t *testing.T) {
	h := start(t, newFake(), Options{})
	c := h.client()

	put := must(c.Put(h.ctx, "a", "1"))(t)
	if put.Header.Revision != 2 || put.Header.ClusterId != 1 || put.Header.MemberId != 2 || put.Header.RaftTerm != 3 {
		t.Errorf("put header %v", put.Header)
	}
	prev := must(c.Put(h.ctx, "a", "2", clientv3.WithPrevKV()))(t)
	if prev.PrevKv == nil || string(prev.PrevKv.Value) != "1" || prev.Header.Revision != 3 {
		t.Errorf("put with previous pair: %v", prev)
	}
	got := must(c.Get(h.ctx, "a", clientv3.WithRev(2)))(t)
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "1" || got.Header.Revision != 3 || got.Count != 1 {
		t.Errorf("get at revision 2: %v", got)
	}
	deleted := must(c.Delete(h.ctx, "nothing"))(t)
	if deleted.Deleted != 0 || deleted.Header.Revision != 3 {
		t.Errorf("delete of nothing: %v", deleted)
	}
	txn := must(c.Txn(h.ctx).Then(clientv3.OpPut("b", "x"), clientv3.OpGet("a")).Commit())(t)
	if txn.Header.Revision != 4 || txn.Header.MemberId != 2 {
		t.Errorf("txn header %v", txn.Header)
	}
	if nested := txn.Responses[1].GetResponseRange().Header; nested.ClusterId != 0 || nested.Revision != 3 {
		t.Errorf("header of a range in a txn: %v, want a revision alone", nested)
	}
	must(c.Compact(h.ctx, 4))(t)
	if _, err := c.Get(h.ctx, "a", clientv3.WithRev(2)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("get below the floor: %v", err)
	}
	if _, err := c.Get(h.ctx, "a", clientv3.WithRev(20)); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Errorf("get above the revision: %v", err)
	}
	if _, err := c.Get(h.ctx, ""); !errors.Is(err, rpctypes.ErrEmptyKey) {
		t.Errorf("get of no key: %v", err)
	}
}

// TestReadPaths: what goes through the log, what waits for the read index, and what is answered at once.
func TestReadPaths(t *testing.T) {
	h := start(t, newFake(), Options{})
	c := h.client()
	for _, test := range []struct {
		name                 string
		call                 func() error
		linearized, proposed int
	}{
		{"get", func() error { _, err := c.Get(h.ctx, "a"); return err }, 1, 0},
		{"serializable get", func() error { _, err := c.Get(h.ctx, "a", clientv3.WithSerializable()); return err }, 0, 0},
		{"read-only txn", func() error { _, err := c.Txn(h.ctx).Then(clientv3.OpGet("a")).Commit(); return err }, 1, 0},
		{"serializable txn", func() error {
			_, err := c.Txn(h.ctx).Then(clientv3.OpGet("a", clientv3.WithSerializable())).Commit()
			return err
		}, 0, 0},
		{"compare-only txn", func() error {
			_, err := c.Txn(h.ctx).If(clientv3.Compare(clientv3.Version("a"), "=", 0)).Commit()
			return err
		}, 0, 0},
		{"nested read-only txn", func() error {
			_, err := c.Txn(h.ctx).Then(clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("a")}, nil)).Commit()
			return err
		}, 0, 1},
		{"put", func() error { _, err := c.Put(h.ctx, "a", "v"); return err }, 0, 1},
		{"members", func() error { _, err := c.MemberList(h.ctx); return err }, 1, 0},
		{"members as known", func() error {
			_, err := c.MemberList(h.ctx, clientv3.WithSerializable())
			return err
		}, 0, 0},
		{"alarms", func() error { _, err := c.AlarmList(h.ctx); return err }, 1, 0},
	} {
		h.mu.Lock()
		h.linearized, h.proposed = 0, nil
		h.mu.Unlock()
		if err := test.call(); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if h.linearized != test.linearized || len(h.proposed) != test.proposed {
			t.Errorf("%s: %d read index rounds and %d proposals, want %d and %d", test.name,
				h.linearized, len(h.proposed), test.linearized, test.proposed)
		}
	}
}

func TestClientLease(t *testing.T) {
	h := start(t, newFake(), Options{})
	c := h.client()

	granted := must(c.Grant(h.ctx, 60))(t)
	if granted.ID <= 0 || granted.TTL != 60 {
		t.Errorf("grant: %+v", granted)
	}
	alive := must(c.KeepAliveOnce(h.ctx, granted.ID))(t)
	if alive.TTL != 60 || alive.ResponseHeader.Revision != 1 {
		t.Errorf("keep alive: %+v", alive)
	}
	if _, err := c.KeepAliveOnce(h.ctx, 12345); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("keep alive of an unknown lease: %v", err)
	}
	left := must(c.TimeToLive(h.ctx, granted.ID))(t)
	if left.TTL != 59 || left.GrantedTTL != 60 {
		t.Errorf("time to live: %+v", left)
	}
	unknown := must(c.TimeToLive(h.ctx, 12345))(t)
	if unknown.TTL != -1 || unknown.GrantedTTL != 0 || unknown.ID != 12345 {
		t.Errorf("time to live of an unknown lease: %+v", unknown)
	}
	all := must(c.Leases(h.ctx))(t)
	if len(all.Leases) != 1 || all.Leases[0].ID != granted.ID {
		t.Errorf("leases: %+v", all.Leases)
	}
	must(c.Revoke(h.ctx, granted.ID))(t)
	if _, err := c.Revoke(h.ctx, granted.ID); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("second revoke: %v", err)
	}
}

// TestLeaseIDChosenAgain: an id that the server chose and that is taken is the server's to replace.
func TestLeaseIDChosenAgain(t *testing.T) {
	f := newFake()
	deps := f.deps()
	taken := 2
	deps.Proposer = proposerFunc(func(ctx context.Context, r *pb.InternalRaftRequest) (any, error) {
		if taken--; taken >= 0 {
			return nil, lease.ErrExists
		}
		return f.Propose(ctx, r)
	})
	h := startWith(t, f, deps, Options{})
	if granted := must(h.client().Grant(h.ctx, 60))(t); granted.ID <= 0 {
		t.Errorf("grant: %+v", granted)
	}
	taken = 1
	leases := pb.NewLeaseClient(h.conn)
	if _, err := leases.LeaseGrant(h.ctx, &pb.LeaseGrantRequest{ID: 5, TTL: 60}); message(err) != "etcdserver: lease already exists" {
		t.Errorf("grant of a taken id: %v", err)
	}
}

type proposerFunc func(context.Context, *pb.InternalRaftRequest) (any, error)

func (p proposerFunc) Propose(ctx context.Context, r *pb.InternalRaftRequest) (any, error) {
	return p(ctx, r)
}

func TestClientCluster(t *testing.T) {
	h := start(t, newFake(), Options{})
	c := h.client()

	added := must(c.MemberAddAsLearner(h.ctx, []string{" http://localhost:1"}))(t)
	if added.Member.PeerURLs[0] != "http://localhost:1" || !added.Member.IsLearner || len(added.Members) != 2 {
		t.Errorf("member add: %v", added)
	}
	if added.Header.Revision != 0 || added.Header.ClusterId != 1 || added.Header.RaftTerm != 3 {
		t.Errorf("member add: header %v, want no revision", added.Header)
	}
	for _, urls := range [][]string{nil, {""}, {"http://localhost"}, {"http://localhost:1/"}, {"ftp://localhost:1"}} {
		_, err := pb.NewClusterClient(h.conn).MemberAdd(h.ctx, &pb.MemberAddRequest{PeerURLs: urls})
		if message(err) != "etcdserver: given member URLs are invalid" {
			t.Errorf("member add %q: %v", urls, err)
		}
	}
	update := &pb.MemberUpdateRequest{ID: 9, PeerURLs: []string{"anything"}} // not looked at
	if updated := must(pb.NewClusterClient(h.conn).MemberUpdate(h.ctx, update))(t); updated.Members[1].PeerURLs[0] != "anything" {
		t.Errorf("member update: %v", updated)
	}
	if removed := must(c.MemberRemove(h.ctx, 9))(t); len(removed.Members) != 1 {
		t.Errorf("member remove: %v", removed)
	}
	must(c.MemberPromote(h.ctx, 2))(t)
	if list := must(c.MemberList(h.ctx))(t); len(list.Members) != 1 || list.Header.Revision != 0 {
		t.Errorf("member list: %v", list)
	}
}

func TestClientMaintenance(t *testing.T) {
	f := newFake()
	f.snapshot = bytes.Repeat([]byte("0123456789abcdef"), 3*snapshotBlobBytes/16)
	f.snapshot = append(f.snapshot, "tail"...)
	h := start(t, f, Options{})
	c := h.client()

	snap := must(c.SnapshotWithVersion(h.ctx))(t)
	data := must(io.ReadAll(snap.Snapshot))(t)
	sum := sha256.Sum256(f.snapshot)
	if want := append(bytes.Clone(f.snapshot), sum[:]...); !bytes.Equal(data, want) || snap.Version != "3.7.0" {
		t.Errorf("snapshot: %d bytes of version %q, want %d", len(data), snap.Version, len(want))
	}
	hash := must(c.HashKV(h.ctx, "http://member:2379", 7))(t)
	if hash.Hash != 78 || hash.HashRevision != 7 || hash.CompactRevision != -1 || hash.Header.MemberId != 2 {
		t.Errorf("HashKV: %v", hash)
	}
	if defrag := must(c.Defragment(h.ctx, "http://member:2379"))(t); defrag.Header != nil {
		t.Errorf("defragment: header %v, want none", defrag.Header)
	}
	if moved := must(c.MoveLeader(h.ctx, 2))(t); moved.Header != nil {
		t.Errorf("move leader: header %v, want none", moved.Header)
	}

	must(pb.NewMaintenanceClient(h.conn).Alarm(h.ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 5,
		Alarm: pb.AlarmType_NOSPACE}))(t)
	must(pb.NewMaintenanceClient(h.conn).Alarm(h.ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE,
		Alarm: pb.AlarmType_CORRUPT}))(t)
	if alarms := must(c.AlarmList(h.ctx))(t); len(alarms.Alarms) != 2 || alarms.Header.RaftTerm != 3 {
		t.Errorf("alarms: %v", alarms)
	}
	f.noLeader.Store(true)
	st := must(c.Status(h.ctx, "http://member:2379"))(t)
	want := []string{"etcdserver: no leader", "memberID:5  alarm:NOSPACE", "alarm:CORRUPT"}
	if len(st.Errors) != 3 || st.Errors[0] != want[0] || st.Errors[1] != want[1] || st.Errors[2] != want[2] {
		t.Errorf("status errors %q, want %q", st.Errors, want)
	}
	if st.DowngradeInfo == nil || st.Version != "3.7.3" || st.Header.MemberId != 2 {
		t.Errorf("status: %v", st)
	}
}

// TestSnapshotBlobs looks at the messages themselves.
func TestSnapshotBlobs(t *testing.T) {
	f := newFake()
	f.snapshot = make([]byte, 2*snapshotBlobBytes+1)
	h := start(t, f, Options{})
	stream := must(pb.NewMaintenanceClient(h.conn).Snapshot(h.ctx, &pb.SnapshotRequest{}))(t)
	wantBlobs := []int{snapshotBlobBytes, snapshotBlobBytes, 1, sha256.Size}
	wantLeft := []uint64{snapshotBlobBytes + 1, 1, 0, 0}
	for i := range wantBlobs {
		m := must(stream.Recv())(t)
		if len(m.Blob) != wantBlobs[i] || m.RemainingBytes != wantLeft[i] || m.Version != "3.7.0" || m.Header != nil {
			t.Errorf("message %d: blob of %d, %d left, version %q, header %v", i, len(m.Blob), m.RemainingBytes, m.Version, m.Header)
		}
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("end: %v", err)
	}
}

func TestPhysicalCompaction(t *testing.T) {
	f := newFake()
	f.compactDone = make(chan struct{})
	h := start(t, f, Options{})
	c := h.client()
	must(c.Put(h.ctx, "a", "1"))(t)
	must(c.Compact(h.ctx, 2))(t) // a logical one does not wait

	// One that is too late waits for the one before it, and only then is refused.
	refused := make(chan error, 1)
	go func() {
		_, err := c.Compact(h.ctx, 2, clientv3.WithCompactPhysical())
		refused <- err
	}()
	must(c.Get(h.ctx, "a"))(t)
	select {
	case err := <-refused:
		t.Fatalf("answered before the deletion was done: %v", err)
	default:
	}
	close(f.compactDone)
	if err := <-refused; !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("late compaction: %v", err)
	}
}

func TestDowngrade(t *testing.T) {
	h := start(t, newFake(), Options{})
	m := pb.NewMaintenanceClient(h.conn)
	call := func(action pb.DowngradeRequest_DowngradeAction, version string) string {
		resp, err := m.Downgrade(h.ctx, &pb.DowngradeRequest{Action: action, Version: version})
		if err != nil {
			return message(err)
		}
		return "ok " + resp.Version
	}
	const validate, enable, cancel = pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE, pb.DowngradeRequest_CANCEL
	for _, test := range []struct {
		action  pb.DowngradeRequest_DowngradeAction
		version string
		want    string
	}{
		{validate, "", "etcdserver: wrong downgrade target version format"},
		{validate, "3", "etcdserver: wrong downgrade target version format"},
		{validate, "a.b", "etcdserver: wrong downgrade target version format"},
		{validate, "v3.6", "etcdserver: wrong downgrade target version format"},
		{validate, "3.5", "etcdserver: invalid downgrade target version"},
		{validate, "3.7", "etcdserver: invalid downgrade target version"},
		{validate, "4.6", "etcdserver: invalid downgrade target version"},
		{validate, "3.6", "ok 3.7"},
		{validate, "3.6.1", "ok 3.7"},
		{validate, "3.6.0-x", "ok 3.7"},
		{cancel, "", "ok 3.7"},
		{enable, "3.6", "ok 3.7"},
		{enable, "3.6", "etcdserver: cluster has a downgrade job in progress"},
		{enable, "3.5", "etcdserver: invalid downgrade target version"},
		{cancel, "", "ok 3.7"},
		{enable, "3.6", "ok 3.7"},
		{9, "3.6", "etcdserver: unknown method"},
	} {
		if got := call(test.action, test.version); got != test.want {
			t.Errorf("%v %q: got %q, want %q", test.action, test.version, got, test.want)
		}
	}
	if info := h.downgrade; !info.Enabled || info.TargetVersion != "3.6.0" {
		t.Errorf("job %v", info)
	}
}

// TestAdmission: no space is found before a request is looked at, and costs no place in the log.
func TestAdmission(t *testing.T) {
	f := newFake()
	f.admit = func(*pb.InternalRaftRequest) error { return quota.ErrNoSpace }
	h := start(t, f, Options{})
	c := h.client()
	for name, call := range map[string]func() error{
		"put":   func() error { _, err := c.Put(h.ctx, "", ""); return err },
		"txn":   func() error { _, err := c.Txn(h.ctx).Then(clientv3.OpPut("", "")).Commit(); return err },
		"grant": func() error { _, err := c.Grant(h.ctx, 5); return err },
	} {
		if err := call(); !errors.Is(err, rpctypes.ErrNoSpace) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(c.Delete(h.ctx, "a"))(t)
	if len(h.proposed) != 1 {
		t.Errorf("%d proposals, want that of the delete alone", len(h.proposed))
	}
}
