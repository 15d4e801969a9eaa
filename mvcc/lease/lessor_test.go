package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
)

// TestManyExpireEvenly lets ten thousand leases run out in one moment: they are offered at a thousand a second, each
// once, and meanwhile other leases go on as if nothing happened.
func TestManyExpireEvenly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disk{}
		l := openFake(t, d, Config{})
		defer l.Close()
		l.Promote(0)
		const n = 10_000
		for id := range int64(n) {
			if _, err := l.Grant(d, id+1, 10); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now().Add(10 * time.Second)
		if _, err := l.Grant(d, n+1, 15); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(start))
		perTick := make([]int, 21)
		seen := make(map[int64]bool)
		for len(seen) < n {
			select {
			case ids := <-l.Expired():
				tick := int(time.Since(start) / (500 * time.Millisecond))
				if tick < 0 || tick >= len(perTick) {
					t.Fatalf("offered %v after the moment", time.Since(start))
				}
				perTick[tick] += len(ids)
				for _, id := range ids {
					if seen[id] || id > n {
						t.Fatalf("lease %d offered again or too early", id)
					}
					seen[id] = true
					l.Remove(d, id)
				}
			case <-time.After(time.Second):
				t.Fatalf("nothing offered for a second; %d seen", len(seen))
			}
			if ttl, err := l.Renew(t.Context(), n+1); err != nil || ttl != 15 {
				t.Fatalf("renewing another lease: %d, %v", ttl, err)
			}
		}
		for tick, got := range perTick[:20] {
			if got != 500 {
				t.Errorf("%d offered in half-second %d", got, tick)
			}
		}
		if len(d) != 1 || l.Len() != 1 {
			t.Errorf("%d leases left on disk, %d in memory", len(d), l.Len())
		}
	})
}

// TestNobodyTakesOffers: nothing waits for a server that does not take what is offered.
func TestNobodyTakesOffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disk{}
		l := openFake(t, d, Config{CheckpointEnabled: true})
		defer l.Close()
		l.Promote(0)
		for id := range int64(2000) {
			if _, err := l.Grant(d, id+1, 1+id%2*1000); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(400 * time.Second)
		// Lease 2 may have a checkpoint in the log, and nobody takes it back: only its renewal waits.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if _, err := l.Renew(ctx, 1002); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("renewing with a checkpoint that nobody takes back: %v after %v", err, time.Since(start))
		}
		start = time.Now()
		if _, err := l.Grant(d, 5000, 100); err != nil {
			t.Fatal(err)
		}
		if ttl, err := l.Renew(t.Context(), 5000); err != nil || ttl != 100 {
			t.Errorf("renewing a new lease: %d, %v", ttl, err)
		}
		if info, err := l.TimeToLive(1, true); err != nil || info.Remaining != 0 {
			t.Errorf("a lease that ran out: %+v, %v", info, err)
		}
		l.Remove(d, 1)
		if l.Len() != 2000 || time.Since(start) != 0 {
			t.Errorf("%d leases, after %v", l.Len(), time.Since(start))
		}
	})
}

// model is what a lessor should be, in the plainest form.
type model struct {
	leases  map[int64]*modelLease
	keys    map[string]int64
	primary bool
}

type modelLease struct {
	ttl      int64
	deadline time.Time
}

// TestRandomAgainstModel does random things over hours of virtual time and compares with the model: leases run out when
// they should, not before and not much after; keys are where they should be; a reopened lessor has the same leases.
func TestRandomAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runRandom(t, rand.New(rand.NewPCG(seed, 3))) })
		})
	}
}

