package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// holed is a backend of n revisions of which nearly all were deleted.
func holed(t *testing.T, cfg Config, n int) *Backend {
	b := open(t, cfg)
	for i := 2; i < n; i++ {
		put(b, i, strings.Repeat("v", 1000))
	}
	flush(t, b)
	var ops []Op
	for i := 2; i < n-10; i++ {
		ops = append(ops, Op{Bucket: Key, Key: revKey(i), Delete: true})
	}
	must(t, b.Background(context.Background(), ops))
	return b
}

// TestDefragRefusesDamagedCopy damages the copy behind the back of the defragmentation, as bad memory or a bad disk do.
func TestDefragRefusesDamagedCopy(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, path string)
	}{
		{"value", func(t *testing.T, path string) {
			damageFile(t, path, []byte("vvvvvvvvvvvvvvvv"), []byte("vvvvvvvwvvvvvvvv"))
		}},
		{"key order", func(t *testing.T, path string) { damageFile(t, path, revKey(1995), revKey(2)) }},
		{"page header", func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			info, err := f.Stat()
			must(t, err)
			page := make([]byte, 4096)
			for at := int64(2 * 4096); at < info.Size(); at += 4096 {
				_, err := f.ReadAt(page, at)
				must(t, err)
				if bytes.Contains(page, []byte("vvvv")) {
					_, err := f.WriteAt([]byte{0xff}, at+8)
					must(t, err)
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := holed(t, Config{step: func(name, path string) {
				if name == "verify" {
					c.damage(t, path)
				}
			}}, 2000)
			defer closeAndCheck(t, b)
			before, err := b.Hash(context.Background())
			must(t, err)
			if _, err := b.Defrag(context.Background(), DefragOptions{}); !errors.Is(err, ErrCopyDiffers) {
				t.Fatalf("defragmented with a damaged copy: %v", err)
			}
			after, err := b.Hash(context.Background())
			must(t, err)
			if before != after {
				t.Errorf("hash %d became %d", before, after)
			}
			if left, _ := filepath.Glob(b.Path() + ".tmp.*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// damageFile replaces bytes wherever they are found in pages.
func damageFile(t *testing.T, path string, old, new []byte) {
	data, err := os.ReadFile(path)
	must(t, err)
	at := bytes.Index(data, old)
	if at < 0 {
		t.Fatalf("%q is not in %s", old, path)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	for ; at >= 0 && at < len(data); at = next(data, old, at+1) {
		_, err = f.WriteAt(new, int64(at))
		must(t, err)
	}
}

func next(data, old []byte, from int) int {
	i := bytes.Index(data[from:], old)
	if i < 0 {
		return -1
	}
	return from + i
}

// TestCompactSnapshot takes one while revisions are written and deleted: it must be the state of one moment.
func TestCompactSnapshot(t *testing.T) {
	const n = 3000
	b := holed(t, Config{BatchInterval: time.Millisecond, BatchLimit: 50}, n)
	defer closeAndCheck(t, b)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := n; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			put(b, i, fmt.Sprint(i))
			if i%100 == 0 {
				flush(t, b)
				must(t, b.Background(context.Background(), []Op{{Bucket: Key, Key: revKey(i - 50), Delete: true}}))
			}
		}
	}()
	for range 3 {
		s, err := b.CompactSnapshot(context.Background(), nil)
		must(t, err)
		checkImage(t, s)
		if s.Size() > 2<<20 {
			t.Errorf("%d bytes", s.Size())
		}
		must(t, s.Close())
	}
	close(stop)
	<-stopped
	if left, _ := filepath.Glob(b.Path() + ".tmp.*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// checkImage writes a snapshot to a file and looks at it: no revision up to its applied index may be missing but those
// that were deleted, and none after that may be there.
func checkImage(t *testing.T, s *Snapshot) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	var out bytes.Buffer
	n, err := s.WriteTo(&out)
	must(t, err)
	if n != s.Size() || int64(out.Len()) != n {
		t.Errorf("%d bytes written, %d arrived, the size is %d", n, out.Len(), s.Size())
	}
	must(t, os.WriteFile(path, out.Bytes(), 0o600))
	checkFile(t, path)
	f, err := OpenFile(path)
	must(t, err)
	defer f.Close()
	index, _ := s.Applied()
	if got, _ := f.Applied(); got != index || index == 0 {
		t.Errorf("image of applied %d holds %d", index, got)
	}
	last, gaps := uint64(0), 0
	must(t, f.Scan(Key, nil, nil, func(k, _ []byte) error {
		main, _, _ := parseRevision(k)
		if last > 0 && main != last+1 {
			gaps++
		}
		last = main
		return nil
	}))
	if last != index+1 && last != index { // put applies revision i as entry i or i-1
		t.Errorf("the last revision is %d at applied %d", last, index)
	}
}

// TestSlowSnapshot: a snapshot that nobody reads lets go of its pages, and reads the same afterwards.
func TestSlowSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := holed(t, Config{}, 2000)
		defer closeAndCheck(t, b)
		s, err := b.Snapshot(context.Background())
		must(t, err)
		var early, late bytes.Buffer
		_, err = s.WriteTo(&early)
		must(t, err)
		pinned := s.source.gen
		_, err = b.Defrag(context.Background(), DefragOptions{}) // the image is of the file before
		must(t, err)
		time.Sleep(pinLimit + time.Minute)
		synctest.Wait()
		if s.source.gen != nil || pinned.refs.Load() != 0 {
			t.Error("still pinned")
		}
		_, err = s.WriteTo(&late)
		must(t, err)
		if !bytes.Equal(early.Bytes(), late.Bytes()) || early.Len() == 0 {
			t.Error("the copy differs from the original")
		}
		if err := s.Scan(Lease, nil, nil, nil); err == nil {
			t.Error("scanned without pages")
		}
		must(t, s.Close())
	})
}

// TestSlowSnapshotNoSpace: where the copy has no room the pages stay pinned.
func TestSlowSnapshotNoSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := holed(t, Config{FreeBytes: func(string) (int64, error) { return 1 << 20, nil }}, 200)
		defer closeAndCheck(t, b)
		s, err := b.Snapshot(context.Background())
		must(t, err)
		time.Sleep(pinLimit + time.Minute)
		synctest.Wait()
		if s.source.gen == nil {
			t.Error("the pages are not pinned, and there is no copy")
		}
		_, err = s.WriteTo(io.Discard)
		must(t, err)
		must(t, s.Close())
		if _, err := b.CompactSnapshot(context.Background(), nil); !errors.Is(err, ErrNoDiskSpace) {
			t.Errorf("compact: %v", err)
		}
	})
}

