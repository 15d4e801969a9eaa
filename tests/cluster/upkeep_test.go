package cluster_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// One member has less room than the others: its alarm stops writes on all of them, until it is disarmed.
func TestOneFullMemberStopsWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const small = 4 << 20
		c := cluster.Start(t, cluster.Members(3), cluster.Configure(func(cfg *config.Config) {
			if cfg.Name == "m1" {
				cfg.QuotaBackendBytes = small
			}
		}))
		value := string(bytes.Repeat([]byte("v"), 64<<10))
		var err error
		for i := 0; err == nil && i < 2*small/len(value); i++ {
			_, err = c.Member(0).Client().Put(ctx, "k", value)
			time.Sleep(100 * time.Millisecond)
		}
		if err == nil || !strings.Contains(err.Error(), "database space exceeded") {
			t.Fatalf("writes ended with %v", err)
		}
		alarms, err := c.Client().AlarmList(ctx)
		if err != nil || len(alarms.Alarms) != 1 || alarms.Alarms[0].MemberID != c.Member(1).Server().ID() {
			t.Fatalf("alarms: %v, %v", alarms, err)
		}
		if _, err := c.Client().Grant(ctx, 60); err == nil {
			t.Fatal("a lease was granted")
		}
		if _, err := c.Client().Txn(ctx).Else(clientv3.OpGet("k")).Commit(); err != nil {
			t.Fatalf("a transaction of reads: %v", err)
		}
		if _, err := c.Client().Delete(ctx, "k"); err != nil {
			t.Fatalf("a delete: %v", err)
		}
		resp, err := c.Client().Get(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Client().Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
			t.Fatal(err)
		}
		for _, m := range c.Members() {
			if _, err := m.Client().Defragment(ctx, m.ClientURL()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Client().AlarmDisarm(ctx, &clientv3.AlarmMember{
			MemberID: alarms.Alarms[0].MemberID, Alarm: pb.AlarmType_NOSPACE,
		}); err != nil {
			t.Fatal(err)
		}
		c.Put("k", "again")
	})
}

// Ten thousand leases that run out at the same moment leave puts alone.
func TestManyLeasesExpireAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 10_000
		c := cluster.Start(t, cluster.Members(1))
		var leases []clientv3.Op
		for i := range count {
			granted, err := c.Client().Grant(ctx, 60)
			if err != nil {
				t.Fatal(err)
			}
			leases = append(leases, clientv3.OpPut(fmt.Sprintf("leased/%d", i), "", clientv3.WithLease(granted.ID)))
		}
		for some := range slices.Chunk(leases, 100) {
			if _, err := c.Client().Txn(ctx).Then(some...).Commit(); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(60 * time.Second)
		var slowest time.Duration
		left := int64(count)
		for range 120 {
			start := time.Now()
			c.Put("other", "v")
			slowest = max(slowest, time.Since(start))
			resp, err := c.Client().Get(ctx, "leased/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			if err != nil {
				t.Fatal(err)
			}
			if left = resp.Count; left == 0 {
				break
			}
			time.Sleep(500 * time.Millisecond)
		}
		if left != 0 {
			t.Errorf("%d leased keys are left a minute after they should have gone", left)
		}
		if slowest > 100*time.Millisecond {
			t.Errorf("a put took %v of virtual time", slowest)
		}
	})
}

// A watcher that starts in the past, through a defragmentation and a leader change, sees every event once and in
// order.
func TestWatchThroughMaintenance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(3))
		const total = 500
		for i := range 100 {
			c.Put("w", fmt.Sprint(i))
		}
		watcher := c.Member(0)
		events := watcher.Watch(&pb.WatchCreateRequest{Key: []byte("w"), StartRevision: 1})
		var writer sync.WaitGroup
		defer writer.Wait() // its last answer may come after the event
		writer.Go(func() {
			for i := 100; i < total; i++ {
				if _, err := watcher.Client().Put(ctx, "w", fmt.Sprint(i)); err != nil {
					t.Errorf("put %d: %v", i, err)
				}
				if i%50 == 0 {
					if _, err := watcher.Client().Defragment(ctx, watcher.ClientURL()); err != nil {
						t.Errorf("defragment: %v", err)
					}
				}
			}
		})
		next := 0
		for {
			resp, err := events.Next()
			if err != nil {
				t.Fatal(err)
			}
			for _, ev := range resp.Events {
				if got := string(ev.Kv.Value); got != fmt.Sprint(next) {
					t.Fatalf("got %s, want %d", got, next)
				}
				next++
			}
			if next == total {
				return
			}
		}
	})
}
