package backend

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const never = time.Hour // a batch interval that does not pass in a test

func TestVisibleBeforeDurable(t *testing.T) {
	b := open(t, Config{BatchInterval: never})
	defer closeAndCheck(t, b)
	before := b.View()
	defer before.Close()
	e := b.Begin()
	e.Append(revKey(2), []byte("two"))
	during := b.View()
	defer during.Close()
	e.Append(subKey(2, 1), []byte("two-one"))
	e.Commit(9, 3)
	after := b.View()
	defer after.Close()
	for _, c := range []struct {
		v    *View
		want string
	}{{before, ""}, {during, "2.0=two "}, {after, "2.0=two 2.1=two-one "}} {
		if got := dump(t, c.v); got != c.want {
			t.Errorf("view: %q, want %q", got, c.want)
		}
	}
	if got := string(after.Get(subKey(2, 1))); got != "two-one" {
		t.Errorf("get: %q", got)
	}
	if after.Get(subKey(2, 2)) != nil || during.Get(subKey(2, 1)) != nil {
		t.Error("found what is not there")
	}
	if i, _ := b.Durable(); i != 0 {
		t.Errorf("durable %d before any commit", i)
	}
	flush(t, b)
	if i, term := b.Durable(); i != 9 || term != 3 {
		t.Errorf("durable %d/%d", i, term)
	}
	// The views still show their moments after readers have moved to the file.
	if got := dump(t, during); got != "2.0=two " {
		t.Errorf("old view changed: %q", got)
	}
	if got := dumpNow(t, b); got != "2.0=two 2.1=two-one " {
		t.Errorf("from the file: %q", got)
	}
}

// TestCrashEndsAtAnEntry copies the file at many moments, as a crash would, and
// expects in each copy exactly the effects of the entries up to its applied
// index.
func TestCrashEndsAtAnEntry(t *testing.T) {
	b := open(t, Config{BatchLimit: 7, NoSync: true})
	defer closeAndCheck(t, b)
	lease := []byte("lease-1")
	var crashes []string
	rev := 1
	for index := 1; index <= 200; index++ {
		e := b.Begin()
		for sub := range index % 5 {
			e.Append(subKey(rev+1, sub), []byte("v"))
		}
		if index%5 > 0 {
			rev++
		}
		e.Put(Lease, lease, bigEndian(uint64(index)))
		e.Commit(uint64(index), 1)
		if index%20 == 0 {
			flush(t, b) // so that the copy is not in the middle of a write
			put := b.Begin()
			put.Put(Lease, lease, []byte("unsealed"))
			crashes = append(crashes, copyOf(t, b.cfg.Path))
			put.Put(Lease, lease, bigEndian(uint64(index)))
			put.Commit(0, 0)
		}
	}
	for i, path := range crashes {
		c := open(t, Config{Path: path})
		index, _ := c.Durable()
		if index != uint64(20*(i+1)) {
			t.Errorf("copy %d: applied %d", i, index)
		}
		want := 0
		for n := 1; n <= int(index); n++ {
			want += n % 5
		}
		got := 0
		v := c.View()
		must(t, v.Scan(nil, nil, func(_, _ []byte) error { got++; return nil }))
		must(t, v.ScanBucket(Lease, nil, nil, func(k, val []byte) error {
			if string(k) != string(lease) || string(val) != string(bigEndian(index)) {
				t.Errorf("copy %d: lease %q = %x at applied %d", i, k, val, index)
			}
			return nil
		}))
		v.Close()
		if got != want {
			t.Errorf("copy %d: %d revisions at applied %d, want %d", i, got, index, want)
		}
		closeAndCheck(t, c)
	}
}

func TestReopen(t *testing.T) {
	b := open(t, Config{BatchInterval: never})
	put(b, 2, "a")
	e := b.Begin()
	e.Put(Upkeep, []byte("k"), []byte("v"))
	e.Delete(Members, []byte("absent"))
	e.Append(revKey(3), nil)
	e.Commit(7, 2)
	closeAndCheck(t, b) // commits what is pending
	b = open(t, Config{Path: b.cfg.Path})
	defer closeAndCheck(t, b)
	if i, term := b.Durable(); i != 7 || term != 2 {
		t.Errorf("applied %d/%d after reopening", i, term)
	}
	if got := dumpNow(t, b); got != "2.0=a 3.0= " {
		t.Errorf("%q", got)
	}
	v := b.View()
	defer v.Close()
	if v.Get(revKey(3)) == nil || v.Get(revKey(4)) != nil {
		t.Error("an empty value is not the same as none")
	}
	defer func() {
		if recover() == nil {
			t.Error("a revision that is not above the file's last was accepted")
		}
	}()
	e = b.Begin()
	defer e.Commit(0, 0)
	e.Append(revKey(3), nil)
}

func TestSizesOfFreshStore(t *testing.T) {
	b := open(t, Config{})
	defer closeAndCheck(t, b)
	for i := range 20 {
		e := b.Begin()
		e.Put(Members, []byte("8e9e05c52164694d"), []byte(`{"id":10276657743932975437}`))
		e.Commit(uint64(i+1), 1)
		flush(t, b)
	}
	// What etcd 3.7.3 reports for a store that has only just been created.
	if s := b.Sizes(); s.File != 20480 || s.InUse != 16384 {
		t.Errorf("file %d, in use %d; want 20480, 16384", s.File, s.InUse)
	}
}