// TestReplaceEndsCompactSnapshot: half of one state and half of another must not be taken for a snapshot.
func TestReplaceEndsCompactSnapshot(t *testing.T) {
	b := holed(t, Config{}, 2000)
	defer closeAndCheck(t, b)
	s, err := b.Snapshot(context.Background())
	must(t, err)
	file := filepath.Join(t.TempDir(), "other")
	f, err := os.Create(file)
	must(t, err)
	_, err = s.WriteTo(f)
	must(t, errors.Join(err, f.Close(), s.Close()))
	replaced := false
	_, err = b.CompactSnapshot(context.Background(), func(string, int64, int64) {
		if !replaced {
			replaced = true
			must(t, b.Replace(context.Background(), file))
		}
	})
	if !errors.Is(err, ErrReplaced) {
		t.Errorf("%v", err)
	}
}

// TestShrinksOldFile: the file of before is given back in steps, and Close does not wait for them.
func TestShrinksOldFile(t *testing.T) {
	b := open(t, Config{})
	for i := range 80 {
		e := b.Begin()
		e.Append(revKey(i+2), bytes.Repeat([]byte{byte(i)}, 1<<20))
		e.Commit(uint64(i+1), 1)
	}
	flush(t, b)
	old := b.current
	_, err := b.Defrag(context.Background(), DefragOptions{})
	must(t, err)
	must(t, b.Close())
	if _, err := old.file.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the old file is still open: %v", err)
	}
	checkFile(t, b.cfg.Path)
}
