package mvcc

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

const concurrentKeys = 64

// Every transaction of the writer below sets two keys to its own revision, one
// of each half, and deletes a key now and then, in such a way that the number of
// live keys in both halves is the same at every revision, and that the largest
// mod revision of a read at r is r. Readers check just that.
func concurrentTxn(w *WriteTxn, rng *rand.Rand) {
	i, main := rng.Intn(concurrentKeys), w.Revision()+1
	for _, half := range []string{"a", "b"} {
		key := fmt.Sprintf("%s%03d", half, i)
		if main%5 == 0 {
			w.DeleteRange([]byte(key), nil)
			continue
		}
		w.Put([]byte(key), fmt.Appendf(nil, "%d", main), 0)
	}
}

func TestReadersWriterAndCompaction(t *testing.T) {
	f := newFixture(t, Config{CompactionBatchLimit: 50, CompactionSleep: 100 * time.Microsecond})
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for i := range 4 {
		reads := []func(*fixture, *rand.Rand) error{readRange, readOne, readPinned, readHistory}
		readers.Go(func() {
			rng := rand.New(rand.NewSource(int64(i)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := reads[i](f, rng); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	rng := rand.New(rand.NewSource(99))
	transactions := 3000
	if testing.Short() {
		transactions = 500
	}
	var done <-chan struct{}
	for n := range transactions {
		f.write(func(w *WriteTxn) { concurrentTxn(w, rng) })
		if n%50 == 49 {
			var err error
			if done, err = f.startCompaction(f.Revision() - rng.Int63n(5)); err != nil {
				t.Fatal(err)
			}
		}
		if n%700 == 699 {
			// As when a snapshot arrives, here of the same content.
			if err := f.Replace(func() error { return f.backend.Flush(t.Context()) }); err != nil {
				t.Fatal(err)
			}
			done, _ = f.startCompaction(0)
		}
	}
	close(stop)
	readers.Wait()
	<-done
	if s := f.Stats(); s.PendingCompactions != 0 {
		t.Errorf("%d compactions pending", s.PendingCompactions)
	}
}

// tolerated drops the errors that a reader must expect.
func tolerated(err error) error {
	if errors.Is(err, ErrCompacted) {
		return nil
	}
	return err
}

func checkHalves(res *RangeResult, rev int64) error {
	halves, newest := map[byte]int{}, int64(0)
	for _, kv := range res.KVs {
		halves[kv.Key[0]]++
		newest = max(newest, kv.ModRevision)
		if string(kv.Value) != fmt.Sprint(kv.ModRevision) {
			return fmt.Errorf("read at %d: value %s of revision %d", rev, kv.Value, kv.ModRevision)
		}
	}
	if halves['a'] != halves['b'] || newest > rev || int(res.Count) != len(res.KVs) {
		return fmt.Errorf("read at %d: halves %v, newest %d, count %d of %d", rev, halves, newest, res.Count, len(res.KVs))
	}
	return nil
}

func readRange(f *fixture, rng *rand.Rand) error {
	opt := RangeOptions{}
	if rng.Intn(2) == 0 {
		opt.Rev = max(1, f.Revision()-rng.Int63n(8))
	}
	res, err := f.Range(context.Background(), []byte("a"), []byte{0}, opt)
	if err != nil {
		if opt.Rev == 0 {
			return err // a read of the current revision always succeeds
		}
		return tolerated(err)
	}
	if opt.Rev == 0 {
		opt.Rev = res.Rev
	}
	return checkHalves(res, opt.Rev)
}

func readOne(f *fixture, rng *rand.Rand) error {
	key := fmt.Appendf(nil, "a%03d", rng.Intn(concurrentKeys))
	if _, err := f.Range(context.Background(), key, nil, RangeOptions{}); err != nil {
		return err
	}
	rev := max(1, f.Revision()-rng.Int63n(8))
	res, err := f.Range(context.Background(), key, nil, RangeOptions{Rev: rev})
	if err == nil && len(res.KVs) > 0 && res.KVs[0].ModRevision > rev {
		return fmt.Errorf("read at %d: %v", rev, res.KVs[0])
	}
	if kv := f.PrevKV(key, rev); kv != nil && kv.ModRevision > rev {
		return fmt.Errorf("previous value at %d: %v", rev, kv)
	}
	return tolerated(err)
}

// readPinned reads twice with time for compactions in between. Both reads must
// be the same.
func readPinned(f *fixture, _ *rand.Rand) error {
	r, err := f.Read(0)
	if err != nil {
		return err
	}
	defer r.Close()
	var first []string
	for range 3 {
		res, err := r.Range(context.Background(), []byte("a"), []byte{0}, RangeOptions{})
		if err != nil {
			return tolerated(err) // replaced meanwhile
		}
		if err := checkHalves(res, r.Rev()); err != nil {
			return err
		}
		now := describeAll(res.KVs)
		if first != nil && fmt.Sprint(first) != fmt.Sprint(now) {
			return fmt.Errorf("pinned at %d: %v, then %v", r.Rev(), first, now)
		}
		first = now
		if _, err := f.HashKV(context.Background(), r.Rev()); tolerated(err) != nil {
			return err
		}
	}
	return nil
}

// readHistory checks that no revision is missing or cut short.
func readHistory(f *fixture, rng *rand.Rand) error {
	from := max(1, f.Revision()-rng.Int63n(20))
	floor := f.CompactRevision()
	next := from
	to, err := f.Events(from, 10, func(rev int64, events []*mvccpb.Event) error {
		if rev > max(from, floor) && len(events) != 2 {
			return fmt.Errorf("%d events of revision %d", len(events), rev)
		}
		next = rev + 1
		return nil
	})
	if err == nil && to < next {
		return fmt.Errorf("events from %d: next is %d after %d", from, to, next)
	}
	return tolerated(err)
}

// A reader that is cancelled stops, and lets go of its pin.
func TestCancelledReads(t *testing.T) {
	f := newFixture(t, Config{})
	f.write(func(w *WriteTxn) {
		for i := range 3 * chunk {
			w.Put(fmt.Appendf(nil, "%06d", i), []byte("x"), 0)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Range(ctx, []byte("0"), []byte{0}, RangeOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled range: %v", err)
	}
	if _, err := f.HashKV(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled hash: %v", err)
	}
	f.put("one", "more")
	if err := f.compact(3); err != nil {
		t.Fatal(err)
	}
	res, err := f.Range(t.Context(), []byte("0"), []byte{0}, RangeOptions{})
	if err != nil || res.Count != 3*chunk+1 || len(res.KVs) != 3*chunk+1 {
		t.Fatalf("range after compaction: %v, %v", res, err)
	}
}

// A pinned reader holds back the deletion of a compaction above it, for however
// long, and an unpinned one notices that it was overtaken.
func TestPinHoldsCompaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Config{})
		for i := range 5 {
			f.put("a", fmt.Sprint(i))
		}
		r, err := f.Read(0)
		if err != nil {
			t.Fatal(err)
		}
		f.put("a", "last")
		done, err := f.startCompaction(7)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if s, fin := f.marks(); s != 7 || fin != -1 || len(f.stored()) != 6 {
			t.Fatalf("scheduled %d, finished %d while a reader is pinned", s, fin)
		}
		if s := f.Stats(); s.OldestRead != 6 || s.PendingCompactions != 1 {
			t.Errorf("stats while a reader is pinned: %+v", s)
		}
		if _, err := f.tryGet([]byte("a"), 6, RangeOptions{}); !errors.Is(err, ErrCompacted) {
			t.Errorf("unpinned read that was overtaken: %v", err)
		}
		r.Close()
		r.Close() // harmless
		<-done
		mustEqual(t, "stored", f.stored(), []string{"7/0 a=last created 2 modified 7 version 6"})
	})
}

// A compaction that waits for a reader is given up when the store is closed or
// replaced, and taken up again by what opens it.
func TestInterruptedCompaction(t *testing.T) {
	for name, interrupt := range map[string]func(f *fixture){
		"close": func(f *fixture) { f.reopen() },
		"replace": func(f *fixture) {
			if err := f.Replace(func() error { return f.backend.Flush(t.Context()) }); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testInterrupted(t, interrupt) })
		})
	}
}

func testInterrupted(t *testing.T, interrupt func(f *fixture)) {
	f := newFixture(t, Config{})
	f.put("a", "1")
	below, err := f.Read(0)
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()
	f.put("a", "2")
	at, err := f.Read(0)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	f.put("a", "3")
	done, err := f.startCompaction(3)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute)
	before := f.Store
	interrupt(f)
	<-done
	<-f.compactor.idle()
	if s, fin := f.marks(); s != 3 || fin != 3 {
		t.Fatalf("scheduled %d, finished %d", s, fin)
	}
	mustEqual(t, "stored", f.stored(), []string{"3/0 a=2 created 2 modified 3 version 2", "4/0 a=3 created 2 modified 4 version 3"})
	// The interrupted one may have deleted something before: its hash is not to be had.
	if h, err := f.HashKV(t.Context(), 3); err != nil || h.CompactRevision != 3 {
		t.Errorf("hash at an interrupted compaction: %+v, %v", h, err)
	}
	if f.Store != before {
		return
	}
	// Reads that were pinned before go on if what replaced the store has their revision.
	if _, err := below.Range(t.Context(), []byte("a"), nil, RangeOptions{}); !errors.Is(err, ErrCompacted) {
		t.Errorf("pinned read below the floor of the new content: %v", err)
	}
	if res, err := at.Range(t.Context(), []byte("a"), nil, RangeOptions{}); err != nil || string(res.KVs[0].Value) != "2" {
		t.Errorf("pinned read at the floor of the new content: %v, %v", res, err)
	}
}

