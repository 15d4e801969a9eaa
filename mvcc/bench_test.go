package mvcc

import (
	"context"
	"fmt"
	"math/rand"
	"runtime"
	"testing"

	"github.com/upkeep-kv/upkeep/backend"
)

// fill puts n keys of the shape /registry/pods/%08x in random order, 256-byte
// values, 100 to an entry.
func fill(f *fixture, n int) (keys [][]byte) {
	rng := rand.New(rand.NewSource(1))
	keys = make([][]byte, n)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "/registry/pods/%08x", i)
	}
	rng.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	value := make([]byte, 256)
	rng.Read(value)
	for i := 0; i < n; i += 100 {
		f.apply(func(b *backend.Batch) {
			for _, key := range keys[i:min(i+100, n)] {
				w := f.Begin(b)
				w.Put(key, value, 0)
				w.End()
			}
		})
	}
	if err := f.backend.Flush(context.Background()); err != nil {
		f.t.Fatal(err)
	}
	return keys
}

// BenchmarkOpen opens a store of a million keys. MB is what the index takes.
func BenchmarkOpen(b *testing.B) {
	f := newFixture(b, Config{})
	fill(f, 1_000_000)
	f.reopen()
	for b.Loop() {
		b.StopTimer()
		f.Store.Close()
		f.Store.index = nil
		before := heapMB()
		b.StartTimer()
		s, err := Open(f.backend, Config{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		f.Store = s
		b.ReportMetric(heapMB()-before, "MB-index")
		b.StartTimer()
	}
}

func heapMB() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

func BenchmarkPut(b *testing.B) {
	for _, batch := range []int{1, 100} {
		b.Run(fmt.Sprint(batch, " per entry"), func(b *testing.B) {
			f := newFixture(b, Config{})
			keys := fill(f, 100_000)
			value := make([]byte, 256)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				batched := f.backend.Begin()
				for range batch {
					w := f.Begin(batched)
					w.Put(keys[n%len(keys)], value, 0)
					w.End()
					n++
				}
				f.applied++
				batched.Commit(f.applied, 1)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/put")
		})
	}
}

func BenchmarkRange(b *testing.B) {
	f := newFixture(b, Config{})
	keys := fill(f, 1_000_000)
	f.reopen()
	all := []byte("/registry/pods/")
	for _, c := range []struct {
		name string
		end  []byte
		opt  RangeOptions
	}{
		{"one", nil, RangeOptions{}},
		{"one key only", nil, RangeOptions{KeysOnly: true}},
		{"page of 500 of a million", []byte{0}, RangeOptions{Limit: 500}},
		{"all", []byte{0}, RangeOptions{}},
		{"all keys only", []byte{0}, RangeOptions{KeysOnly: true}},
		{"count", []byte{0}, RangeOptions{CountOnly: true}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				key := all
				if c.end == nil {
					key = keys[n*7919%len(keys)]
				}
				res, err := f.Range(context.Background(), key, c.end, c.opt)
				if err != nil || res.Count == 0 {
					b.Fatal(res, err)
				}
			}
		})
	}
}

// BenchmarkCompact supersedes every key and compacts.
func BenchmarkCompact(b *testing.B) {
	f := newFixture(b, Config{OnCompaction: func(i CompactionInfo) {
		b.ReportMetric(float64(i.LongestPiece.Microseconds()), "µs-longest-piece")
		b.ReportMetric(float64(i.Deleted)/i.Duration.Seconds(), "deletions/s")
	}})
	keys := fill(f, 200_000)
	for b.Loop() {
		b.StopTimer()
		for i := 0; i < len(keys); i += 1000 {
			f.apply(func(batch *backend.Batch) {
				for _, key := range keys[i : i+1000] {
					w := f.Begin(batch)
					w.Put(key, []byte("new"), 0)
					w.End()
				}
			})
		}
		b.StartTimer()
		if err := f.compact(f.Revision()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHashKV(b *testing.B) {
	f := newFixture(b, Config{})
	fill(f, 1_000_000)
	if err := f.compact(1000); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := f.HashKV(b.Context(), 0); err != nil {
			b.Fatal(err)
		}
	}
}
