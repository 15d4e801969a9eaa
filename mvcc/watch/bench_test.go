package watch

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

func putEvent(key string, rev int64) []*mvccpb.Event {
	return []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: make([]byte, 256), ModRevision: rev, CreateRevision: rev}}}
}

// BenchmarkNotify is what a put costs the apply goroutine, while the dispatcher does its work on the other core.
func BenchmarkNotify(b *testing.B) {
	for _, watchers := range []int{0, 1, 10_000} {
		b.Run(fmt.Sprint("watchers=", watchers), func(b *testing.B) {
			store := newFakeStore()
			hub := NewHub(store, Config{})
			defer hub.Close()
			var readers sync.WaitGroup
			defer readers.Wait()
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			for range watchers {
				s := hub.NewStream()
				mustCreate(b, s, CreateOptions{Key: []byte("key")})
				readers.Go(func() { readAll(ctx, s, nil) })
			}
			b.ReportAllocs()
			rev := int64(1)
			for b.Loop() {
				rev++
				hub.Notify(rev, putEvent("key", rev))
			}
		})
	}
}

func readAll(ctx context.Context, s *Stream, told *sync.WaitGroup) {
	for {
		r, err := s.Next(ctx)
		if err != nil {
			return
		}
		if told != nil {
			told.Add(-len(r.Events))
		}
	}
}

// BenchmarkFanOut is the time until all watchers have been told of a put, by how they are spread over streams.
func BenchmarkFanOut(b *testing.B) {
	for _, c := range []struct{ streams, watchers int }{{1, 1}, {1, 10_000}, {100, 100}, {10_000, 1}} {
		b.Run(fmt.Sprintf("streams=%d/watchers=%d", c.streams, c.watchers), func(b *testing.B) {
			hub := NewHub(newFakeStore(), Config{})
			defer hub.Close()
			ctx, cancel := context.WithCancel(b.Context())
			var readers, told sync.WaitGroup
			defer readers.Wait()
			defer cancel()
			for range c.streams {
				s := hub.NewStream()
				for range c.watchers {
					mustCreate(b, s, CreateOptions{Key: []byte("key")})
				}
				readers.Go(func() { readAll(ctx, s, &told) })
			}
			b.ReportAllocs()
			rev := int64(1)
			for b.Loop() {
				rev++
				told.Add(c.streams * c.watchers)
				hub.Notify(rev, putEvent("key", rev))
				told.Wait()
			}
			b.ReportMetric(float64(b.N*c.streams*c.watchers)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkMatch is finding who watches a key among many ranges.
func BenchmarkMatch(b *testing.B) {
	ix := newIndex()
	for i := range 10_000 {
		key := fmt.Sprintf("/registry/pods/namespace-%05d/", i)
		ix.add(&watcher{span: span{key: key, end: key[:len(key)-1] + "0", kind: keysTo}})
	}
	events := putEvent("/registry/pods/namespace-04711/name", 2)
	b.ReportAllocs()
	var hits []*interest
	for b.Loop() {
		if hits = ix.matchAll(events, hits[:0]); len(hits) != 1 {
			b.Fatal(len(hits))
		}
		hits[0].take(events)
	}
}
