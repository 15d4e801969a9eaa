package mvcc

import (
	"fmt"
	"sync"
	"testing"

	"github.com/upkeep-kv/upkeep/backend/pace"
)

// TestCompactionProgress: a compaction interrupted in the middle says so, goes on where the store is opened again, and
// counts up to its end while requests are felt.
func TestCompactionProgress(t *testing.T) {
	var mu sync.Mutex
	var seen []CompactionProgress
	half := make(chan struct{}, 1000)
	g := pace.New()
	g.Begin() // somebody waits: it goes slowly
	defer g.End(pace.Read, 0)
	f := newFixture(t, Config{Pace: g, CompactionBatchLimit: 10, OnCompactionPiece: func(p CompactionProgress) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, p)
		half <- struct{}{}
	}})
	for i := range 300 {
		f.put(fmt.Sprintf("k%d", i%3), "v")
	}
	last := f.Revision()
	if _, err := f.startCompaction(last); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		<-half
	}
	f.reopen()
	if err := f.compact(last); err != ErrCompacted { // but waits for the one before
		t.Error(err)
	}
	if got := len(f.stored()); got != 3 {
		t.Errorf("%d entries left", got)
	}
	checkProgress(t, seen, last)
}

func checkProgress(t *testing.T, seen []CompactionProgress, rev int64) {
	interrupted, done := 0, int64(0)
	for _, p := range seen {
		switch {
		case p.Revision != rev:
			t.Errorf("progress of %d: %+v", rev, p)
		case p.Total == 0:
			interrupted++
			done = 0
		case p.Done < done || p.Done > p.Total:
			t.Errorf("after %d: %+v", done, p)
		default:
			done = p.Done
		}
	}
	if end := seen[len(seen)-1]; interrupted != 1 || end.Done != end.Total || end.Total == 0 {
		t.Errorf("%d interruptions, then %+v", interrupted, end)
	}
}
