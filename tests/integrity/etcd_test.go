package integrity

import (
	"context"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// blocked runs every kind of request while CORRUPT is raised, and says how each ended.
func blocked(t *testing.T, cli *clientv3.Client) []string {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	lease, err := cli.Grant(ctx, 600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Put(ctx, "k", "v", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	maintenance := pb.NewMaintenanceClient(cli.ActiveConnection())
	raise := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 4711, Alarm: pb.AlarmType_CORRUPT}
	if _, err := maintenance.Alarm(ctx, raise); err != nil {
		t.Fatal(err)
	}
	kv, leases := pb.NewKVClient(cli.ActiveConnection()), pb.NewLeaseClient(cli.ActiveConnection())
	get := &pb.RangeRequest{Key: []byte("k")}
	readOp := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: get}}
	writeOp := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k")}}}
	var out []string
	for _, r := range []struct {
		name string
		do   func() error
	}{
		{"get", func() error { _, err := kv.Range(ctx, get); return err }},
		{"serializable get", func() error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
			return err
		}},
		{"put", func() error { _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k")}); return err }},
		{"delete", func() error { _, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("k")}); return err }},
		{"read txn", func() error { _, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{readOp}}); return err }},
		{"write txn", func() error { _, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{writeOp}}); return err }},
		{"empty txn", func() error { _, err := kv.Txn(ctx, &pb.TxnRequest{}); return err }},
		{"compact", func() error { _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 1}); return err }},
		{"compact the future", func() error { _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: 1000}); return err }},
		{"grant", func() error { _, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60}); return err }},
		{"revoke", func() error {
			_, err := leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: int64(lease.ID)})
			return err
		}},
		{"revoke nothing", func() error { _, err := leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 99}); return err }},
		{"keep alive", func() error { _, err := cli.KeepAliveOnce(ctx, lease.ID); return err }},
		{"time to live", func() error { _, err := cli.TimeToLive(ctx, lease.ID); return err }},
		{"leases", func() error { _, err := cli.Leases(ctx); return err }},
		{"members", func() error { _, err := cli.MemberList(ctx); return err }},
		{"hash", func() error { _, err := maintenance.Hash(ctx, &pb.HashRequest{}); return err }},
		{"hash kv", func() error { _, err := maintenance.HashKV(ctx, &pb.HashKVRequest{}); return err }},
		{"alarms", func() error { _, err := cli.AlarmList(ctx); return err }},
		{"status", func() error { _, err := maintenance.Status(ctx, &pb.StatusRequest{}); return err }},
		{"defragment", func() error { _, err := maintenance.Defragment(ctx, &pb.DefragmentRequest{}); return err }},
		{"put over quota and corrupt", func() error {
			full := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 4711, Alarm: pb.AlarmType_NOSPACE}
			if _, err := maintenance.Alarm(ctx, full); err != nil {
				return err
			}
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k")})
			return err
		}},
		{"disarm all", func() error { _, err := cli.AlarmDisarm(ctx, &clientv3.AlarmMember{}); return err }},
		{"put when disarmed", func() error { _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k")}); return err }},
	} {
		out = append(out, fmt.Sprintf("%s: %v", r.name, r.do()))
	}
	return out
}

// The CORRUPT alarm blocks here what it blocks in etcd, with the same words.
func TestCorruptBlocksAsEtcdDoes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real processes")
	}
	var results [2][]string
	for i, program := range []string{proc.Peer(t, "etcd"), proc.Build(t, "upkeep")} {
		peer := fmt.Sprintf("http://127.0.0.1:%d", ports.Free(t, 1)[0])
		m := proc.Prepare(t, program, "m0", t.TempDir(), peer, "--initial-cluster=m0="+peer, "--log-level=error")
		m.Launch()
		m.WaitReady()
		results[i] = blocked(t, m.Client())
	}
	for i, theirs := range results[0] {
		t.Log(theirs)
		if ours := results[1][i]; ours != theirs {
			t.Errorf("etcd:   %s\nupkeep: %s", theirs, ours)
		}
	}
}
