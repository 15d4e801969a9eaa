// Package differential sends the same random requests to upkeep and to etcd, started beside it, and compares the
// answers field by field, and the histories by HashKV.
//
// A failure prints its seed; UPKEEP_TEST_SEED replays it.
package differential

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/tests/longrun"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// side is one of the two servers.
type side struct {
	name string
	conn *grpc.ClientConn
}

func start(t *testing.T, name, program string) side {
	t.Helper()
	return connect(t, name, proc.Start(t, program, 1).Members[0])
}

func connect(t *testing.T, name string, member *proc.Member) side {
	t.Helper()
	conn, err := grpc.NewClient(member.ClientURL[len("http://"):], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return side{name, conn}
}

// send returns the answer with everything masked that differs from server to server.
func (s side) send(ctx context.Context, req proto.Message) (proto.Message, error) {
	kv, lease := pb.NewKVClient(s.conn), pb.NewLeaseClient(s.conn)
	var resp proto.Message
	var err error
	switch r := req.(type) {
	case *pb.PutRequest:
		resp, err = kv.Put(ctx, r)
	case *pb.RangeRequest:
		resp, err = kv.Range(ctx, r)
	case *pb.DeleteRangeRequest:
		resp, err = kv.DeleteRange(ctx, r)
	case *pb.TxnRequest:
		resp, err = kv.Txn(ctx, r)
	case *pb.CompactionRequest:
		resp, err = kv.Compact(ctx, r)
	case *pb.HashKVRequest:
		resp, err = pb.NewMaintenanceClient(s.conn).HashKV(ctx, r)
	case *pb.LeaseGrantRequest:
		resp, err = lease.LeaseGrant(ctx, r)
	case *pb.LeaseRevokeRequest:
		resp, err = lease.LeaseRevoke(ctx, r)
	case *pb.LeaseTimeToLiveRequest:
		resp, err = lease.LeaseTimeToLive(ctx, r)
	default:
		panic(fmt.Sprintf("no call for %T", req))
	}
	if err != nil {
		return nil, err
	}
	mask(resp)
	return resp, nil
}

func mask(resp proto.Message) {
	if h := resp.(interface{ GetHeader() *pb.ResponseHeader }).GetHeader(); h != nil {
		h.ClusterId, h.MemberId, h.RaftTerm = 0, 0, 0
	}
	if r, ok := resp.(*pb.LeaseTimeToLiveResponse); ok {
		r.TTL = min(r.TTL, 1) // a second may pass between the two
		slices.SortFunc(r.Keys, slices.Compare)
	}
}

func TestSameAnswersAsEtcd(t *testing.T) {
	seed, _ := longrun.Seed(t, rand.Uint64())
	ours := start(t, "upkeep", proc.Build(t, "upkeep"))
	theirs := start(t, "etcd", proc.Peer(t, "etcd"))
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), rev: 1, leases: []int64{1000, 1001, 1002, 1003, 1004, 1005}}
	ctx := context.Background()
	operations := 0
	for deadline := time.Now().Add(longrun.Length(t, 12*time.Second)); time.Now().Before(deadline); operations++ {
		req := g.request()
		got, gotErr := ours.send(ctx, req)
		want, wantErr := theirs.send(ctx, req)
		if !sameError(gotErr, wantErr) || (wantErr == nil && !proto.Equal(got, want)) {
			t.Fatalf("seed %d, operation %d: %T{%s}\nupkeep: %v, %v\netcd:   %v, %v", seed, operations, req,
				prototext.Format(req), text(got), gotErr, text(want), wantErr)
		}
		if want != nil {
			if h := want.(interface{ GetHeader() *pb.ResponseHeader }).GetHeader(); h != nil {
				g.rev = max(g.rev, h.Revision)
			}
		}
	}
	compareHistories(t, ours, theirs, g.rev, seed)
	t.Logf("%d operations, revision %d, seed %d", operations, g.rev, seed)
	if operations < 100 {
		t.Fatalf("only %d operations", operations)
	}
}

// compareHistories compares HashKV at every revision.
func compareHistories(t *testing.T, ours, theirs side, newest int64, seed uint64) {
	t.Helper()
	for rev := int64(1); rev <= newest; rev += max(1, newest/2000) {
		req := &pb.HashKVRequest{Revision: rev}
		got, gotErr := ours.send(context.Background(), req)
		want, wantErr := theirs.send(context.Background(), req)
		if !sameError(gotErr, wantErr) || (wantErr == nil && !proto.Equal(got, want)) {
			t.Fatalf("seed %d: HashKV at %d: upkeep %v, %v; etcd %v, %v", seed, rev, text(got), gotErr, text(want), wantErr)
		}
	}
}

func sameError(a, b error) bool {
	return status.Code(a) == status.Code(b) && status.Convert(a).Message() == status.Convert(b).Message()
}

func text(m proto.Message) string {
	if m == nil {
		return "no answer"
	}
	return prototext.Format(m)
}
