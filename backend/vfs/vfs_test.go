package vfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, fsys FS, name, data string) File {
	t.Helper()
	f, err := fsys.Create(name)
	must(t, err)
	_, err = f.Write([]byte(data))
	must(t, err)
	return f
}

func content(t *testing.T, fsys FS, name string) string {
	t.Helper()
	b, err := ReadFile(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return "<absent>"
	}
	must(t, err)
	return string(b)
}

// TestSameBehaviour drives the real disk and the one in memory with the same
// random operations and expects the same answers.
func TestSameBehaviour(t *testing.T) {
	root := t.TempDir()
	mem := NewMem()
	must(t, mem.MkdirAll(root, 0o700))
	rng := rand.New(rand.NewSource(1))
	names := []string{"a", "b", "c"}
	path := func() string { return filepath.Join(root, names[rng.Intn(len(names))]) }
	for step := range 3000 {
		p, q := path(), path()
		off, size := int64(rng.Intn(9000)), rng.Intn(6000)
		data := bytes.Repeat([]byte{byte(step)}, size)
		kind := rng.Intn(8)
		run := func(fsys FS) (string, bool) {
			var err error
			switch kind {
			case 0:
				err = fsys.Rename(p, q)
			case 1:
				err = fsys.Remove(p)
			case 2:
				_, err = fsys.Stat(p)
			default:
				var f File
				f, err = fsys.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o600)
				if err != nil {
					break
				}
				switch kind {
				case 3:
					err = f.Truncate(off)
				case 4:
					err = f.Preallocate(off)
				case 5:
					_, _ = f.Seek(-min(off, 10), io.SeekEnd)
					_, err = f.Write(data)
				default:
					_, err = f.WriteAt(data, off)
				}
				err = errors.Join(err, f.Close())
			}
			var all string
			for _, n := range names {
				all += n + ":" + content(t, fsys, filepath.Join(root, n)) + "\n"
			}
			return all, err == nil
		}
		wantContent, wantOK := run(OS{})
		gotContent, gotOK := run(mem)
		if wantContent != gotContent || wantOK != gotOK {
			t.Fatalf("step %d kind %d: memory disk differs (ok %v, want %v)", step, kind, gotOK, wantOK)
		}
	}
}

func TestCrashLosesWhatWasNotSynced(t *testing.T) {
	disk := NewMem()
	must(t, disk.MkdirAll("d", 0o700))
	must(t, disk.SyncDir("d"))
	f := writeFile(t, disk, "d/f", "one")
	if got := content(t, disk.CrashClone(0), "d/f"); got != "<absent>" {
		t.Errorf("entry without SyncDir survived: %q", got)
	}
	must(t, disk.SyncDir("d"))
	if got := content(t, disk.CrashClone(0), "d/f"); got != "" {
		t.Errorf("data without Sync survived: %q", got)
	}
	must(t, f.Datasync())
	_, err := f.Write([]byte("two"))
	must(t, err)
	if got := content(t, disk.CrashClone(0), "d/f"); got != "one" {
		t.Errorf("after crash %q, want what was synced", got)
	}
	must(t, disk.Rename("d/f", "d/g"))
	after := disk.CrashClone(0)
	if f, g := content(t, after, "d/f"), content(t, after, "d/g"); f != "one" || g != "<absent>" {
		t.Errorf("rename without SyncDir: f=%q g=%q", f, g)
	}
	must(t, disk.SyncDir("d"))
	after = disk.CrashClone(0)
	if f, g := content(t, after, "d/f"), content(t, after, "d/g"); f != "<absent>" || g != "one" {
		t.Errorf("rename with SyncDir: f=%q g=%q", f, g)
	}
	disk.Crash(0)
	if _, err := f.Write([]byte("x")); !errors.Is(err, ErrCrashed) {
		t.Errorf("write on a dead handle: %v", err)
	}
	if got := content(t, disk, "d/g"); got != "one" {
		t.Errorf("after Crash %q", got)
	}
}

