package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
	"github.com/upkeep-kv/upkeep/raftnode/identity"
	"github.com/upkeep-kv/upkeep/raftnode/snapfile"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
)

const threeMembers = "a=http://h:1,b=http://h:2,c=http://h:3"

func optionsFor(snapshot, dataDir string) RestoreOptions {
	return RestoreOptions{
		SnapshotPath: snapshot, DataDir: dataDir, Name: "b", InitialCluster: threeMembers,
		InitialAdvertisePeerURLs: []string{"http://h:2"}, InitialClusterToken: "t", InitialMmapBytes: 64 << 20,
	}
}

// checkMember opens what was restored as a server would.
func checkMember(t *testing.T, dataDir, walDir string) {
	t.Helper()
	members, clusterID, err := identity.ParseCluster(threeMembers, "t")
	if err != nil {
		t.Fatal(err)
	}
	recovered, err := wal.Load(vfs.OS{}, walDir)
	if err != nil {
		t.Fatal(err)
	}
	var self identity.Member
	var ids []uint64
	for _, m := range members {
		ids = append(ids, m.ID)
		if m.Name == "b" {
			self = m
		}
	}
	if recovered.Metadata.GetNodeID() != self.ID || recovered.Metadata.GetClusterID() != clusterID {
		t.Errorf("log belongs to %v", recovered.Metadata)
	}
	if recovered.HardState.GetCommit() != 3 || recovered.Snapshot.GetIndex() != 3 || !slices.Equal(recovered.Snapshot.GetConfState().GetVoters(), ids) {
		t.Errorf("log: %v %v", recovered.HardState, recovered.Snapshot)
	}
	snapDir := filepath.Join(dataDir, "member", "snap")
	snap, err := snapfile.Read(vfs.OS{}, filepath.Join(snapDir, snapfile.Name(1, 3)))
	if err != nil || len(snap.Members) != 3 || !slices.Equal(snap.ConfState.GetVoters(), ids) {
		t.Errorf("snap file: %+v %v", snap, err)
	}
	database := filepath.Join(snapDir, "db")
	if problems, err := backend.Check(t.Context(), database); err != nil || len(problems) > 0 {
		t.Errorf("database: %v %v", problems, err)
	}
	err = view(t.Context(), database, FileOptions{}, func(f *backend.File) error {
		got, want := map[string]string{}, map[string]string{}
		f.Scan(backend.Members, nil, nil, func(k, v []byte) error { got[string(k)] = string(v); return nil })
		for _, m := range members {
			want[fmt.Sprintf("%x", m.ID)] = fmt.Sprintf(`{"id":%d,"peerURLs":["%s"],"name":"%s"}`, m.ID, m.PeerURLs[0], m.Name)
		}
		if !maps.Equal(got, want) {
			t.Errorf("members: %v", got)
		}
		if index, term := f.Applied(); index != 3 || term != 1 {
			t.Errorf("applied %d in term %d", index, term)
		}
		return f.Scan(backend.MembersRemoved, nil, nil, func(k, _ []byte) error { return fmt.Errorf("removed member %s", k) })
	})
	if err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dataDir, "*.part")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRestore(t *testing.T) {
	snapshot := historyFixture(t).snapshot()
	for name, walDir := range map[string]string{
		"default": "d/member/wal", "in the member directory": "d/member/x/log", "in the data directory": "d/log", "elsewhere": "e/f/log",
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			o := optionsFor(snapshot, filepath.Join(root, "d"))
			o.WALDir = filepath.Join(root, walDir)
			result, err := Restore(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if result.Revision != 67 || result.CompactRevision != 40 {
				t.Errorf("%+v", result)
			}
			checkMember(t, o.DataDir, o.WALDir)
			if mode := statMode(t, filepath.Join(o.DataDir, "member", "snap")); mode != 0o700 {
				t.Errorf("mode %o", mode)
			}
			before := tree(t, root)
			if _, err := Restore(t.Context(), o); err == nil {
				t.Error("restored over a member")
			}
			if !maps.Equal(before, tree(t, root)) {
				t.Error("a refused restore changed files")
			}
		})
	}
	t.Run("into an empty directory", func(t *testing.T) {
		o := optionsFor(snapshot, t.TempDir())
		if _, err := Restore(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		checkMember(t, o.DataDir, filepath.Join(o.DataDir, "member", "wal"))
	})
}

