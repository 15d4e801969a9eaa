package watch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

var _ Store = (*mvcc.Store)(nil)

// recorder is an apply goroutine on a real store that remembers all events.
type recorder struct {
	t     *testing.T
	b     *backend.Backend
	store *mvcc.Store
	hub   *Hub

	mu  sync.Mutex
	log []string // all events ever, in order
}

func (r *recorder) write(i int, rng *rand.Rand) int64 {
	batch := r.b.Begin()
	w := r.store.Begin(batch)
	for range 1 + rng.IntN(3)*rng.IntN(2) {
		key := []byte{byte('a' + rng.IntN(20))}
		if rng.IntN(4) == 0 {
			w.DeleteRange(key, []byte{key[0] + byte(rng.IntN(3))})
		} else {
			w.Put(key, fmt.Appendf(nil, "value %d", rng.IntN(1000)), 0)
		}
	}
	var events []*mvccpb.Event
	r.mu.Lock()
	for _, c := range w.Changes() {
		events = append(events, &mvccpb.Event{Type: c.Type, Kv: c.KV})
		r.log = append(r.log, eventString(events[len(events)-1]))
	}
	r.mu.Unlock()
	rev := w.End()
	batch.Commit(uint64(i+1), 1)
	r.hub.Notify(rev, events)
	return rev
}

func (r *recorder) compact(i int, rev int64) {
	batch := r.b.Begin()
	_, err := r.store.Compact(batch, rev)
	batch.Commit(uint64(i+1), 1)
	if err != nil {
		r.t.Errorf("compact %d: %v", rev, err)
	}
}

// follow watches everything from the start until revision last, on a client that is now and then slow, and returns the
// events. If it is overtaken by a compaction it counts the gap.
func (r *recorder) follow(ctx context.Context, slow bool, last func() int64) (got []string, gaps int) {
	s := r.hub.NewStream()
	defer s.Close()
	opt := CreateOptions{End: []byte{0}, StartRev: 1, PrevKV: true}
	mustCreate(r.t, s, opt)
	for n := 0; ; n++ {
		resp, err := s.Next(ctx)
		if err != nil {
			r.t.Errorf("client at %d events: %v", len(got), err)
			return got, gaps
		}
		if resp.Canceled {
			gaps++
			opt.StartRev = resp.CompactRev
			mustCreate(r.t, s, opt)
		}
		for _, ev := range resp.Events {
			plain := &mvccpb.Event{Type: ev.Type, Kv: ev.Kv}
			got = append(got, eventString(plain))
			if prev := ev.PrevKv; prev != nil && (string(prev.Key) != string(ev.Kv.Key) || prev.ModRevision >= ev.Kv.ModRevision) {
				r.t.Errorf("%s", eventString(ev))
			}
		}
		if k := len(resp.Events); k > 0 && resp.Events[k-1].Kv.ModRevision == last() {
			return got, gaps
		}
		if slow && n%50 == 0 {
			time.Sleep(time.Millisecond) // a slow client, nothing that is waited for
		}
	}
}

// TestOnStore runs a hub on the real store: fast and slow clients get what was written, in order, once.
func TestOnStore(t *testing.T) {
	b, err := backend.Open(backend.Config{Path: filepath.Join(t.TempDir(), "db"), InitialMmapBytes: 1 << 26, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	store, err := mvcc.Open(b, mvcc.Config{CompactionSleep: time.Microsecond, CompactionBatchLimit: 50})
	if err != nil {
		t.Fatal(err)
	}
	hub := NewHub(store, Config{QueueEntries: 16, CatchUpRevisions: 200})
	r := &recorder{t: t, b: b, store: store, hub: hub}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rng := rand.New(rand.NewPCG(5, 5))
	const writes = 8_000
	var mu sync.Mutex
	last := int64(-1) // unknown until all is written
	lastRev := func() int64 { mu.Lock(); defer mu.Unlock(); return last }
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			got, gaps := r.follow(ctx, i%2 == 0, lastRev)
			r.mu.Lock()
			defer r.mu.Unlock()
			checkFollowed(t, i, got, gaps, r.log)
		})
	}
	for i := range writes {
		rev := r.write(i, rng)
		if i%2000 == 1999 {
			r.compact(i, rev-1000)
		}
	}
	mu.Lock()
	w := store.Begin(b.Begin())
	last = store.Revision() + 1
	mu.Unlock()
	w.Put([]byte("end"), nil, 0)
	ev := &mvccpb.Event{Kv: w.Changes()[0].KV}
	r.mu.Lock()
	r.log = append(r.log, eventString(ev))
	r.mu.Unlock()
	hub.Notify(w.End(), []*mvccpb.Event{ev})
	clients.Wait()
	hub.Close()
	store.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// checkFollowed: what a client got is what was written, but for as many gaps as it was told of.
func checkFollowed(t *testing.T, client int, got []string, gaps int, log []string) {
	t.Logf("client %d: %d of %d events, %d gaps", client, len(got), len(log), gaps)
	at, skips := 0, 0
	for _, ev := range got {
		if at < len(log) && log[at] == ev {
			at++
			continue
		}
		skips++
		for at < len(log) && log[at] != ev {
			at++
		}
		at++
	}
	if at != len(log) || skips > gaps {
		t.Errorf("client %d: %d skips with %d gaps, at %d of %d", client, skips, gaps, at, len(log))
	}
}