func TestQuotaCountsPending(t *testing.T) {
	b := open(t, Config{BatchInterval: never})
	defer closeAndCheck(t, b)
	before := b.QuotaBytes()
	e := b.Begin()
	e.Append(revKey(2), make([]byte, 1<<20))
	e.Commit(1, 1)
	if got := b.QuotaBytes(); got < 1<<20 {
		t.Errorf("quota size %d, was %d before 1 MiB", got, before)
	}
	if s := b.Sizes(); s.Pending < 1<<20 {
		t.Errorf("pending %d", s.Pending)
	}
	flush(t, b)
	if s := b.Sizes(); s.Pending != 0 || s.File < 1<<20 {
		t.Errorf("after the commit %+v", s)
	}
}

func TestBackgroundDeletes(t *testing.T) {
	b := open(t, Config{BatchInterval: never})
	defer closeAndCheck(t, b)
	for i := 2; i < 10; i++ {
		put(b, i, "v")
	}
	flush(t, b)
	old := b.View()
	defer old.Close()
	put(b, 10, "pending")
	ctx := context.Background()
	must(t, b.Background(ctx, []Op{
		{Bucket: Key, Key: revKey(2), Delete: true}, {Bucket: Key, Key: revKey(5), Delete: true},
		{Bucket: Meta, Key: []byte("finishedCompactRev"), Value: revKey(5)},
	}))
	if got, want := dumpNow(t, b), "3.0=v 4.0=v 6.0=v 7.0=v 8.0=v 9.0=v 10.0=pending "; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if old.Get(revKey(5)) == nil {
		t.Error("the deletion shows in an older view")
	}
	if i, _ := b.Durable(); i != 9 {
		t.Errorf("a background write moved the applied index to %d", i)
	}
	if err := b.Background(ctx, []Op{{Bucket: Meta}}); err == nil {
		t.Error("empty key accepted")
	}
}

func TestAfterClose(t *testing.T) {
	b := open(t, Config{})
	put(b, 2, "v")
	closeAndCheck(t, b)
	ctx := context.Background()
	_, errHash := b.Hash(ctx)
	_, errSnap := b.Snapshot(ctx)
	_, errDefrag := b.Defrag(ctx, DefragOptions{})
	for name, err := range map[string]error{
		"flush": b.Flush(ctx), "background": b.Background(ctx, nil), "close": b.Close(), "hash": errHash,
		"snapshot": errSnap, "defrag": errDefrag, "replace": b.Replace(ctx, "x"),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	v := b.View()
	if v.Err() != ErrClosed || v.Get(revKey(2)) != nil {
		t.Error("a view after Close works")
	}
	v.Close()
	put(b, 3, "nowhere") // does not hang
}

func TestLockedByAnother(t *testing.T) {
	b := open(t, Config{})
	defer closeAndCheck(t, b)
	_, err := Open(Config{Path: b.cfg.Path})
	var locked *LockedError
	if !errors.As(err, &locked) || !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
	if locked.PID != os.Getpid() {
		t.Errorf("holder %d, want %d: %v", locked.PID, os.Getpid(), err)
	}
	if _, err := OpenFile(b.cfg.Path); !errors.Is(err, ErrLocked) {
		t.Errorf("offline open of a file in use: %v", err)
	}
}

// TestLeftoversBelongToTheHolder: the copy of a running defragmentation must survive a second process that tries to
// start, and not the next start of its own.
func TestLeftoversBelongToTheHolder(t *testing.T) {
	b := open(t, Config{})
	copied := b.cfg.Path + tempInfix + "1"
	must(t, os.WriteFile(copied, nil, 0o600))
	if _, err := Open(Config{Path: b.cfg.Path}); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	if _, err := os.Stat(copied); err != nil {
		t.Errorf("removed by somebody without the lock: %v", err)
	}
	closeAndCheck(t, b)
	closeAndCheck(t, open(t, Config{Path: b.cfg.Path}))
	if _, err := os.Stat(copied); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("not removed by the holder: %v", err)
	}
}

// TestCreationsAtOnce: of processes that create the file at the same time one gets it, and all see the same one.
func TestCreationsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	cfg := Config{Path: path}
	cfg.setDefaults()
	must(t, createFile(path, &cfg))
	b := open(t, cfg)
	put(b, 2, "here")
	flush(t, b)
	must(t, createFile(path, &cfg)) // somebody who saw no file a moment ago
	if left, _ := filepath.Glob(path + tempInfix + "*"); len(left) > 0 {
		t.Errorf("%v was left", left)
	}
	if problems, err := os.ReadDir(filepath.Dir(path)); err != nil || len(problems) != 1 {
		t.Errorf("%v, %v", problems, err)
	}
	closeAndCheck(t, b)
	b = open(t, cfg)
	if got := dumpNow(t, b); !strings.Contains(got, "here") {
		t.Errorf("the first one's data is gone: %q", got)
	}
	closeAndCheck(t, b)
}

// TestCloseInTheMiddleOfAnEntry: what is sealed is kept, the rest never was.
func TestCloseInTheMiddleOfAnEntry(t *testing.T) {
	b := open(t, Config{BatchInterval: never})
	put(b, 2, "sealed")
	e := b.Begin()
	e.Append(revKey(3), []byte("unsealed"))
	e.Put(Lease, []byte("unsealed"), nil)
	closeAndCheck(t, b)
	e.Commit(3, 1)
	b = open(t, Config{Path: b.cfg.Path})
	defer closeAndCheck(t, b)
	if got := dumpNow(t, b); got != "2.0=sealed " {
		t.Errorf("%q", got)
	}
	v := b.View()
	defer v.Close()
	must(t, v.ScanBucket(Lease, nil, nil, func(k, _ []byte) error { t.Errorf("lease %q", k); return nil }))
	if i, _ := b.Durable(); i != 2 {
		t.Errorf("durable %d", i)
	}
}
