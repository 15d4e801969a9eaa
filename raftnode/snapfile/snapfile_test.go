package snapfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

func example() *Snapshot {
	return &Snapshot{
		Term: 2, Index: 0xc, Version: "3.7.0", Removed: []uint64{3, 9},
		ConfState: &raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}, AutoLeave: new(false)},
		Members: []Member{
			{ID: 1, Name: "a", PeerURLs: []string{"http://a:2380"}, ClientURLs: []string{"http://a:2379"}},
			{ID: 2, PeerURLs: []string{"http://b:2380", "http://b:2390"}, IsLearner: true},
		},
	}
}

func equal(a, b *Snapshot) bool {
	x, y := *a, *b
	x.ConfState, y.ConfState = nil, nil
	return reflect.DeepEqual(x, y) && proto.Equal(a.ConfState, b.ConfState)
}

func TestRoundTrip(t *testing.T) {
	disk := vfs.NewMem()
	disk.MkdirAll("snap", 0o700)
	for _, want := range []*Snapshot{example(), {Term: 1, Index: 1, Members: []Member{{ID: 7, PeerURLs: []string{"http://a:1"}}}}} {
		path, err := Write(disk, "snap", want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Read(disk.CrashClone(1), path) // what Write returned from is durable
		if err != nil || !equal(got, want) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, want)
		}
	}
}

// The file was written by etcd 3.7.3 after one member was added and removed.
func TestReadsEtcdsFile(t *testing.T) {
	got, err := Read(vfs.OS{}, "testdata/etcd-3.7.3.snap")
	if err != nil {
		t.Fatal(err)
	}
	if got.Term != 2 || got.Index != 0xc || got.Version != "3.7.0" || len(got.Members) != 1 || len(got.Removed) != 1 {
		t.Errorf("got %+v", got)
	}
	m := got.Members[0]
	if m.ID != 0x2e1259d415f2a040 || m.Name != "a" || m.PeerURLs[0] != "http://127.0.0.1:23800" ||
		m.ClientURLs[0] != "http://127.0.0.1:23790" || got.ConfState.Voters[0] != m.ID {
		t.Errorf("got %+v", got)
	}
}

// Every field that etcd's file has, ours has too, with a value of the same kind, except for the recorded events.
func TestSameShapeAsEtcds(t *testing.T) {
	theirs, ours := storeOf(t, mustRead(t, "testdata/etcd-3.7.3.snap")), any(nil)
	s, err := Read(vfs.OS{}, "testdata/etcd-3.7.3.snap")
	if err != nil {
		t.Fatal(err)
	}
	content, err := encode(s)
	if err != nil {
		t.Fatal(err)
	}
	ours = storeOf(t, content)
	compareShape(t, "", theirs, ours)
}

func storeOf(t *testing.T, content []byte) (v any) {
	t.Helper()
	start, end := bytes.IndexByte(content, '{'), bytes.LastIndexByte(content, '}')
	if err := json.Unmarshal(content[start:end+1], &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func compareShape(t *testing.T, at string, theirs, ours any) {
	if strings.HasSuffix(at, ".Events") {
		if len(ours.([]any)) != len(theirs.([]any)) {
			t.Errorf("%s: ring of %d, want %d", at, len(ours.([]any)), len(theirs.([]any)))
		}
		return
	}
	switch x := theirs.(type) {
	case map[string]any:
		y, ok := ours.(map[string]any)
		if !ok {
			t.Errorf("%s: %T instead of %T", at, ours, theirs)
			return
		}
		for name, value := range x {
			if other, ok := y[name]; ok || strings.HasSuffix(at, ".Stats") {
				compareShape(t, at+"."+name, value, other)
			} else {
				t.Errorf("%s.%s is missing", at, name)
			}
		}
	case string:
		if theirs != ours {
			t.Errorf("%s: %v instead of %v", at, ours, theirs)
		}
	case nil:
		if ours != nil {
			t.Errorf("%s: %v instead of null", at, ours)
		}
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestEveryDamageIsNoticed(t *testing.T) {
	whole, err := encode(example())
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		if _, err := decode(whole[:i]); err == nil {
			t.Fatalf("cut at %d was not noticed", i)
		}
		damaged := slices.Clone(whole)
		damaged[i] ^= 0x10
		if got, err := decode(damaged); err == nil && !equal(got, example()) {
			t.Fatalf("flipped bit in byte %d was not noticed", i)
		}
	}
	disk := vfs.NewMem()
	f, _ := disk.Create("x.snap")
	f.Write(whole[:100])
	if _, err := Read(disk, "x.snap"); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "x.snap") {
		t.Error(err)
	}
	if _, err := Read(disk, "y.snap"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpOpen, vfs.OpWrite, vfs.OpSync, vfs.OpRename} {
		disk := vfs.NewMem()
		disk.MkdirAll("snap", 0o700)
		faulty := vfs.NewFaulty(disk)
		faulty.Inject(vfs.Rule{Ops: op, Err: fs.ErrInvalid})
		if _, err := Write(faulty, "snap", example()); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("op %d: %v", op, err)
		}
		if entries, _ := disk.ReadDir("snap"); len(entries) != 0 {
			t.Errorf("op %d left %v", op, entries)
		}
	}
}

func TestPurge(t *testing.T) {
	disk := vfs.NewMem()
	disk.MkdirAll("snap", 0o700)
	for _, at := range [][2]uint64{{1, 50}, {2, 7}, {2, 1000}, {10, 8}} {
		s := example()
		s.Term, s.Index = at[0], at[1]
		if _, err := Write(disk, "snap", s); err != nil {
			t.Fatal(err)
		}
	}
	others := []string{"db", "0000000000000007.snap.db", "note.snap", "tmp-0000000000000001-0000000000000001.snap"}
	for _, name := range others {
		f, _ := disk.Create(filepath.Join("snap", name))
		f.Close()
	}
	if removed, err := Purge(disk, "snap", 0); err != nil || len(removed) != 1 || removed[0] != others[3] {
		t.Errorf("keeping all: removed %v, %v", removed, err)
	}
	removed, err := Purge(disk, "snap", 2)
	if err != nil || !slices.Equal(removed, []string{Name(2, 7), Name(1, 50)}) {
		t.Errorf("removed %v, %v", removed, err)
	}
	if left, _ := List(disk, "snap"); !slices.Equal(left, []string{Name(10, 8), Name(2, 1000)}) {
		t.Errorf("left %v", left)
	}
	if entries, _ := disk.ReadDir("snap"); len(entries) != 5 {
		t.Errorf("other files were touched: %v", entries)
	}
}