func runRandom(t *testing.T, rng *rand.Rand) {
	d := disk{}
	l := openFake(t, d, Config{MinTTL: 2})
	defer func() { l.Close() }()
	m := &model{leases: map[int64]*modelLease{}, keys: map[string]int64{}}
	offered := map[int64]time.Time{}
	for range 3000 {
		id := 1 + rng.Int64N(30)
		switch rng.IntN(12) {
		case 0, 1:
			m.grant(t, l, d, id, rng.Int64N(40))
		case 2, 3, 4:
			m.renew(t, l, id)
		case 5, 6:
			key := fmt.Sprint("k", rng.IntN(50))
			l.Attach(key, id)
			delete(m.keys, key)
			if m.leases[id] != nil {
				m.keys[key] = id
			}
		case 7:
			key := fmt.Sprint("k", rng.IntN(50))
			l.Detach(key, id)
			if m.keys[key] == id {
				delete(m.keys, key)
			}
		case 8:
			if rng.IntN(8) == 0 {
				m.lead(l, rng.IntN(3) > 0)
				clear(offered)
			}
		case 9:
			if rng.IntN(20) == 0 {
				l.Close()
				l = openFake(t, d, Config{MinTTL: 2})
				m.primary = false
				clear(m.keys)
			}
		default:
			time.Sleep(time.Duration(rng.Int64N(int64(4 * time.Second))))
		}
		synctest.Wait()
		m.takeExpired(t, l, d, offered, rng)
		m.compare(t, l)
	}
}

func (m *model) grant(t *testing.T, l *Lessor, d disk, id, ttl int64) {
	lease, err := l.Grant(d, id, ttl)
	if m.leases[id] != nil {
		if !errors.Is(err, ErrExists) {
			t.Fatalf("grant of existing %d: %v", id, err)
		}
		return
	}
	if err != nil || lease.TTL != max(ttl, 2) {
		t.Fatalf("grant of %d: %+v, %v", id, lease, err)
	}
	m.leases[id] = &modelLease{ttl: lease.TTL, deadline: time.Now().Add(time.Duration(lease.TTL) * time.Second)}
}

func (m *model) renew(t *testing.T, l *Lessor, id int64) {
	ttl, err := l.Renew(t.Context(), id)
	ml := m.leases[id]
	switch {
	case !m.primary:
		if !errors.Is(err, ErrNotPrimary) {
			t.Fatalf("renew while not primary: %v", err)
		}
	case ml == nil || !time.Now().Before(ml.deadline):
		if !errors.Is(err, ErrNotFound) {
			t.Fatalf("renew of %d, which is gone: %v", id, err)
		}
	case err != nil || ttl != ml.ttl:
		t.Fatalf("renew of %d: %d, %v", id, ttl, err)
	default:
		if next := time.Now().Add(time.Duration(ttl) * time.Second); next.After(ml.deadline) {
			ml.deadline = next
		}
	}
}

func (m *model) lead(l *Lessor, primary bool) {
	m.primary = primary
	if !primary {
		l.Demote()
		return
	}
	l.Promote(time.Second)
	for _, ml := range m.leases {
		ml.deadline = time.Now().Add(time.Duration(ml.ttl)*time.Second + time.Second)
	}
}

// takeExpired takes all that is offered; most of it is revoked, the rest must come again.
func (m *model) takeExpired(t *testing.T, l *Lessor, d disk, offered map[int64]time.Time, rng *rand.Rand) {
	for {
		select {
		case ids := <-l.Expired():
			for _, id := range ids {
				ml := m.leases[id]
				if !m.primary || ml == nil || time.Now().Before(ml.deadline) {
					t.Fatalf("lease %d offered: primary %v, %+v, now %v", id, m.primary, ml, time.Now())
				}
				if last, ok := offered[id]; ok && time.Since(last) < 3*time.Second {
					t.Fatalf("lease %d offered again after %v", id, time.Since(last))
				}
				offered[id] = time.Now()
				if rng.IntN(4) > 0 {
					m.remove(l, d, id)
					delete(offered, id)
				}
			}
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
		default:
			for id, ml := range m.leases {
				if late := time.Since(ml.deadline); m.primary && late > 0 && offered[id].IsZero() {
					t.Fatalf("lease %d ran out %v ago and is not offered", id, late)
				}
			}
			return
		}
	}
}

func (m *model) remove(l *Lessor, d disk, id int64) {
	l.Remove(d, id)
	delete(m.leases, id)
	for key, lease := range m.keys {
		if lease == id {
			delete(m.keys, key)
		}
	}
}

