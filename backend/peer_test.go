package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	etcdpb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/upkeep-kv/upkeep/tests/ports"
)

// peer is the path of one of etcd's own binaries.
func peer(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "bin", "peer", name))
	must(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no %s to compare with: build it into bin/peer", name)
	}
	return path
}

// startEtcd runs a member on dir and returns a connection; stop ends it.
func startEtcd(t *testing.T, dir string) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	client, peerAddr := ports.Address(t), ports.Address(t)
	cmd := exec.Command(peer(t, "etcd"), "--data-dir", dir, "--log-level", "error",
		"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
		"--listen-peer-urls", "http://"+peerAddr, "--initial-advertise-peer-urls", "http://"+peerAddr,
		"--initial-cluster", "default=http://"+peerAddr)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	conn, err := grpc.NewClient(client, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err = etcdpb.NewKVClient(conn).Range(ctx, &etcdpb.RangeRequest{Key: []byte("x")}, grpc.WaitForReady(true))
	must(t, err)
	return conn, func() {
		must(t, conn.Close())
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		_ = cmd.Wait() // it reports the signal
	}
}

// statusHash is what etcd's own tool says about a file.
func statusHash(t *testing.T, path string) uint32 {
	t.Helper()
	out, err := exec.Command(peer(t, "etcdutl"), "snapshot", "status", path, "-w", "json").Output()
	must(t, err)
	var status struct{ Hash uint32 }
	must(t, json.Unmarshal(out, &status))
	return status.Hash
}

// TestAgainstEtcd compares sizes and hashes with those of a real member on the
// same file, before and after our defragmentation.
func TestAgainstEtcd(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	conn, stop := startEtcd(t, dir)
	maintenance, kv := etcdpb.NewMaintenanceClient(conn), etcdpb.NewKVClient(conn)
	fresh, err := maintenance.Status(ctx, &etcdpb.StatusRequest{})
	must(t, err)
	// Five pages, and one more for each further commit that its first changes fell into on a slow machine.
	if fresh.DbSize < 20480 || fresh.DbSize > 40960 || fresh.DbSizeInUse > fresh.DbSize || fresh.DbSizeInUse < 16384 {
		t.Errorf("a fresh etcd has %d bytes, %d in use; TestSizesOfFreshStore expects otherwise", fresh.DbSize, fresh.DbSizeInUse)
	}
	for i := range 2000 {
		_, err := kv.Put(ctx, &etcdpb.PutRequest{Key: fmt.Appendf(nil, "key%d", i%300), Value: make([]byte, i%500)})
		must(t, err)
	}
	_, err = kv.Compact(ctx, &etcdpb.CompactionRequest{Revision: 1500, Physical: true})
	must(t, err)
	want, err := maintenance.Hash(ctx, &etcdpb.HashRequest{})
	must(t, err)
	stop()

	path := filepath.Join(dir, "member", "snap", "db")
	checkFile(t, path)
	wantFile := statusHash(t, path)
	if got, err := HashFile(ctx, path); err != nil || got != wantFile {
		t.Errorf("file hash %d, %v; etcdutl says %d", got, err, wantFile)
	}
	b := open(t, Config{Path: path})
	before := b.Sizes()
	if got, err := b.Hash(ctx); err != nil || got != want.Hash {
		t.Errorf("hash %d, %v; etcd says %d", got, err, want.Hash)
	}
	_, err = b.Defrag(ctx, DefragOptions{})
	must(t, err)
	if got, err := b.Hash(ctx); err != nil || got != want.Hash {
		t.Errorf("hash after defragmenting %d, %v; etcd says %d", got, err, want.Hash)
	}
	ours := b.Sizes().File
	closeAndCheck(t, b)
	if got := statusHash(t, path); got != wantFile {
		t.Errorf("etcdutl says %d after defragmenting, %d before", got, wantFile)
	}
	must(t, exec.Command(peer(t, "etcdutl"), "defrag", "--data-dir", dir).Run())
	f, err := OpenFile(path)
	must(t, err)
	if theirs := f.Size(); ours > theirs+theirs/10 {
		t.Errorf("defragmented to %d bytes, etcdutl makes it %d (before %d)", ours, theirs, before.File)
	}
	must(t, f.Close())

	conn, stop = startEtcd(t, dir) // and etcd goes on with it
	got, err := etcdpb.NewKVClient(conn).Range(ctx, &etcdpb.RangeRequest{Key: []byte("key"), RangeEnd: []byte("kez"), CountOnly: true})
	must(t, err)
	if got.Count != 300 {
		t.Errorf("etcd finds %d keys of 300", got.Count)
	}
	stop()
}
