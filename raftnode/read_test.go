package raftnode

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

func TestStaleLeaderDoesNotAnswerReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		old := c.leader()
		old.mustPut("a")
		c.isolate(old.id)
		done := make(chan error, 1)
		go func() { done <- old.node.LinearizableRead(t.Context()) }()
		var others []uint64
		for _, id := range c.ids() {
			if id != old.id {
				others = append(others, id)
			}
		}
		c.leader(others...).mustPut("b")
		select {
		case err := <-done:
			t.Fatalf("the stale leader answered: %v", err)
		default:
		}
		c.setDrop(nil)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := old.sm.log(); !slices.Contains(got, "b") {
			t.Errorf("the read went on without b: %v", got)
		}
	})
}

func TestReadsShareRoundsAndSeeWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		f := c.follower()
		c.leader().mustPut("a")
		before := c.count(raftpb.MsgReadIndex)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := f.node.LinearizableRead(t.Context()); err != nil {
					t.Error(err)
				}
				if !slices.Contains(f.sm.log(), "a") {
					t.Error("a read does not see what was acknowledged before it")
				}
			})
		}
		wg.Wait()
		if n := c.count(raftpb.MsgReadIndex) - before; n > 2 {
			t.Errorf("100 reads took %d rounds", n)
		}
	})
}

func TestReadIndexIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		f := c.follower()
		c.leader().mustPut("a")
		lost := 0
		c.setDrop(func(m *raftpb.Message) bool {
			if m.GetType() == raftpb.MsgReadIndex && lost < 2 {
				lost++
				return true
			}
			return false
		})
		start := time.Now()
		if err := f.node.LinearizableRead(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); lost != 2 || took < 2*readRetry || took > 3*readRetry {
			t.Errorf("after %d losses the read took %v", lost, took)
		}
	})
}

func TestReadWaitsForApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		f := c.follower()
		c.leader().mustPut("a")
		c.converge("a")
		release := f.sm.setHold()
		c.leader().mustPut("b")
		err := f.node.LinearizableRead(t.Context())
		if !errors.Is(err, ErrTimeoutWaitApplied) {
			t.Errorf("a read on a member that does not apply: %v", err)
		}
		done := make(chan error, 1)
		go func() { done <- f.node.LinearizableRead(t.Context()) }()
		time.Sleep(time.Second)
		release()
		start := time.Now()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > time.Millisecond {
			t.Errorf("the read went on %v after its index was applied", took)
		}
	})
}
