package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/walpb"
	"github.com/upkeep-kv/upkeep/raftnode/snapfile"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
	"github.com/upkeep-kv/upkeep/tests/ports"
)

// These tests compare with stock etcd, run as a black box.

func peerBinary(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs("../bin/peer/" + name)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Skipf("needs %s to compare with: %v", name, err)
	}
	return path
}

// etcd is one running member.
type etcd struct {
	cmd    *exec.Cmd
	client *clientv3.Client
	log    bytes.Buffer
}

type etcdConfig struct{ name, dataDir, walDir, peerURL, cluster string }

// startEtcd starts a member; await it before use.
func startEtcd(t *testing.T, c etcdConfig) *etcd {
	t.Helper()
	url := "http://" + ports.Address(t)
	e := &etcd{}
	args := []string{"--name", c.name, "--data-dir", c.dataDir, "--listen-client-urls", url, "--advertise-client-urls", url,
		"--listen-peer-urls", c.peerURL, "--initial-advertise-peer-urls", c.peerURL, "--initial-cluster", c.cluster,
		"--unsafe-no-fsync"}
	if c.walDir != "" {
		args = append(args, "--wal-dir", c.walDir)
	}
	e.cmd = exec.Command(peerBinary(t, "etcd"), args...)
	e.cmd.Stdout, e.cmd.Stderr = &e.log, &e.log
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.stop)
	var err error
	if e.client, err = clientv3.New(clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop()}); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *etcd) await(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		try, stop := context.WithTimeout(ctx, time.Second)
		_, err := e.client.Get(try, "health")
		stop()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			e.stop()
			t.Fatalf("etcd does not become healthy: %v\n%s", err, e.log.String())
		}
	}
}

func (e *etcd) stop() {
	if e.cmd.ProcessState != nil {
		return
	}
	if e.client != nil {
		e.client.Close()
	}
	e.cmd.Process.Signal(syscall.SIGTERM)
	e.cmd.Wait()
}

// hashAt is the member's own HashKV.
func (e *etcd) hashAt(t *testing.T, rev int64) KVHash {
	t.Helper()
	r, err := e.client.HashKV(t.Context(), e.client.Endpoints()[0], rev)
	if err != nil {
		t.Fatal(err)
	}
	return KVHash{Hash: r.Hash, HashRevision: r.HashRevision, CompactRevision: r.CompactRevision}
}

func etcdutl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, failed bytes.Buffer
	cmd := exec.Command(peerBinary(t, "etcdutl"), args...)
	cmd.Stdout, cmd.Stderr = &out, &failed
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, failed.String())
	}
	return out.String(), nil
}

// source is an etcd with a history, and a snapshot saved from it.
type source struct {
	path string
	// states are the contents of the keys at each revision from compacted on.
	states    map[int64]string
	compacted int64
	newest    int64
	hashes    map[int64]KVHash
}