func statMode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// contents reads the live keys of a database with their lease.
func contents(t *testing.T, path string) map[string]string {
	t.Helper()
	live := map[string]string{}
	err := view(t.Context(), path, FileOptions{}, func(f *backend.File) error {
		return forEachRevision(t.Context(), f, func(_ revision.Revision, deletion bool, _, v []byte) error {
			var kv mvccpb.KeyValue
			if err := kv.UnmarshalVT(v); err != nil {
				return err
			}
			if delete(live, string(kv.Key)); !deletion {
				live[string(kv.Key)] = fmt.Sprintf("%s/%d", kv.Value, kv.Lease)
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return live
}

func TestRestoreToRevision(t *testing.T) {
	f := historyFixture(t)
	snapshot := f.snapshot()
	for rev := int64(40); rev <= 67; rev++ {
		o := optionsFor(snapshot, filepath.Join(t.TempDir(), "d"))
		o.ToRevision = rev
		result, err := Restore(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		database := filepath.Join(o.DataDir, "member", "snap", "db")
		got := contents(t, database)
		want, lost := map[string]string{}, 0
		for i := range 30 {
			key := fmt.Sprintf("k%02d", i)
			switch {
			case i%5 == 0 && rev >= int64(62+i/5):
			case rev >= int64(32+i):
				want[key] = "1/0"
			default:
				want[key] = fmt.Sprintf("0/%d", 7+i%2)
				lost += i % 2 // lease 8 does not exist
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("at %d: %v\nwant %v", rev, got, want)
		}
		if result.Revision != rev || result.CompactRevision != 40 || result.DroppedRevisions != int(67-rev) || rev < 67 && result.LostLeases != lost {
			t.Errorf("at %d: %+v, want %d lost leases", rev, result, lost)
		}
		// The hash of the history up to there is what the whole file has for that revision.
		before, err1 := HashKV(t.Context(), snapshot, rev, FileOptions{})
		after, err2 := HashKV(t.Context(), database, 0, FileOptions{})
		if err1 != nil || err2 != nil || before != after {
			t.Errorf("at %d: hash %v %v, restored %v %v", rev, before, err1, after, err2)
		}
	}
	for _, rev := range []int64{-1, 1, 39, 68} {
		o := optionsFor(snapshot, filepath.Join(t.TempDir(), "d"))
		o.ToRevision = rev
		_, err := Plan(t.Context(), o)
		if !errors.Is(err, ErrRevisionRange) || !strings.Contains(err.Error(), "40 to 67") {
			t.Errorf("at %d: %v", rev, err)
		}
	}
}

// A compaction that was only scheduled counts: it may have deleted half of what it is to delete.
func TestToRevisionBelowScheduledCompaction(t *testing.T) {
	f := historyFixture(t)
	f.mark(metaScheduledCompact, 50)
	o := optionsFor(f.snapshot(), filepath.Join(t.TempDir(), "d"))
	o.ToRevision = 49
	if _, err := Plan(t.Context(), o); !errors.Is(err, ErrRevisionRange) {
		t.Error(err)
	}
	o.ToRevision = 50
	if _, err := Plan(t.Context(), o); err != nil {
		t.Error(err)
	}
}

// With both, no revision that was ever given out is used again, though the entries are gone.
func TestToRevisionWithBump(t *testing.T) {
	o := optionsFor(historyFixture(t).snapshot(), filepath.Join(t.TempDir(), "d"))
	o.ToRevision, o.BumpRevision, o.MarkCompacted = 45, 1000, true
	result, err := Restore(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if result.Revision != 1067 || result.CompactRevision != 1067 {
		t.Errorf("%+v", result)
	}
	o = optionsFor(o.SnapshotPath, filepath.Join(t.TempDir(), "d"))
	o.BumpRevision, o.MarkCompacted = 1<<63-60, true
	if _, err := Restore(t.Context(), o); err == nil {
		t.Error("revision overflowed")
	}
	if len(tree(t, o.DataDir)) != 0 {
		t.Error("failed restore left files")
	}
}

func TestPlanRefuses(t *testing.T) {
	snapshot := historyFixture(t).snapshot()
	whole, err := os.ReadFile(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	damaged := bytes.Clone(whole)
	damaged[9000] ^= 1
	raw, cut, bad := write("raw", whole[:len(whole)-32]), write("cut", whole[:len(whole)-4096]), write("bad", damaged)
	text := write("text", withTrailer(bytes.Repeat([]byte("text"), 4096)))
	full := filepath.Dir(write("full/file", nil))
	occupied := filepath.Dir(write("occupied/x", nil))
	tests := map[string]struct {
		change func(*RestoreOptions)
		want   string
	}{
		"no such file":        {func(o *RestoreOptions) { o.SnapshotPath = "nosuch" }, "no such file"},
		"no trailer":          {func(o *RestoreOptions) { o.SnapshotPath = raw }, "snapshot missing hash but --skip-hash-check=false"},
		"truncated":           {func(o *RestoreOptions) { o.SnapshotPath = cut }, "expected sha256 ["},
		"damaged":             {func(o *RestoreOptions) { o.SnapshotPath = bad }, "expected sha256 ["},
		"not a database":      {func(o *RestoreOptions) { o.SnapshotPath = text }, "not a usable database"},
		"directory in use":    {func(o *RestoreOptions) { o.DataDir = full }, fmt.Sprintf("data-dir %q not empty or could not be read", full)},
		"log directory":       {func(o *RestoreOptions) { o.WALDir = occupied }, fmt.Sprintf("wal-dir %q exists", occupied)},
		"bump without mark":   {func(o *RestoreOptions) { o.BumpRevision = 1 }, "--mark-compacted required"},
		"mark without bump":   {func(o *RestoreOptions) { o.MarkCompacted = true }, "--mark-compacted required"},
		"unknown name":        {func(o *RestoreOptions) { o.Name = "x" }, `couldn't find local name "x" in the initial cluster configuration`},
		"other URL":           {func(o *RestoreOptions) { o.InitialAdvertisePeerURLs = []string{"http://h:9"} }, "--initial-cluster has b=http://h:2 but missing from --initial-advertise-peer-urls=http://h:9"},
		"malformed cluster":   {func(o *RestoreOptions) { o.InitialCluster = "b" }, "empty URL"},
		"unreadable data dir": {func(o *RestoreOptions) { o.DataDir = raw }, "not empty or could not be read"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := tree(t, root)
			o := optionsFor(snapshot, filepath.Join(root, "d"))
			test.change(&o)
			if _, err := Plan(t.Context(), o); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if !maps.Equal(before, tree(t, root)) {
				t.Error("a plan changed files")
			}
		})
	}
	o := optionsFor(raw, filepath.Join(root, "d"))
	o.SkipHashCheck = true
	if _, err := Restore(t.Context(), o); err != nil {
		t.Errorf("skipping the check of a file without trailer: %v", err)
	}
}

// Something goes wrong between Plan and the end: nothing must stay behind.
func TestRunThatFails(t *testing.T) {
	snapshot := historyFixture(t).snapshot()
	whole, err := os.ReadFile(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := map[string]struct {
		ctx     context.Context
		between func(o *RestoreOptions)
		want    string
	}{
		"cancelled":      {ctx: cancelled, want: "cancel"},
		"file vanished":  {between: func(o *RestoreOptions) { os.Remove(o.SnapshotPath) }, want: "no such file"},
		"file changed":   {between: func(o *RestoreOptions) { os.WriteFile(o.SnapshotPath, append(whole, 0), 0o600) }, want: "snapshot missing hash"},
		"member started": {between: func(o *RestoreOptions) { os.MkdirAll(filepath.Join(o.DataDir, "member"), 0o700) }, want: "not empty"},
		"log appeared":   {between: func(o *RestoreOptions) { os.MkdirAll(o.WALDir, 0o700) }, want: "exists"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			o := optionsFor(filepath.Join(root, "s"), filepath.Join(root, "d"))
			o.WALDir = filepath.Join(root, "log")
			if err := errors.Join(os.WriteFile(o.SnapshotPath, whole, 0o600), os.Mkdir(o.DataDir, 0o700)); err != nil {
				t.Fatal(err)
			}
			plan, err := Plan(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if test.between != nil {
				test.between(&o)
			}
			ctx := test.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			if _, err := plan.Run(ctx); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if left := tree(t, o.DataDir); len(left) > 0 {
				t.Errorf("left behind: %v", slices.Collect(maps.Keys(left)))
			}
			if left, _ := filepath.Glob(filepath.Join(root, "*.part")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

const killedEnv = "SNAPSHOT_TEST_RESTORE_ROOT"

// TestKilledRestore kills a restoring process again and again at ever later moments. At each of them the member must be
// absent, and then the next run succeeds, or whole.
func TestKilledRestore(t *testing.T) {
	if root := os.Getenv(killedEnv); root != "" {
		o := optionsFor(filepath.Join(root, "s"), filepath.Join(root, "d"))
		o.WALDir = filepath.Join(root, "log")
		if _, err := Restore(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		return
	}
	f := historyFixture(t)
	for i := range 60 {
		f.put(backend.Auth, fmt.Sprint("filler", i), make([]byte, 100<<10))
	}
	data, err := os.ReadFile(f.snapshot())
	if err != nil {
		t.Fatal(err)
	}
	begun, finished := 0, 0
	for delay := 5 * time.Millisecond; finished < 2 && delay < 5*time.Second; delay += delay / 2 {
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, "s"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		child := exec.Command(os.Args[0], "-test.run=^TestKilledRestore$")
		child.Env = append(os.Environ(), killedEnv+"="+root)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(delay, func() { child.Process.Kill() })
		child.Wait()
		kill.Stop()
		o := optionsFor(filepath.Join(root, "s"), filepath.Join(root, "d"))
		o.WALDir = filepath.Join(root, "log")
		if _, err := os.Stat(o.DataDir); err == nil {
			begun++
		}
		if _, err := os.Stat(filepath.Join(o.DataDir, "member")); err == nil {
			finished++
			os.RemoveAll(filepath.Join(o.DataDir, stageName)) // killed before the clean-up: harmless
		} else if _, err := Restore(t.Context(), o); err != nil {
			t.Fatalf("killed after %v, and then: %v", delay, err)
		}
		checkMember(t, o.DataDir, o.WALDir)
	}
	if begun == 0 || finished < 2 {
		t.Errorf("%d runs had begun, %d had finished: the test has not tested anything", begun, finished)
	}
}

// The one moment that killing is unlikely to hit: the log is in place, the member is not.
func TestInterruptedBetweenLogAndMember(t *testing.T) {
	root := t.TempDir()
	o := optionsFor(historyFixture(t).snapshot(), filepath.Join(root, "d"))
	o.WALDir = filepath.Join(root, "log")
	plan, err := Plan(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.build(t.Context(), new(RestoreResult)); err != nil {
		t.Fatal(err)
	}
	if err := plan.publishLog(); err != nil {
		t.Fatal(err)
	}
	other := o
	other.WALDir = filepath.Join(root, "log2")
	if err := os.Mkdir(other.WALDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Plan(t.Context(), other); err == nil {
		t.Error("a log directory that is not from the interrupted restore was taken for it")
	}
	if _, err := Restore(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	checkMember(t, o.DataDir, o.WALDir)
}
