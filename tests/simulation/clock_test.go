package simulation

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// Wall clocks jump: a machine starts with a wrong one, or another member leads whose clock is hours away. Only one thing
// that members agree on comes from it, the samples that retention goes by; leases and elections are measured with the
// monotonic clock. Each bubble begins in the year 2000, so a cluster that ran in one and runs on in the next has had its
// clock set back, or, if time passes first, set forward.
func TestWallClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{-5 * time.Hour, -20 * time.Minute, 20 * time.Minute, 100 * time.Hour} {
		t.Run(fmt.Sprint(jump), func(t *testing.T) {
			dirs := make([]string, 3)
			for i := range dirs {
				dirs[i] = filepath.Join(t.TempDir(), "data")
			}
			const before = 2 * time.Hour // that it runs before the jump
			start := max(0, -jump-before)
			var old int64
			var lease clientv3.LeaseID
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(start)
				c := clockCluster(t, dirs)
				for range int(before / (10 * time.Minute)) {
					time.Sleep(10 * time.Minute)
					old = c.Put("clock", time.Now().String())
				}
				granted, err := c.Client().Grant(context.Background(), 3600)
				if err != nil {
					t.Fatal(err)
				}
				lease = granted.ID
				if _, err := c.Client().Put(context.Background(), "leased", "v", clientv3.WithLease(lease)); err != nil {
					t.Fatal(err)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(start + before + jump)
				afterJump(t, clockCluster(t, dirs), old, jump)
			})
		})
	}
}

func clockCluster(t *testing.T, dirs []string) *cluster.Cluster {
	return cluster.Start(t, cluster.DataDirs(dirs...), cluster.Retention(time.Hour), cluster.Heartbeat(5*time.Second))
}

// afterJump looks at what was there before: what is current stays, the lease lives its time, and history is kept for an
// hour by a clock that goes on from where it is now.
func afterJump(t *testing.T, c *cluster.Cluster, old int64, jump time.Duration) {
	there := func(key string, rev int64) bool {
		resp, err := c.Client().Get(context.Background(), key, clientv3.WithRev(rev))
		return err == nil && len(resp.Kvs) == 1
	}
	if !there("clock", 0) || !there("leased", 0) {
		t.Fatalf("a jump of %v lost what was current", jump)
	}
	next := c.Put("clock", "after the jump")
	time.Sleep(55 * time.Minute)
	if !there("leased", 0) {
		t.Errorf("a jump of %v ended a lease early", jump)
	}
	if !there("clock", next) {
		t.Errorf("what was written after a jump of %v is gone within the hour", jump)
	}
	if jump <= 0 && !there("clock", old) {
		t.Errorf("the clock was set back by %v, and history is gone 55 minutes later", jump)
	}
	c.Put("clock", "an hour later")
	time.Sleep(90 * time.Minute)
	if there("leased", 0) {
		t.Errorf("a lease of an hour is there after 2h25m and a jump of %v", jump)
	}
	if !there("clock", 0) {
		t.Errorf("a jump of %v lost what was current", jump)
	}
	if there("clock", old) {
		t.Errorf("retention of an hour keeps what is 2h25m old after a jump of %v", jump)
	}
}
