package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// twins applies the same entries and compactions to two stores, of which only
// the first is maintained.
type twins struct {
	stores  [2]*Backend
	rng     *rand.Rand
	rev     int
	index   uint64
	floor   atomic.Int64 // revisions up to here may be deleted
	sealed  atomic.Int64 // the last revision that was sealed
	deleted map[int]bool
}

func valueOf(main, sub int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("value of %d.%d;", main, sub)), 1+main%7)
}

// entry applies one random log entry to both.
func (w *twins) entry() {
	w.index++
	seed := w.rng.Int63()
	revision := w.rng.Intn(10) > 0
	if revision {
		w.rev++
	}
	for _, b := range w.stores {
		rng := rand.New(rand.NewSource(seed))
		e := b.Begin()
		if revision {
			for sub := range 1 + rng.Intn(3)/2 {
				e.Append(subKey(w.rev, sub), valueOf(w.rev, sub))
			}
		}
		for range rng.Intn(3) {
			key := []byte(fmt.Sprintf("lease-%03d", rng.Intn(300)))
			if rng.Intn(3) == 0 {
				e.Delete(Lease, key)
			} else {
				e.Put(Lease, key, bigEndian(w.index))
			}
		}
		if rng.Intn(50) == 0 {
			e.Put(Upkeep, []byte("own"), bigEndian(w.index))
		}
		e.Commit(w.index, 1)
	}
	w.sealed.Store(int64(w.rev))
}

// compact deletes a random half of the revisions up to to.
func (w *twins) compact(t testing.TB, to int) {
	w.floor.Store(int64(to))
	var ops []Op
	for main := 2; main <= to; main++ {
		if w.deleted[main] || w.rng.Intn(2) == 0 {
			continue
		}
		w.deleted[main] = true
		for sub := range 2 {
			ops = append(ops, Op{Bucket: Key, Key: subKey(main, sub), Delete: true})
		}
	}
	ops = append(ops, Op{Bucket: Meta, Key: []byte("finishedCompactRev"), Value: revKey(to)})
	for _, b := range w.stores {
		flush(t, b)
		for rest := ops; len(rest) > 0; {
			n := min(len(rest), 500)
			must(t, b.Background(context.Background(), rest[:n]))
			rest = rest[n:]
		}
	}
}

// readWhileRunning checks views until stop: what was sealed before the view was
// taken is in it, above the floor nothing is missing, values are right.
func (w *twins) readWhileRunning(t *testing.T, stop <-chan struct{}) {
	b := w.stores[0]
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		sealed := int(w.sealed.Load())
		v := b.View()
		if sealed >= 2 {
			main := 2 + n*7919%(sealed-1)
			got := v.Get(revKey(main))
			if got == nil && main > int(w.floor.Load()) || got != nil && !bytes.Equal(got, valueOf(main, 0)) {
				t.Errorf("revision %d of %d: %.40q", main, sealed, got)
			}
		}
		if n%20 == 0 {
			w.scanView(t, v, sealed)
		}
		v.Close()
		if t.Failed() {
			return
		}
	}
}

func (w *twins) scanView(t *testing.T, v *View, sealed int) {
	var lastKey []byte
	last := 0
	start := max(2, sealed-3000)
	must(t, v.Scan(revKey(start), nil, func(k, val []byte) error {
		main, sub, _ := parseRevision(k)
		if bytes.Compare(k, lastKey) <= 0 {
			t.Errorf("%x follows %x", k, lastKey)
		}
		if !bytes.Equal(val, valueOf(int(main), int(sub))) {
			t.Errorf("revision %d.%d has %.40q", main, sub, val)
		}
		if last != 0 && int(main) > last+1 && last >= int(w.floor.Load()) {
			t.Errorf("revision %d follows %d", main, last)
		}
		lastKey, last = append(lastKey[:0], k...), int(main)
		return nil
	}))
	if sealed >= 2 && last < sealed {
		t.Errorf("view ends at %d, %d was sealed before", last, sealed)
	}
}

func (w *twins) compare(t testing.TB) {
	t.Helper()
	var hashes [2]uint32
	for i, b := range w.stores {
		var err error
		hashes[i], err = b.Hash(context.Background())
		must(t, err)
		if index, _ := b.Durable(); index != w.index {
			t.Errorf("store %d: durable %d, want %d", i, index, w.index)
		}
	}
	if hashes[0] != hashes[1] {
		t.Errorf("hash %d, of the untouched twin %d", hashes[0], hashes[1])
	}
}

func newTwins(t testing.TB, seed int64) *twins {
	w := &twins{rng: rand.New(rand.NewSource(seed)), rev: 1, deleted: map[int]bool{}}
	for i := range w.stores {
		w.stores[i] = open(t, Config{BatchInterval: 5 * time.Millisecond, BatchLimit: 300, NoSync: true})
	}
	return w
}

// TestMaintenanceUnderLoad is the property test: random entries, compactions and
// readers, with one defragmentation after the other, against an untouched twin.
func TestMaintenanceUnderLoad(t *testing.T) {
	w := newTwins(t, time.Now().UnixNano())
	stop := make(chan struct{})
	var readers, maintenance sync.WaitGroup
	for range 2 {
		readers.Go(func() { w.readWhileRunning(t, stop) })
	}
	defrags := 0
	maintenance.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := w.stores[0].Defrag(context.Background(), DefragOptions{}); err != nil {
				t.Error(err)
				return
			}
			defrags++
		}
	})
	for round := range 8 {
		for range 1500 {
			w.entry()
		}
		w.compact(t, w.rev-w.rng.Intn(1000))
		if round%3 == 0 {
			w.compare(t)
		}
	}
	close(stop)
	maintenance.Wait()
	readers.Wait()
	w.compare(t)
	if defrags < 3 {
		t.Errorf("only %d defragmentations in the whole run", defrags)
	}
	_, err := w.stores[0].Defrag(context.Background(), DefragOptions{})
	must(t, err)
	w.compare(t)
	for _, b := range w.stores {
		closeAndCheck(t, b)
	}
}

