package mvcc

import (
	"context"
	"fmt"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// startEtcd runs a real etcd on data directory dir, until the test ends or stop.
func startEtcd(t *testing.T, dir string) (cli *clientv3.Client, stop func()) {
	binary, err := filepath.Abs("../bin/peer/etcd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Skipf("no etcd to compare with: build bin/peer first (%v)", err)
	}
	client, peer := freeURL(t), freeURL(t)
	log, err := os.Create(filepath.Join(t.TempDir(), "etcd.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--data-dir", dir, "--unsafe-no-fsync", "--max-txn-ops", "1000",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cli.Close()
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		log.Close()
	}
	cli, err = clientv3.New(clientv3.Config{Endpoints: []string{client}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := cli.Get(ctx, "x"); err != nil {
		b, _ := os.ReadFile(log.Name())
		t.Fatalf("etcd does not answer: %v\n%s", err, b)
	}
	return cli, stop
}

func freeURL(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// twin does everything in etcd and in a store.
type twin struct {
	*fixture
	cli    *clientv3.Client
	rng    *rand.Rand
	leases []int64
}

// TestSameAsEtcd drives a real etcd and a store with the same random requests:
// the hashes must be the same at every revision, compacted or not.
func TestSameAsEtcd(t *testing.T) {
	cli, stop := startEtcd(t, filepath.Join(t.TempDir(), "etcd"))
	defer stop()
	tw := &twin{fixture: newFixture(t, Config{CompactionSleep: time.Microsecond}), cli: cli, rng: rand.New(rand.NewSource(7))}
	for range 3 {
		lease, err := cli.Grant(t.Context(), 3600)
		if err != nil {
			t.Fatal(err)
		}
		tw.leases = append(tw.leases, int64(lease.ID))
	}
	tw.checkHashes(1)
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		for range 20 {
			tw.write()
		}
		tw.checkHashes(max(0, tw.CompactRevision()-5))
		tw.checkState()
		tw.compact(tw.CompactRevision() + 1 + tw.rng.Int63n(tw.Revision()-tw.CompactRevision()))
		tw.checkHashes(max(0, tw.CompactRevision()-30))
		tw.checkState()
	}
	tw.compact(tw.Revision())
	tw.checkHashes(max(0, tw.CompactRevision()-30))
	tw.write()
	tw.delete("", "\x00")
	tw.checkHashes(tw.CompactRevision())
	tw.compact(tw.Revision())
	tw.checkHashes(tw.CompactRevision())
}

func (tw *twin) write() {
	key := fmt.Sprintf("k%02d", tw.rng.Intn(30))
	switch tw.rng.Intn(6) {
	case 0:
		tw.delete(key, "")
	case 1:
		tw.delete(key, fmt.Sprintf("k%02d", tw.rng.Intn(30)))
	case 2:
		tw.txn()
	default:
		value, lease := tw.value()
		if _, err := tw.cli.Put(tw.t.Context(), key, value, clientv3.WithLease(clientv3.LeaseID(lease))); err != nil {
			tw.t.Fatal(err)
		}
		tw.fixture.write(func(w *WriteTxn) { w.Put([]byte(key), []byte(value), lease) })
	}
}

func (tw *twin) value() (value string, lease int64) {
	if tw.rng.Intn(3) == 0 {
		lease = tw.leases[tw.rng.Intn(len(tw.leases))]
	}
	b := make([]byte, tw.rng.Intn(3)*tw.rng.Intn(200))
	tw.rng.Read(b)
	return string(b), lease
}

func (tw *twin) delete(key, end string) {
	if _, err := tw.cli.Do(tw.t.Context(), clientv3.OpDelete(keyOrZero(key), clientv3.WithRange(end))); err != nil {
		tw.t.Fatal(err)
	}
	tw.fixture.write(func(w *WriteTxn) { w.DeleteRange([]byte(keyOrZero(key)), []byte(end)) })
}

func keyOrZero(key string) string {
	if key == "" {
		return "\x00"
	}
	return key
}

// txn puts some keys and deletes some others: ranges, and each twice.
func (tw *twin) txn() {
	var ops []clientv3.Op
	var mine []func(w *WriteTxn)
	for i := range 1 + tw.rng.Intn(4) {
		key := fmt.Sprintf("k%02d", 10*i+tw.rng.Intn(5))
		value, lease := tw.value()
		ops = append(ops, clientv3.OpPut(key, value, clientv3.WithLease(clientv3.LeaseID(lease))))
		mine = append(mine, func(w *WriteTxn) { w.Put([]byte(key), []byte(value), lease) })
		from, to := fmt.Sprintf("k%02d", 10*i+5+tw.rng.Intn(5)), fmt.Sprintf("k%02d", 10*i+10)
		for range 2 {
			ops = append(ops, clientv3.OpDelete(from, clientv3.WithRange(to)))
			mine = append(mine, func(w *WriteTxn) { w.DeleteRange([]byte(from), []byte(to)) })
		}
	}
	res, err := tw.cli.Txn(tw.t.Context()).Then(ops...).Commit()
	if err != nil {
		tw.t.Fatal(err)
	}
	rev := tw.fixture.write(func(w *WriteTxn) {
		for _, op := range mine {
			op(w)
		}
	})
	if rev != res.Header.Revision {
		tw.t.Fatalf("revision %d, etcd's is %d", rev, res.Header.Revision)
	}
}

func (tw *twin) compact(rev int64) {
	tw.t.Helper()
	if _, err := tw.cli.Compact(tw.t.Context(), rev, clientv3.WithCompactPhysical()); err != nil {
		tw.t.Fatal(err)
	}
	if err := tw.fixture.compact(rev); err != nil {
		tw.t.Fatal(err)
	}
}

// checkHashes compares the hashes of all revisions from from on.
func (tw *twin) checkHashes(from int64) {
	tw.t.Helper()
	for rev := from; rev <= tw.Revision(); rev++ {
		want, wantErr := tw.cli.HashKV(tw.t.Context(), tw.cli.Endpoints()[0], rev)
		got, err := tw.HashKV(tw.t.Context(), rev)
		if (err == nil) != (wantErr == nil) || err != nil && wantErr.Error() != "etcdserver: "+err.Error() {
			tw.t.Fatalf("hash at %d: %v, etcd says %v", rev, err, wantErr)
		}
		if err != nil {
			continue
		}
		theirs := HashKVResult{Hash: want.Hash, HashRevision: want.HashRevision,
			CompactRevision: want.CompactRevision, CurrentRevision: want.Header.Revision}
		if got != theirs {
			tw.t.Fatalf("hash at %d: %+v, etcd says %+v", rev, got, theirs)
		}
	}
}

// checkState compares what a read of everything returns, now and at the floor.
func (tw *twin) checkState() {
	tw.t.Helper()
	for _, rev := range []int64{0, max(0, tw.CompactRevision())} {
		want, err := tw.cli.Get(tw.t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithRev(rev))
		if err != nil {
			tw.t.Fatal(err)
		}
		got, err := tw.Range(tw.t.Context(), []byte{0}, []byte{0}, RangeOptions{Rev: rev})
		if err != nil || got.Count != want.Count || got.Rev != want.Header.Revision {
			tw.t.Fatalf("read at %d: %+v (%v), etcd says count %d, revision %d", rev, got, err, want.Count, want.Header.Revision)
		}
		var theirs []string
		for _, kv := range want.Kvs {
			theirs = append(theirs, describe(&mvccpb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision,
				ModRevision: kv.ModRevision, Version: kv.Version, Value: kv.Value, Lease: kv.Lease}))
		}
		mustEqual(tw.t, fmt.Sprint("state at ", rev), describeAll(got.KVs), theirs)
	}
}

// TestOpensEtcdsFile opens the backend that an etcd left behind, some of it
// compacted, and compares with what that etcd says when it runs again.
func TestOpensEtcdsFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	cli, stop := startEtcd(t, dir)
	tw := &twin{fixture: newFixture(t, Config{}), cli: cli, rng: rand.New(rand.NewSource(8)), leases: []int64{0}}
	for range 60 {
		tw.write()
	}
	tw.compact(tw.Revision() - 20)
	stop()

	b, err := os.ReadFile(filepath.Join(dir, "member/snap/db"))
	if err != nil {
		t.Fatal(err)
	}
	theirs := &fixture{t: t, path: filepath.Join(t.TempDir(), "db")}
	if err := os.WriteFile(theirs.path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	theirs.open()
	defer theirs.close()
	mustEqual(t, "stored by etcd", theirs.stored(), tw.stored())
	cli, stop = startEtcd(t, dir)
	defer stop()
	again := &twin{fixture: theirs, cli: cli}
	again.checkHashes(max(0, theirs.CompactRevision()-5))
	again.checkState()
}

// TestEtcdOpensOurFile puts a backend written by a store into etcd's place.
func TestEtcdOpensOurFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	_, stop := startEtcd(t, dir)
	stop()
	f := &fixture{t: t, path: filepath.Join(dir, "member/snap/db"), offline: true}
	f.open()
	rng := rand.New(rand.NewSource(3))
	for range 50 {
		f.write(func(w *WriteTxn) { concurrentTxn(w, rng) })
	}
	// A compaction that etcd has to finish: it is scheduled and then interrupted.
	r, err := f.Read(0)
	if err != nil {
		t.Fatal(err)
	}
	f.put("last", "one")
	if _, err := f.startCompaction(f.Revision()); err != nil {
		t.Fatal(err)
	}
	f.close()
	r.Close()
	file, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}

	cli, stop := startEtcd(t, dir)
	defer stop()
	copied := &fixture{t: t, path: filepath.Join(t.TempDir(), "db")}
	if err := os.WriteFile(copied.path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	copied.open()
	defer copied.close()
	<-copied.compactor.idle()
	// An answer to an impossible compaction at the old floor says that etcd's own is through.
	_, _ = cli.Compact(t.Context(), copied.CompactRevision(), clientv3.WithCompactPhysical())
	again := &twin{fixture: copied, cli: cli}
	again.checkHashes(copied.CompactRevision())
	again.checkState()
}