func makeSource(t *testing.T) *source {
	t.Helper()
	dir := t.TempDir()
	url := "http://" + ports.Address(t)
	e := startEtcd(t, etcdConfig{name: "src", dataDir: filepath.Join(dir, "d"), peerURL: url, cluster: "src=" + url})
	e.await(t)
	ctx, c := t.Context(), e.client
	lease, err := c.Grant(ctx, 3600)
	must(t, err)
	for i := range 40 {
		_, err := c.Put(ctx, fmt.Sprint("k", i%12), fmt.Sprint("v", i), clientv3.WithLease(lease.ID*clientv3.LeaseID(i%2)))
		must(t, err)
		if i%7 == 3 {
			_, err = c.Delete(ctx, fmt.Sprint("k", i%5))
			must(t, err)
		}
		if i%9 == 0 {
			_, err = c.Txn(ctx).Then(clientv3.OpPut("a", fmt.Sprint(i)), clientv3.OpPut("b", fmt.Sprint(i)), clientv3.OpDelete("k1")).Commit()
			must(t, err)
		}
	}
	s := &source{compacted: 20, states: map[int64]string{}, hashes: map[int64]KVHash{}}
	_, err = c.Compact(ctx, s.compacted, clientv3.WithCompactPhysical())
	must(t, err)
	r, err := c.Put(ctx, "last", "x")
	must(t, err)
	s.newest = r.Header.Revision
	for rev := s.compacted; rev <= s.newest; rev++ {
		s.states[rev] = stateAt(t, e, rev)
		if rev > s.compacted {
			s.hashes[rev] = e.hashAt(t, rev)
		}
	}
	stream, err := c.SnapshotWithVersion(ctx)
	must(t, err)
	defer stream.Snapshot.Close()
	s.path = filepath.Join(dir, "snapshot")
	_, err = Save(ctx, FromReader(stream.Snapshot), s.path, SaveOptions{})
	must(t, err)
	e.stop()
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func stateAt(t *testing.T, e *etcd, rev int64) string {
	t.Helper()
	r, err := e.client.Get(t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithRev(rev))
	must(t, err)
	var b strings.Builder
	for _, kv := range r.Kvs {
		fmt.Fprintf(&b, "%s=%s@%d/%d/%d/%d ", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
	}
	return b.String()
}

func TestPeer(t *testing.T) {
	s := makeSource(t)
	for name, test := range map[string]func(*testing.T, *source){
		"status and hash": testPeerStatusAndHash, "damaged files": testPeerDamagedFiles,
		"restores the same": testPeerRestoresTheSame, "starts on restored": testPeerStartsOnRestored,
		"three members": testPeerThreeMembersStartOnRestored,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

// What we say about a file is what etcdutl says, also when the file is damaged.
func testPeerStatusAndHash(t *testing.T, s *source) {
	must(t, Verify(t.Context(), s.path))
	info, err := Status(t.Context(), s.path, FileOptions{})
	must(t, err)
	ours, err := json.Marshal(info)
	must(t, err)
	theirs, err := etcdutl(t, "snapshot", "status", s.path, "-w", "json")
	must(t, err)
	if string(ours) != strings.TrimSpace(theirs) {
		t.Errorf("status %s, etcdutl's %s", ours, theirs)
	}
	before, err := os.ReadFile(s.path)
	must(t, err)
	copied := s.path + ".copy" // etcdutl may change it
	must(t, os.WriteFile(copied, before, 0o600))
	for rev := int64(0); rev <= s.newest+1; rev++ {
		h, err := HashKV(t.Context(), s.path, rev, FileOptions{})
		theirs, theirErr := etcdutl(t, "hashkv", copied, "--rev", fmt.Sprint(rev), "-w", "json")
		if err != nil || theirErr != nil {
			if err == nil || theirErr == nil || !strings.Contains(theirErr.Error(), err.Error()) {
				t.Errorf("at %d: %v, etcdutl %v", rev, err, theirErr)
			}
			continue
		}
		ours, _ := json.Marshal(h)
		if string(ours) != strings.TrimSpace(theirs) {
			t.Errorf("at %d: %s, etcdutl's %s", rev, ours, theirs)
		}
		if live, ok := s.hashes[rev]; ok && live != h {
			t.Errorf("at %d: %v, the member's %v", rev, h, live)
		}
	}
	after, err := os.ReadFile(s.path)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
}

func testPeerDamagedFiles(t *testing.T, s *source) {
	whole, err := os.ReadFile(s.path)
	must(t, err)
	for at := 4096; at < len(whole)-32; at += 1531 {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 0x81
		path := filepath.Join(t.TempDir(), "damaged")
		must(t, os.WriteFile(path, damaged, 0o600))
		if err := Verify(t.Context(), path); !errors.Is(err, ErrHashMismatch) {
			t.Errorf("at %d: %v", at, err)
		}
		// Status may find a flipped bit harmless, or see damage that etcdutl overlooks; but it must not crash, and if
		// both succeed they must agree.
		info, err := Status(t.Context(), path, FileOptions{})
		theirs, theirErr := etcdutl(t, "snapshot", "status", path, "-w", "json")
		ours, _ := json.Marshal(info)
		if err != nil && !errors.Is(err, ErrIntegrity) && !errors.Is(err, ErrNotDatabase) {
			t.Errorf("at %d: error of no class: %v", at, err)
		}
		if theirErr == nil && err == nil && string(ours) != strings.TrimSpace(theirs) {
			t.Errorf("at %d: %s %v, etcdutl %s", at, ours, err, theirs)
		}
	}
}

// logRecords lists a log without the crc records, which stand wherever a writer began anew. That a configuration is
// not left on its own may be said or be left out.
func logRecords(t *testing.T, dir string) (records []string) {
	t.Helper()
	_, err := wal.Read(vfs.OS{}, dir, func(r wal.Record) error {
		switch r.Type {
		case wal.TypeCRC:
		case wal.TypeSnapshot:
			var s walpb.Snapshot
			if err := s.UnmarshalVT(r.Data); err != nil {
				return err
			}
			records = append(records, fmt.Sprint(r.Type, s.GetIndex(), s.GetTerm(), s.GetConfState().GetVoters(), s.GetConfState().GetAutoLeave()))
		default:
			records = append(records, fmt.Sprintf("%v %x", r.Type, r.Data))
		}
		return nil
	})
	must(t, err)
	return records
}

func databaseHash(t *testing.T, dataDir string) (info Info) {
	t.Helper()
	info, err := Status(t.Context(), filepath.Join(dataDir, "member", "snap", "db"), FileOptions{})
	must(t, err)
	return info
}

// What we restore is what etcdutl restores: the same database content, the same log, the same .snap file.
func testPeerRestoresTheSame(t *testing.T, s *source) {
	const urlA, urlB, urlC = "http://127.0.0.1:1001", "http://127.0.0.1:1002", "http://127.0.0.1:1003"
	tests := map[string]struct {
		cluster string
		bump    uint64
		skip    bool
		token   string
	}{
		"one member":    {cluster: "a=" + urlA},
		"three members": {cluster: "a=" + urlA + ",b=" + urlB + ",c=" + urlC},
		"two URLs":      {cluster: "a=" + urlC + ",a=" + urlA + ",b=" + urlB},
		"bumped":        {cluster: "a=" + urlA, bump: 1000000},
		"token":         {cluster: "a=" + urlA + ",b=" + urlB, token: "other"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ours, theirs := filepath.Join(t.TempDir(), "d"), filepath.Join(t.TempDir(), "d")
			var advertise []string
			for _, pair := range strings.Split(test.cluster, ",") {
				if u, ok := strings.CutPrefix(pair, "a="); ok {
					advertise = append(advertise, u)
				}
			}
			result, err := Restore(t.Context(), RestoreOptions{
				SnapshotPath: s.path, DataDir: ours, Name: "a", InitialCluster: test.cluster, InitialClusterToken: test.token,
				InitialAdvertisePeerURLs: advertise, BumpRevision: test.bump, MarkCompacted: test.bump > 0,
			})
			must(t, err)
			args := []string{"snapshot", "restore", s.path, "--data-dir", theirs, "--name", "a", "--initial-cluster", test.cluster,
				"--initial-advertise-peer-urls", strings.Join(advertise, ",")}
			if test.token != "" {
				args = append(args, "--initial-cluster-token", test.token)
			}
			if test.bump > 0 {
				args = append(args, "--bump-revision", fmt.Sprint(test.bump), "--mark-compacted")
			}
			_, err = etcdutl(t, args...)
			must(t, err)
			if a, b := databaseHash(t, ours), databaseHash(t, theirs); a.Hash != b.Hash || a.Revision != b.Revision || a.TotalKey != b.TotalKey {
				t.Errorf("database %+v, etcdutl's %+v", a, b)
			}
			if a, b := logRecords(t, ours+"/member/wal"), logRecords(t, theirs+"/member/wal"); !slices.Equal(a, b) {
				t.Errorf("log:\n%s\netcdutl's:\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
			}
			snap := "/member/snap/" + snapfile.Name(1, uint64(len(logRecords(t, ours+"/member/wal"))-4))
			a, errA := snapfile.Read(vfs.OS{}, ours+snap)
			b, errB := snapfile.Read(vfs.OS{}, theirs+snap)
			if errA != nil || errB != nil || fmt.Sprint(a) != fmt.Sprint(b) {
				t.Errorf("snap file %v %v\netcdutl's %v %v", a, errA, b, errB)
			}
			if want := s.newest + int64(test.bump); result.Revision != want {
				t.Errorf("revision %d, want %d", result.Revision, want)
			}
		})
	}
}

// A member that we restored runs in etcd, and has the history that it should have.
func testPeerStartsOnRestored(t *testing.T, s *source) {
	tests := map[string]RestoreOptions{
		"newest":             {},
		"older":              {ToRevision: s.newest - 7},
		"oldest":             {ToRevision: s.compacted},
		"bumped":             {BumpRevision: 500, MarkCompacted: true},
		"older, bumped":      {ToRevision: s.newest - 9, BumpRevision: 500, MarkCompacted: true},
		"log elsewhere":      {WALDir: filepath.Join(t.TempDir(), "log", "here")},
		"hash not looked at": {SkipHashCheck: true},
	}
	for name, o := range tests {
		t.Run(name, func(t *testing.T) {
			url := "http://" + ports.Address(t)
			o.SnapshotPath, o.DataDir, o.Name = s.path, filepath.Join(t.TempDir(), "d"), "m"
			o.InitialCluster, o.InitialAdvertisePeerURLs = "m="+url, []string{url}
			result, err := Restore(t.Context(), o)
			must(t, err)
			e := startEtcd(t, etcdConfig{name: "m", dataDir: o.DataDir, walDir: o.WALDir, peerURL: url, cluster: o.InitialCluster})
			e.await(t)
			at := o.ToRevision
			if at == 0 {
				at = s.newest
			}
			want := s.states[at]
			if got := stateAt(t, e, 0); got != want {
				t.Errorf("keys: %s\nwant: %s", got, want)
			}
			r, err := e.client.Put(t.Context(), "new", "x")
			must(t, err)
			if r.Header.Revision != result.Revision+1 {
				t.Errorf("first write has revision %d after %d", r.Header.Revision, result.Revision)
			}
			if o.BumpRevision > 0 {
				if _, err := e.client.Get(t.Context(), "a", clientv3.WithRev(s.newest)); err == nil || !strings.Contains(err.Error(), "compacted") {
					t.Errorf("revision of the snapshot after a bump: %v", err)
				}
				return
			}
			if want, ok := s.hashes[at]; ok && e.hashAt(t, at) != want {
				t.Errorf("hash %v, want %v", e.hashAt(t, at), want)
			}
		})
	}
}

func testPeerThreeMembersStartOnRestored(t *testing.T, s *source) {
	var pairs []string
	urls := map[string]string{}
	for _, name := range []string{"a", "b", "c"} {
		urls[name] = "http://" + ports.Address(t)
		pairs = append(pairs, name+"="+urls[name])
	}
	to := s.newest - 5
	var members []*etcd
	for name, url := range urls {
		o := RestoreOptions{SnapshotPath: s.path, DataDir: filepath.Join(t.TempDir(), name), Name: name, ToRevision: to,
			InitialCluster: strings.Join(pairs, ","), InitialAdvertisePeerURLs: []string{url}}
		_, err := Restore(t.Context(), o)
		must(t, err)
		members = append(members, startEtcd(t, etcdConfig{name: name, dataDir: o.DataDir, peerURL: url, cluster: o.InitialCluster}))
	}
	for _, m := range members {
		m.await(t)
	}
	if _, err := members[0].client.Put(t.Context(), "new", "x"); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		m.await(t)
		if got := stateAt(t, m, to); got != s.states[to] {
			t.Errorf("keys: %s\nwant: %s", got, s.states[to])
		}
		if m.hashAt(t, to) != s.hashes[to] || m.hashAt(t, to+1) != members[0].hashAt(t, to+1) {
			t.Errorf("hashes %v %v", m.hashAt(t, to), m.hashAt(t, to+1))
		}
	}
}