func TestDefragShrinks(t *testing.T) {
	b := open(t, Config{BatchLimit: 1000, NoSync: true})
	for i := 2; i < 20000; i++ {
		put(b, i, "0123456789012345678901234567890123456789")
	}
	flush(t, b)
	old := b.View()
	oldDump := dump(t, old)
	var ops []Op
	for i := 2; i < 19990; i++ {
		ops = append(ops, Op{Bucket: Key, Key: revKey(i), Delete: true})
	}
	must(t, b.Background(context.Background(), ops))
	before, err := b.Hash(context.Background())
	must(t, err)
	progress, last := map[string]int64{}, ""
	r, err := b.Defrag(context.Background(), DefragOptions{Progress: func(phase string, copied, total int64) {
		if _, seen := progress[phase]; copied < progress[phase] || copied > total || seen && phase != last {
			t.Errorf("progress %d of %d in phase %q, after %d in %q", copied, total, phase, progress[phase], last)
		}
		progress[phase], last = copied, phase
	}})
	must(t, err)
	if progress["verify"] != r.BytesCopied || last != "swap" {
		t.Errorf("verified %d of %d, %q came last", progress["verify"], r.BytesCopied, last)
	}
	after, err := b.Hash(context.Background())
	must(t, err)
	if before != after {
		t.Errorf("hash %d became %d", before, after)
	}
	if r.SizeAfter >= r.SizeBefore/10 || r.SizeAfter != b.Sizes().File || r.BytesCopied == 0 {
		t.Errorf("%+v", r)
	}
	if info, err := os.Stat(b.cfg.Path); err != nil || info.Size() != r.SizeAfter {
		t.Errorf("on disk: %v, %v; want %d", info.Size(), err, r.SizeAfter)
	}
	if dump(t, old) != oldDump {
		t.Error("an old view changed")
	}
	old.Close()
	put(b, 20000, "goes on")
	closeAndCheck(t, b)
	b = open(t, Config{Path: b.cfg.Path})
	defer closeAndCheck(t, b)
	v := b.View()
	defer v.Close()
	if got := string(v.Get(revKey(20000))); got != "goes on" {
		t.Errorf("%q", got)
	}
}

// TestDefragFailures: whatever fails, the old file stays and nothing is left
// behind.
func TestDefragFailures(t *testing.T) {
	broken := errors.New("broken")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(broken)
	for _, c := range []struct {
		name string
		cfg  Config
		ctx  context.Context
		want error
	}{
		{"no space", Config{FreeBytes: func(string) (int64, error) { return 1 << 20, nil }}, context.Background(), ErrNoDiskSpace},
		{"rename", Config{rename: func(string, string) error { return broken }}, context.Background(), broken},
		{"cancelled", Config{}, ctx, broken},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t, c.cfg)
			put(b, 2, "v")
			_, err := b.Defrag(c.ctx, DefragOptions{})
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			put(b, 3, "w")
			flush(t, b)
			if got := dumpNow(t, b); got != "2.0=v 3.0=w " {
				t.Errorf("%q", got)
			}
			closeAndCheck(t, b)
			if left, _ := filepath.Glob(b.cfg.Path + ".*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestDirectorySyncFails: which file a crash would leave is unknown then, so
// nothing may be called durable any more.
func TestDirectorySyncFails(t *testing.T) {
	broken := errors.New("broken")
	b := open(t, Config{syncDir: func(string) error { return broken }})
	put(b, 2, "v")
	flush(t, b)
	if _, err := b.Defrag(context.Background(), DefragOptions{}); !errors.Is(err, broken) {
		t.Fatalf("defrag: %v", err)
	}
	<-b.Failed()
	put(b, 3, "w")
	if err := b.Flush(context.Background()); !errors.Is(err, broken) {
		t.Errorf("flush: %v", err)
	}
	if i, _ := b.Durable(); i != 2 {
		t.Errorf("durable %d", i)
	}
	if err := b.Close(); !errors.Is(err, broken) {
		t.Errorf("close: %v", err)
	}
	checkFile(t, b.cfg.Path)
}

func TestDefragOneAtATime(t *testing.T) {
	b := open(t, Config{})
	put(b, 2, "v")
	flush(t, b)
	inside, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	result := make(chan error)
	go func() {
		_, err := b.Defrag(context.Background(), DefragOptions{Progress: func(string, int64, int64) {
			once.Do(func() { close(inside); <-leave })
		}})
		result <- err
	}()
	<-inside
	if _, err := b.Defrag(context.Background(), DefragOptions{}); !errors.Is(err, ErrBusy) {
		t.Errorf("second: %v", err)
	}
	closed := make(chan error)
	go func() { closed <- b.Close() }()
	<-b.jobs.ctx.Done()
	close(leave)
	if err := <-result; !errors.Is(err, ErrClosed) {
		t.Errorf("defragmentation during Close: %v", err)
	}
	must(t, <-closed)
	checkFile(t, b.cfg.Path)
}
