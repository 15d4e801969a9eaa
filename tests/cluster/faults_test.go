package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// Whatever was acknowledged survives when all members lose their power at once.
func TestAllAreKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		for round := range 3 {
			for i := range 60 {
				c.Put(fmt.Sprintf("k%d", i), fmt.Sprint(round))
			}
			for _, m := range c.Members() {
				m.Kill()
			}
			for _, m := range c.Members() {
				m.Launch()
			}
			c.Leader()
			for i := range 60 {
				if v, _ := c.Get(fmt.Sprintf("k%d", i)); v != fmt.Sprint(round) {
					t.Fatalf("round %d: k%d is %q", round, i, v)
				}
			}
		}
	})
}

// What is not synced is lost: a kill in the moment in which the disk hangs leaves the member without the entry.
func TestKillLosesWhatWasNotSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(1))
		m := c.Member(0)
		c.Put("k", "old")
		m.SlowDisk(time.Minute)
		once, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := m.Client().Put(once, "k", "new"); err == nil {
			t.Fatal("a put was acknowledged before it was synced")
		}
		m.Kill()
		m.SlowDisk(0)
		m.Restart()
		if v, _ := c.Get("k"); v != "old" {
			t.Fatalf("k is %q: the write that was not synced is there", v)
		}
	})
}

func TestPausedMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		paused := c.Leader()
		client := paused.NewClient()
		paused.Pause()
		next := c.NewLeader(paused)
		if _, err := next.Client().Put(ctx, "k", "v"); err != nil {
			t.Fatal(err)
		}
		once, cancel := context.WithTimeout(ctx, time.Minute)
		if _, err := client.Get(once, "k"); err == nil {
			t.Error("a paused member answers")
		}
		cancel()
		paused.Resume()
		c.WaitApplied()
		if _, err := client.Get(ctx, "k"); err != nil {
			t.Fatal(err)
		}
	})
}

// With one full disk the cluster goes on, and with room again the member commits what it has kept.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		m := c.Follower()
		m.FillDisk()
		for i := range 100 {
			c.Put(fmt.Sprintf("k%d", i), "v")
			time.Sleep(100 * time.Millisecond)
		}
		if _, err := m.Client().Defragment(ctx, m.ClientURL()); err == nil || !strings.Contains(err.Error(), "space") {
			t.Errorf("defragmentation on a full disk: %v", err)
		}
		m.EmptyDisk()
		m.Defrag()
		c.WaitApplied()
	})
}

// A member that is cut off answers no linearizable read: what it has may be old.
func TestNoStaleReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		c.Put("k", "old")
		c.WaitApplied()
		old := c.Leader()
		c.Partition(old)
		next := c.NewLeader(old)
		if _, err := next.Client().Put(ctx, "k", "new"); err != nil {
			t.Fatal(err)
		}
		once, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if resp, err := old.Client().Get(once, "k"); err == nil {
			t.Fatalf("the member that is cut off answers with %v", resp.Kvs)
		}
		c.Heal()
		if resp, err := old.Client().Get(ctx, "k"); err != nil || string(resp.Kvs[0].Value) != "new" {
			t.Fatalf("after the partition: %v, %v", resp, err)
		}
	})
}

func TestSlowAndLossyLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		leader := c.Leader()
		for _, m := range c.Members() {
			if m != leader {
				c.SlowLink(leader, m, 20*time.Millisecond, 10*time.Millisecond)
			}
		}
		start := time.Now()
		if _, err := leader.Client().Put(ctx, "k", "v"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 40*time.Millisecond {
			t.Errorf("a put took %v over links of 20 ms", took)
		}
		for i := range 50 {
			follower := c.Members()[i%3]
			if follower != leader && c.LoseMessages(leader, follower) == 0 {
				t.Log("no connection to break in round", i)
			}
			if _, err := leader.Client().Put(ctx, fmt.Sprintf("k%d", i), "v"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Messages to the leader are lost while those from it arrive.
func TestOneWayLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		leader, follower := c.Leader(), c.Follower()
		c.Mute(follower, leader)
		for i := range 20 {
			if _, err := leader.Client().Put(ctx, "k", fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		c.Heal()
		c.WaitApplied()
	})
}

// A bit that has flipped in the log keeps the member from starting; it is replaced.
func TestFlippedBitInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		m := c.Follower()
		const needle = "the value that a bit flips in: padding and marks have bits that nobody would miss"
		c.Put("k", needle)
		for i := range 20 {
			c.Put("k", fmt.Sprint(i))
			if i == 10 {
				m.Restart() // damage behind everything that follows it could be a torn end instead
			}
		}
		m.Stop()
		log, err := os.ReadFile(m.LogFiles()[0])
		at := bytes.Index(log, []byte(needle))
		if err != nil || at < 0 {
			t.Fatalf("the log lacks the value: %v", err)
		}
		m.FlipBit(m.LogFiles()[0], int64(at))
		if err := m.TryStart(); err == nil || !strings.Contains(err.Error(), ".wal") {
			t.Fatalf("started on a damaged log: %v", err)
		}
		m.Wipe()
		c.RemoveMember(m)
		added := c.AddMember(true)
		added.Promote()
		if v, _ := c.Get("k"); v != "19" {
			t.Fatalf("k is %q", v)
		}
	})
}

func TestVerbsOfMaintenance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(5*time.Second))
		for i := range 50 {
			c.Put("k", fmt.Sprint(i))
		}
		c.Compact(30)
		for _, m := range c.Members() {
			m.Defrag()
		}
		if c.Member(0).Status().DbSize == 0 {
			t.Error("no size")
		}
		backup := t.TempDir() + "/backup"
		c.Follower().Snapshot(backup)
		if _, err := os.Stat(backup); err != nil {
			t.Error(err)
		}
		c.SetRetention(time.Hour)
		rev := c.Put("k", "old")
		c.Put("k", "new")
		time.Sleep(2 * time.Hour)
		if _, err := c.Client().Get(ctx, "k", clientv3.WithRev(rev)); err == nil {
			t.Error("the history was kept")
		}
		c.MoveLeader(c.Follower())
	})
}

// The same outside of a bubble, with the goroutines counted.
func TestInRealTime(t *testing.T) {
	c := cluster.Start(t)
	c.Put("k", "v")
	leader := c.Leader()
	w := c.Follower().Watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 1})
	if resp, err := w.Next(); err != nil || len(resp.Events) != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	leader.Kill()
	c.NewLeader(leader)
	leader.Restart()
	c.WaitApplied()
}