// A Replace whose swap fails leaves everything as it was.
func TestFailedReplace(t *testing.T) {
	f := newFixture(t, Config{})
	f.put("a", "1")
	broken := errors.New("broken")
	if err := f.Replace(func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("Replace: %v", err)
	}
	f.put("a", "2")
	if err := f.compact(3); err != nil {
		t.Error(err)
	}
	mustEqual(t, "stored", f.stored(), []string{"3/0 a=2 created 2 modified 3 version 2"})
}

// The hashes of the newest compactions can be asked for, older ones not.
func TestRememberedHashes(t *testing.T) {
	f := newFixture(t, Config{})
	for i := range cachedHashes + 3 {
		if err := f.compact(f.put("a", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	newest := f.Revision()
	for rev := int64(2); rev <= newest; rev++ {
		h, err := f.HashKV(t.Context(), rev)
		if rev <= newest-cachedHashes {
			if !errors.Is(err, ErrCompacted) {
				t.Errorf("hash at %d: %+v, %v", rev, h, err)
			}
			continue
		}
		if err != nil || h.HashRevision != rev || h.CompactRevision != rev-1 || h.CurrentRevision != newest {
			t.Errorf("hash at %d: %+v, %v", rev, h, err)
		}
	}
}

// A restore that bumps the revision leaves an entry without a value and a
// scheduled compaction at it.
func TestBumpedRevision(t *testing.T) {
	f := newFixture(t, Config{})
	f.put("a", "1")
	f.put("a", "2")
	f.apply(func(b *backend.Batch) {
		b.Append(encodeRevision(1000), nil)
		b.Put(backend.Meta, []byte(scheduledCompactKey), encodeRevision(1000))
	})
	f.reopen()
	<-f.compactor.idle()
	if f.Revision() != 1000 || f.CompactRevision() != 1000 {
		t.Fatalf("revision %d, compact revision %d", f.Revision(), f.CompactRevision())
	}
	if _, err := f.Range(t.Context(), []byte("a"), nil, RangeOptions{Rev: 3}); !errors.Is(err, ErrCompacted) {
		t.Errorf("read before the bump: %v", err)
	}
	mustEqual(t, "stored", f.stored(), []string{"3/0 a=2 created 2 modified 3 version 2"})
	f.reopen() // now only the marks know the revision
	if rev := f.put("a", "3"); rev != 1001 {
		t.Errorf("the next put made revision %d", rev)
	}
	f.reopen()
	if _, err := f.Events(1000, 10, func(rev int64, events []*mvccpb.Event) error {
		if rev != 1001 || len(events) != 1 {
			t.Errorf("%d events of revision %d", len(events), rev)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// What a read returns is the caller's, whatever happens to the store.
func TestResultsAreCopies(t *testing.T) {
	f := newFixture(t, Config{})
	key, value := []byte("key"), []byte("value")
	f.write(func(w *WriteTxn) { w.Put(key, value, 3) })
	one, _ := f.Range(t.Context(), key, nil, RangeOptions{})
	many, _ := f.Range(t.Context(), key, []byte{0}, RangeOptions{})
	for _, res := range []*RangeResult{one, many} {
		for i := range res.KVs[0].Key {
			res.KVs[0].Key[i] = 'X'
		}
		for i := range res.KVs[0].Value {
			res.KVs[0].Value[i] = 'X'
		}
	}
	f.reopen()
	mustEqual(t, "stored", f.stored(), []string{"2/0 key=value created 2 modified 2 version 1 lease 3"})
	if res, err := f.Range(t.Context(), key, nil, RangeOptions{}); err != nil || describe(res.KVs[0]) != "key=value created 2 modified 2 version 1 lease 3" {
		t.Errorf("read %v, %v", res, err)
	}
}

// After Close of the backend reads fail cleanly.
func TestReadsAfterClose(t *testing.T) {
	f := newFixture(t, Config{})
	f.put("a", "1")
	f.close()
	defer f.open() // for the cleanup
	if _, err := f.Range(t.Context(), []byte("a"), nil, RangeOptions{}); !errors.Is(err, ErrClosed) {
		t.Errorf("get: %v", err)
	}
	if _, err := f.Range(t.Context(), []byte("a"), []byte{0}, RangeOptions{}); !errors.Is(err, ErrClosed) {
		t.Errorf("range: %v", err)
	}
}
