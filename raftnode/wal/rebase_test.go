package wal

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

// crashingFS does nothing any more after a number of changes of the directory.
type crashingFS struct {
	vfs.FS
	left int
}

var errCrashed = errors.New("crashed")

func (f *crashingFS) spend() error {
	if f.left--; f.left < 0 {
		return errCrashed
	}
	return nil
}

func (f *crashingFS) Rename(from, to string) error {
	if err := f.spend(); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

func (f *crashingFS) Remove(path string) error {
	if strings.HasSuffix(path, tempSuffix) {
		return f.FS.Remove(path)
	}
	if err := f.spend(); err != nil {
		return err
	}
	return f.FS.Remove(path)
}

// TestRebase: after a crash at any step, the log is the old one or the new one, and it goes on.
func TestRebase(t *testing.T) {
	for crash := range 8 {
		t.Run(fmt.Sprintf("after %d steps", crash), func(t *testing.T) {
			disk := vfs.NewMem()
			must(t, Bootstrap(disk, testDir, testMetadata, BootstrapState{}))
			fsys := &crashingFS{FS: disk, left: 100}
			w, _, err := Open(fsys, testDir, Options{SegmentBytes: 4096})
			must(t, err)
			for i := uint64(1); i <= 9; i++ {
				must(t, w.Append(hardState(2, 0xa, i), []*raftpb.Entry{entry(2, i, strings.Repeat("v", 2000))}, nil))
				must(t, w.Sync())
			}
			if w.Segments() != 5 {
				t.Fatalf("%d segments", w.Segments())
			}
			fsys.left = crash
			tail := []*raftpb.Entry{entry(2, 8, "eight"), entry(2, 9, "nine")}
			err = w.Rebase(snapshot(7, 2), tail, hardState(2, 0xa, 7))
			if crashed := crash < 6; crashed != errors.Is(err, errCrashed) {
				t.Fatalf("with %d steps: %v", crash, err)
			}
			_ = w.Close()
			rec, err := Load(disk, testDir)
			must(t, err)
			got := fmt.Sprintf("snapshot %d, %d entries, commit %d", rec.Snapshot.GetIndex(), len(rec.Entries), rec.HardState.GetCommit())
			want := "snapshot 7, 2 entries, commit 7"
			if crash == 0 {
				want = "snapshot 0, 9 entries, commit 9"
			}
			if got != want {
				t.Fatalf("%s, want %s", got, want)
			}
			// It goes on, whoever writes now.
			w, _, err = Open(disk, testDir)
			must(t, err)
			must(t, w.Append(hardState(3, 0xa, 10), []*raftpb.Entry{entry(3, 10, "ten")}, nil))
			must(t, w.Close())
			rec, err = Load(disk, testDir)
			must(t, err)
			if last := rec.Entries[len(rec.Entries)-1]; last.GetIndex() != 10 || rec.HardState.GetCommit() != 10 {
				t.Fatalf("the log ends at %d, committed is %d", last.GetIndex(), rec.HardState.GetCommit())
			}
		})
	}
}
