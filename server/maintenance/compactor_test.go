package maintenance

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// fakeCluster is the replicated state as one member sees it. Two compactors may share it, as two members would.
type fakeCluster struct {
	mu        sync.Mutex
	leader    bool
	changed   chan struct{}
	rev       int64
	compacted int64
	samples   []sample
	fail      error
}

type sample struct {
	at  time.Time
	rev int64
}

func newFake(leader bool) *fakeCluster {
	return &fakeCluster{leader: leader, changed: make(chan struct{}), rev: 1, compacted: -1}
}

func (f *fakeCluster) IsLeader() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.leader }
func (f *fakeCluster) LeaderChanged() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}
func (f *fakeCluster) Revision() int64        { f.mu.Lock(); defer f.mu.Unlock(); return f.rev }
func (f *fakeCluster) CompactRevision() int64 { f.mu.Lock(); defer f.mu.Unlock(); return f.compacted }

func (f *fakeCluster) RevisionBefore(t time.Time) (int64, time.Time, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.samples) - 1; i >= 0; i-- {
		if !f.samples[i].at.After(t) {
			return f.samples[i].rev, f.samples[i].at, true
		}
	}
	return 0, time.Time{}, false
}

func (f *fakeCluster) LastSample() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.samples) == 0 {
		return time.Time{}
	}
	return f.samples[len(f.samples)-1].at
}

func (f *fakeCluster) Sample(_ context.Context, now, dropBefore time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.samples) > 0 && f.samples[0].at.Before(dropBefore) {
		f.samples = f.samples[1:]
	}
	f.samples = append(f.samples, sample{now, f.rev})
	return nil
}

func (f *fakeCluster) Compact(_ context.Context, rev int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	f.compacted = rev
	return nil
}

func (f *fakeCluster) setLeader(leader bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leader = leader
	close(f.changed)
	f.changed = make(chan struct{})
}

// write puts one revision a minute for a while, so that a revision names its minute.
func (f *fakeCluster) write(d time.Duration) {
	for range int(d / time.Minute) {
		time.Sleep(time.Minute)
		f.mu.Lock()
		f.rev++
		f.mu.Unlock()
	}
	synctest.Wait()
}

func TestWindowKeepsWhatIsYounger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(true)
		c := StartCompactor(f, Retention{Window: time.Hour}, zap.NewNop())
		defer c.Close()
		f.write(59 * time.Minute)
		if got := f.CompactRevision(); got != -1 {
			t.Fatalf("compacted to %d before an hour was over", got)
		}
		f.write(4*time.Hour + time.Minute)
		minutes := f.Revision() - f.CompactRevision()
		if minutes < 60 || minutes > 67 {
			t.Fatalf("%d minutes of history kept, want 60 to 67", minutes)
		}
		if len(f.samples) > samplesPerWindow+2 {
			t.Fatalf("%d samples kept", len(f.samples))
		}
	})
}

func TestWindowSurvivesRestartsAndLeaderChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(true)
		for range 30 { // no run is half as long as the window
			c := StartCompactor(f, Retention{Window: time.Hour}, zap.NewNop())
			f.write(10 * time.Minute)
			f.setLeader(false)
			f.write(2 * time.Minute)
			f.setLeader(true)
			f.write(10 * time.Minute)
			c.Close()
		}
		minutes := f.Revision() - f.CompactRevision()
		if minutes < 60 || minutes > 75 {
			t.Fatalf("%d minutes of history kept", minutes)
		}
	})
}

func TestFollowerDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(false)
		c := StartCompactor(f, Retention{Window: time.Hour}, zap.NewNop())
		defer c.Close()
		f.write(5 * time.Hour)
		if len(f.samples) != 0 || f.CompactRevision() != -1 {
			t.Fatal("a follower took samples or compacted")
		}
	})
}

func TestRevisionModeAndRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(true)
		f.fail = errors.New("no leader")
		c := StartCompactor(f, Retention{Revisions: 100}, zap.NewNop())
		defer c.Close()
		f.write(3 * time.Hour)
		if f.CompactRevision() != -1 {
			t.Fatal("a failed compaction counted")
		}
		f.mu.Lock()
		f.fail = nil
		f.mu.Unlock()
		f.write(6 * time.Minute)
		if kept := f.Revision() - f.CompactRevision(); kept < 100 || kept > 105 {
			t.Fatalf("%d revisions kept, want 100 to 105", kept)
		}
	})
}
