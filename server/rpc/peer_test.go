package rpc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"

	"github.com/upkeep-kv/upkeep/tests/ports"
)

const peerBinary = "../../bin/peer/etcd"

// startPeer runs a stock etcd and returns a connection to it.
func startPeer(t *testing.T) *grpc.ClientConn {
	t.Helper()
	if _, err := os.Stat(peerBinary); err != nil {
		t.Skipf("no etcd to compare with at %s", filepath.Clean(peerBinary))
	}
	client, peer := ports.Address(t), ports.Address(t)
	cmd := exec.Command(peerBinary, "--data-dir", t.TempDir(), "--unsafe-no-fsync", "--log-level", "error",
		"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer,
		"--initial-cluster", "default=http://"+peer)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	conn, err := grpc.NewClient(client, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestPeerTxnChecks gives random transactions to a stock etcd and wants checkTxn to refuse the same ones for the same
// reason.
func TestPeerTxnChecks(t *testing.T) {
	conn := startPeer(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	refused := 0
	const rounds = 3000
	for range rounds {
		txn := randomTxn(rng, 3)
		err := conn.Invoke(ctx, "/etcdserverpb.KV/Txn", txn, &pb.TxnResponse{}, grpc.WaitForReady(true))
		want := fmt.Sprint(status.Convert(err).Message())
		got := ""
		if err := checkTxn(txn, defaultMaxTxnOps); err != nil {
			got = textPrefix + err.Error()
			refused++
		}
		if got != want {
			t.Fatalf("seed %d: %v\netcd %q\nours %q", seed, txn, want, got)
		}
	}
	if refused < rounds/20 || refused > rounds*19/20 {
		t.Errorf("%d of %d refused: the test says little", refused, rounds)
	}
}

func randomTxn(rng *rand.Rand, depth int) *pb.TxnRequest {
	txn := &pb.TxnRequest{}
	if rng.IntN(2) == 0 {
		txn.Compare = append(txn.Compare, &pb.Compare{Key: []byte("a"), Result: pb.Compare_GREATER})
	}
	for range rng.IntN(3) {
		txn.Success = append(txn.Success, randomOp(rng, depth))
	}
	for range rng.IntN(3) {
		txn.Failure = append(txn.Failure, randomOp(rng, depth))
	}
	return txn
}

func randomOp(rng *rand.Rand, depth int) *pb.RequestOp {
	key := func() []byte { return []byte{'a' + byte(rng.IntN(8))} }
	end := func() []byte {
		switch rng.IntN(4) {
		case 0:
			return []byte{0}
		case 1:
			return nil
		}
		return key()
	}
	switch n := rng.IntN(10); {
	case n < 4 && depth > 0:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: randomTxn(rng, depth-1)}}
	case n < 7:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key()}}}
	case n < 9:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
			RequestDeleteRange: &pb.DeleteRangeRequest{Key: key(), RangeEnd: end()}}}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key(), RangeEnd: end()}}}
}