// TestTornWrites checks that seeds produce whole, lost and torn writes, that
// synced bytes are never among what is lost, and that a seed repeats itself.
func TestTornWrites(t *testing.T) {
	disk := NewMem()
	f := writeFile(t, disk, "f", string(bytes.Repeat([]byte("o"), 2048)))
	must(t, f.Sync())
	must(t, disk.SyncDir("."))
	_, err := f.WriteAt(bytes.Repeat([]byte("n"), 1024), 512)
	must(t, err)
	seen := map[string]bool{}
	for seed := range int64(64) {
		got := content(t, disk.CrashClone(seed), "f")
		if again := content(t, disk.CrashClone(seed), "f"); again != got {
			t.Fatalf("seed %d is not reproducible", seed)
		}
		if len(got) != 2048 || got[:512] != string(bytes.Repeat([]byte("o"), 512)) || got[1536:] != got[:512] {
			t.Fatalf("seed %d damaged synced bytes", seed)
		}
		for s := 512; s < 1536; s += 512 {
			if sector := got[s : s+512]; sector != string(bytes.Repeat([]byte{sector[0]}, 512)) {
				t.Fatalf("seed %d tore a sector", seed)
			}
		}
		seen[got[512:513]+got[1024:1025]] = true
	}
	for _, want := range []string{"oo", "on", "no", "nn"} {
		if !seen[want] {
			t.Errorf("no seed gave %q", want)
		}
	}
}

// TestReplaceRecipe is the worked example of the package: at no moment may a
// crash leave anything but the whole old or the whole new file.
func TestReplaceRecipe(t *testing.T) {
	for _, skipSync := range []bool{false, true} {
		broken := false
		for seed := range int64(40) {
			disk := NewMem()
			old := writeFile(t, disk, "state", "old state")
			must(t, old.Sync())
			must(t, disk.SyncDir("."))
			check := func() {
				if got := content(t, disk.CrashClone(seed), "state"); got != "old state" && got != "new state" {
					broken = true
				}
			}
			f := writeFile(t, disk, "state.tmp", "new state")
			check()
			if !skipSync {
				must(t, f.Datasync())
				check()
			}
			must(t, disk.Rename("state.tmp", "state"))
			check()
			must(t, disk.SyncDir("."))
			check()
		}
		if broken != skipSync {
			t.Errorf("without data sync %v: broken %v", skipSync, broken)
		}
	}
}

func TestLock(t *testing.T) {
	for name, fsys := range map[string]FS{"os": OS{}, "mem": NewMem()} {
		path := "lock"
		if name == "os" {
			path = filepath.Join(t.TempDir(), "lock")
		}
		l, err := fsys.Lock(path)
		must(t, err)
		if _, err := fsys.Lock(path); !errors.Is(err, ErrLocked) {
			t.Errorf("%s: second lock: %v", name, err)
		}
		must(t, l.Close())
		l, err = fsys.Lock(path)
		must(t, err)
		must(t, l.Close())
	}
}

func TestFaults(t *testing.T) {
	disk := NewFaulty(NewMem())
	f := writeFile(t, disk, "x.wal", "")
	disk.Inject(Rule{Ops: OpWrite, Match: "*.wal", Skip: 1, Times: 1, Err: syscall.ENOSPC, Short: 3})
	if _, err := f.Write([]byte("first ")); err != nil {
		t.Fatal(err)
	}
	n, err := f.Write([]byte("second"))
	if n != 3 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("short write: %d, %v", n, err)
	}
	if _, err := f.Write([]byte("!")); err != nil {
		t.Fatalf("rule fired twice: %v", err)
	}
	if got := content(t, disk, "x.wal"); got != "first sec!" {
		t.Fatalf("content %q", got)
	}
	disk.Inject(Rule{Ops: OpSync | OpRename, Err: syscall.EIO})
	if err := f.Datasync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if err := disk.Rename("x.wal", "y"); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	before := disk.Count()
	disk.Clear()
	must(t, disk.Rename("x.wal", "y"))
	if disk.Count() != before+1 {
		t.Fatalf("count %d", disk.Count()-before)
	}
}
