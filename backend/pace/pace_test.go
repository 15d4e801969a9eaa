package pace

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestBuckets(t *testing.T) {
	last := -1
	for us := range 200_000 {
		took := time.Duration(us) * time.Microsecond
		b := bucketOf(took)
		if b < last || b > last+1 {
			t.Fatalf("%v is in bucket %d after %d", took, b, last)
		}
		if took >= upperEnd(b) || b > 0 && took < upperEnd(b-1) {
			t.Fatalf("%v is in bucket %d, which ends at %v", took, b, upperEnd(b))
		}
		last = b
	}
	if b := bucketOf(time.Hour); b != buckets-1 || upperEnd(b) < 30*time.Second {
		t.Fatalf("an hour is in bucket %d, the last is %d and ends at %v", b, buckets-1, upperEnd(b))
	}
}

// load asks every 2 ms, and is answered after what latency says, until stop is called. A second of it is over when it
// returns.
func load(g *Governor, latency func() time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for Sleep(ctx, 2*time.Millisecond) == nil {
			g.Begin()
			took := latency()
			time.Sleep(took)
			g.End(Read, took)
		}
	}()
	time.Sleep(time.Second)
	return func() { cancel(); <-done }
}

// work does pieces, of which a thousand units take 10 ms, for a while and returns what it got done.
func work(g *Governor, length time.Duration, sizes Sizes) (units int, largest int) {
	job := g.Start(sizes)
	defer job.Close()
	for start := time.Now(); time.Since(start) < length; {
		n := job.Size()
		time.Sleep(time.Duration(n) * 10 * time.Microsecond)
		units, largest = units+n, max(largest, n)
		_ = job.Rest(context.Background())
	}
	return units, largest
}

var thousand = Sizes{First: 1000, Least: 10, Most: 100_000}

func TestNobodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New()
		units, largest := work(g, 10*time.Second, thousand)
		if units < 1_000_000 || units > 1_010_000 || largest != 4000 {
			t.Fatalf("%d units in 10s, pieces of up to %d", units, largest)
		}
	})
}

func TestNilGovernor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g *Governor
		g.Begin()
		g.End(Read, time.Second)
		g.Synced(time.Second)
		if units, _ := work(g, time.Second, thousand); units < 100_000 {
			t.Fatalf("%d units in a second", units)
		}
	})
}

// TestPace: the same work beside requests that it does not hurt, that it hurts, and that are slow by themselves.
func TestPace(t *testing.T) {
	var spikes atomic.Int64
	const calm, hurt = 500 * time.Microsecond, 3 * time.Millisecond
	for _, c := range []struct {
		name        string
		latency     func(g *Governor) time.Duration
		least, most int // of 1,000,000
	}{
		{"undisturbed", func(*Governor) time.Duration { return calm }, 700_000, 820_000},
		{"disturbed", func(g *Governor) time.Duration {
			if g.working.Load() > 0 {
				return hurt
			}
			return calm
		}, 60_000, 140_000},
		{"spikes anyway", func(g *Governor) time.Duration {
			if n := spikes.Add(1); n%100 == 0 {
				return 40 * time.Millisecond
			}
			return calm
		}, 500_000, 820_000},
		{"slow and uneven anyway", func(g *Governor) time.Duration {
			return time.Duration(1+spikes.Add(7919)*31%60) * time.Millisecond
		}, 450_000, 820_000},
		{"slow anyway", func(*Governor) time.Duration { return 6 * time.Millisecond }, 700_000, 820_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := New()
				stop := load(g, func() time.Duration { return c.latency(g) })
				units, _ := work(g, 10*time.Second, thousand)
				stop()
				if units < c.least || units > c.most {
					t.Errorf("%d units in 10s, want %d to %d", units, c.least, c.most)
				}
			})
		})
	}
}

// TestRecovers: what hurt once and no longer does is tried again, and load that ends sets work free.
func TestRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New()
		var bad atomic.Bool
		bad.Store(true)
		stop := load(g, func() time.Duration {
			if bad.Load() && g.working.Load() > 0 {
				return 20 * time.Millisecond
			}
			return time.Millisecond
		})
		work(g, 5*time.Second, thousand)
		if s := g.Stats(); s.Share > 0.2 || s.Piece > 3*time.Millisecond {
			t.Errorf("share %.2f, pieces of %v while requests are held up", s.Share, s.Piece)
		}
		bad.Store(false)
		work(g, 20*time.Second, thousand)
		if s := g.Stats(); s.Share < mostShare || s.Piece < mostPiece {
			t.Errorf("share %.2f, pieces of %v when requests are no longer held up", s.Share, s.Piece)
		}
		stop()
		time.Sleep(time.Second)
		if s := g.Stats(); s.Share != 1 {
			t.Errorf("share %.2f when nobody asks", s.Share)
		}
	})
}

// TestStuckRequest: that nothing is answered does not mean that nobody waits.
func TestStuckRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New()
		g.Begin()
		if units, _ := work(g, 10*time.Second, thousand); units > 600_000 {
			t.Fatalf("%d units in 10s while a request waits", units)
		}
	})
}

func TestJobsDivide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New()
		stop := load(g, func() time.Duration { return time.Millisecond })
		results := make(chan int)
		for range 2 {
			go func() {
				units, _ := work(g, 10*time.Second, thousand)
				results <- units
			}()
		}
		a, b := <-results, <-results
		stop()
		if a+b > 850_000 || min(a, b) < 300_000 {
			t.Errorf("%d and %d units in 10s", a, b)
		}
		if s := g.Stats(); s.Jobs != 0 || g.working.Load() != 0 {
			t.Errorf("%d jobs, %d at work in the end", s.Jobs, g.working.Load())
		}
	})
}

func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New()
		g.Begin()
		job := g.Start(thousand)
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(context.Background())
		go func() {
			time.Sleep(100 * time.Millisecond)
			cancel(why)
		}()
		time.Sleep(90 * time.Millisecond)
		if err := job.Rest(ctx); err != why || time.Now().Nanosecond()%1e9 != 100e6 {
			t.Fatalf("%v at %v", err, time.Now())
		}
		job.Close()
		if n := g.working.Load(); n != 0 {
			t.Fatalf("%d at work in the end", n)
		}
	})
}

func BenchmarkEnd(b *testing.B) {
	g := New()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		took := time.Duration(0)
		for pb.Next() {
			took += 977
			g.Begin()
			g.End(Read, took&(1<<22-1))
		}
	})
}
