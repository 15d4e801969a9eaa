package backend

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// save writes a snapshot to a file beside dir's and returns its path.
func save(t *testing.T, b *Backend) string {
	t.Helper()
	s, err := b.Snapshot(context.Background())
	must(t, err)
	defer s.Close()
	var buf bytes.Buffer
	n, err := s.WriteTo(&buf)
	must(t, err)
	if n != s.Size() || int64(buf.Len()) != n {
		t.Errorf("snapshot of %d bytes wrote %d", s.Size(), n)
	}
	path := filepath.Join(t.TempDir(), "snapshot")
	must(t, os.WriteFile(path, buf.Bytes(), 0o600))
	return path
}

func TestSnapshotIsOneMoment(t *testing.T) {
	b := open(t, Config{BatchInterval: never})
	defer closeAndCheck(t, b)
	put(b, 2, "pending when taken")
	s, err := b.Snapshot(context.Background())
	must(t, err)
	for i := 3; i < 500; i++ { // commits that reuse pages
		put(b, i, "later")
		if i%50 == 0 {
			flush(t, b)
		}
	}
	if index, term := s.Applied(); index != 2 || term != 1 {
		t.Errorf("applied %d/%d", index, term)
	}
	path := filepath.Join(t.TempDir(), "snapshot")
	f, err := os.Create(path)
	must(t, err)
	_, err = s.WriteTo(f)
	must(t, err)
	must(t, f.Close())
	must(t, s.Close())
	must(t, s.Close())
	checkFile(t, path)
	c := open(t, Config{Path: path})
	defer closeAndCheck(t, c)
	if got := dumpNow(t, c); got != "2.0=pending when taken " {
		t.Errorf("%q", got)
	}
}

func TestReplace(t *testing.T) { synctest.Test(t, testReplace) }

func testReplace(t *testing.T) {
	leader := open(t, Config{})
	put(leader, 2, "leader two")
	put(leader, 3, "leader three")
	snapshot := save(t, leader)
	closeAndCheck(t, leader)

	b := open(t, Config{BatchInterval: never})
	put(b, 2, "two")
	flush(t, b)
	put(b, 5, "pending")
	old := b.View()
	waiter := make(chan error)
	gate := make(chan struct{})
	hold := make(chan struct{})
	go func() { // a waiter for what the replacement drops
		waiter <- b.pipeline.exclusively(context.Background(), func() error { close(gate); <-hold; return nil })
	}()
	<-gate
	flushed := make(chan error)
	go func() { flushed <- b.Flush(context.Background()) }()
	replaced := make(chan error)
	go func() { replaced <- b.Replace(context.Background(), snapshot) }()
	synctest.Wait() // both are queued behind the gate
	close(hold)
	must(t, <-waiter)
	must(t, <-replaced)
	if err := <-flushed; !errors.Is(err, ErrReplaced) {
		t.Errorf("flush of what was dropped: %v", err)
	}
	if i, _ := b.Durable(); i != 3 {
		t.Errorf("durable %d", i)
	}
	if got := dump(t, old); got != "2.0=two 5.0=pending " {
		t.Errorf("old view: %q", got)
	}
	old.Close()
	put(b, 4, "goes on") // below the dropped revision 5
	if got := dumpNow(t, b); got != "2.0=leader two 3.0=leader three 4.0=goes on " {
		t.Errorf("new view: %q", got)
	}
	closeAndCheck(t, b)
	if _, err := os.Stat(snapshot); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the new file was not moved: %v", err)
	}
}

func TestReplaceRefusesDamage(t *testing.T) {
	b := open(t, Config{})
	defer closeAndCheck(t, b)
	put(b, 2, "two")
	flush(t, b)
	bad := filepath.Join(t.TempDir(), "bad")
	must(t, os.WriteFile(bad, bytes.Repeat([]byte("nonsense"), 4096), 0o600))
	if err := b.Replace(context.Background(), bad); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%v", err)
	}
	put(b, 3, "three")
	if got := dumpNow(t, b); got != "2.0=two 3.0=three " {
		t.Errorf("%q", got)
	}
}

// TestReplaceEndsDefrag: a state transfer does not wait for a defragmentation.
func TestReplaceEndsDefrag(t *testing.T) { synctest.Test(t, testReplaceEndsDefrag) }

func testReplaceEndsDefrag(t *testing.T) {
	leader := open(t, Config{})
	put(leader, 2, "leader")
	snapshot := save(t, leader)
	closeAndCheck(t, leader)
	b := open(t, Config{})
	put(b, 2, "two")
	flush(t, b)
	// The defragmentation gets to its end and then waits for the committer.
	gate, hold := make(chan struct{}), make(chan struct{})
	held := make(chan error)
	go func() {
		held <- b.pipeline.exclusively(context.Background(), func() error { close(gate); <-hold; return nil })
	}()
	<-gate
	ended, replaced := make(chan error), make(chan error)
	go func() {
		_, err := b.Defrag(context.Background(), DefragOptions{})
		ended <- err
	}()
	synctest.Wait()
	go func() { replaced <- b.Replace(context.Background(), snapshot) }()
	if err := <-ended; !errors.Is(err, ErrReplaced) {
		t.Errorf("defragmentation: %v", err)
	}
	close(hold)
	must(t, <-held)
	must(t, <-replaced)
	if got := dumpNow(t, b); got != "2.0=leader " {
		t.Errorf("%q", got)
	}
	closeAndCheck(t, b)
}

// TestFullDisk: commits fail for a while; reads go on, nothing is lost.
func TestFullDisk(t *testing.T) {
	var full chan struct{}
	fails := make(chan error, 1)
	cfg := Config{BatchInterval: time.Millisecond}
	cfg.BeforeCommit = func() error {
		select {
		case err := <-fails:
			close(full)
			return &os.PathError{Op: "write", Path: "db", Err: err}
		default:
			return nil
		}
	}
	b := open(t, cfg)
	full = make(chan struct{})
	fails <- syscall.ENOSPC
	put(b, 2, "two")
	<-full
	if got := dumpNow(t, b); got != "2.0=two " {
		t.Errorf("%q", got)
	}
	flush(t, b)
	must(t, b.Err())
	closeAndCheck(t, b)
	b = open(t, Config{Path: b.cfg.Path})
	defer closeAndCheck(t, b)
	if got := dumpNow(t, b); got != "2.0=two " {
		t.Errorf("after reopening: %q", got)
	}
}