func (m *model) compare(t *testing.T, l *Lessor) {
	if err := l.valid(); err != nil {
		t.Fatal(err)
	}
	if l.Len() != len(m.leases) {
		t.Fatalf("%d leases, want %d", l.Len(), len(m.leases))
	}
	byLease := make(map[int64][]string)
	for key, id := range m.keys {
		byLease[id] = append(byLease[id], key)
	}
	for id, ml := range m.leases {
		slices.Sort(byLease[id])
		if keys, err := l.Keys(id); err != nil || !slices.Equal(keys, byLease[id]) {
			t.Fatalf("keys of %d: %v, %v; want %v", id, keys, err, byLease[id])
		}
		info, err := l.TimeToLive(id, false)
		if m.primary && (err != nil || info.Granted != ml.ttl || info.Remaining != int64(max(0, time.Until(ml.deadline))/time.Second)) {
			t.Fatalf("lease %d: %+v, %v; want %+v at %v", id, info, err, ml, time.Now())
		}
		if !m.primary && !errors.Is(err, ErrNotPrimary) {
			t.Fatalf("time to live while not primary: %v", err)
		}
	}
	list := l.List()
	if len(list) != len(m.leases) || m.primary && !slices.IsSortedFunc(list, func(a, b int64) int {
		return m.leases[a].deadline.Compare(m.leases[b].deadline)
	}) {
		t.Fatalf("list %v is not in order of deadlines", list)
	}
}

// TestOnBackend: leases survive in a real file, and a bad record is an error.
func TestOnBackend(t *testing.T) {
	cfg := backend.Config{Path: filepath.Join(t.TempDir(), "db"), InitialMmapBytes: 1 << 20}
	b, err := backend.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(b, Config{CheckpointPersist: true})
	if err != nil {
		t.Fatal(err)
	}
	batch := b.Begin()
	for id := range int64(5) {
		if _, err := l.Grant(batch, id-2, 100); err != nil && id != 2 {
			t.Fatal(err)
		}
	}
	l.Remove(batch, 2)
	l.Checkpoint(batch, 1, 40)
	batch.Commit(1, 1)
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := Open(b, Config{})
	if err != nil {
		t.Fatal(err)
	}
	again.Promote(time.Second)
	if got := again.List(); !slices.Equal(got, []int64{1, -2, -1}) {
		t.Errorf("reopened: %v, want the checkpointed one first", got)
	}
	if info, err := again.TimeToLive(1, true); err != nil || info.Granted != 100 || info.Remaining != 40 && info.Remaining != 41 {
		t.Errorf("lease 1: %+v, %v", info, err)
	}
	again.Close()
	l.Close()

	batch = b.Begin()
	batch.Put(backend.Lease, []byte("12345678"), []byte("no lease"))
	batch.Commit(2, 1)
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(b, Config{}); err == nil || !strings.Contains(err.Error(), "bucket lease") {
		t.Errorf("a bad record: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkRenew(b *testing.B) {
	for _, leases := range []int64{1, 10_000, 1_000_000} {
		b.Run(fmt.Sprint("leases=", leases), func(b *testing.B) {
			d := discard{}
			l, err := open(disk{}.load, Config{})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			l.Promote(0)
			for id := range leases {
				if _, err := l.Grant(d, id+1, 600); err != nil {
					b.Fatal(err)
				}
			}
			ctx := b.Context()
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				rng := rand.New(rand.NewPCG(1, rand.Uint64()))
				for p.Next() {
					if _, err := l.Renew(ctx, 1+rng.Int64N(leases)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkAttach is what a put with a lease costs here: the key is moved to another lease each time.
func BenchmarkAttach(b *testing.B) {
	l, err := open(disk{}.load, Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = fmt.Sprintf("/registry/leases/%d", i)
	}
	for id := range int64(1000) {
		if _, err := l.Grant(discard{}, id+1, 600); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.Attach(keys[i%len(keys)], int64(1+i%997))
	}
}

// discard is a batch that keeps nothing.
type discard struct{}

func (discard) Put(backend.Bucket, []byte, []byte) {}
func (discard) Delete(backend.Bucket, []byte)      {}
