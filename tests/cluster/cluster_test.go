package cluster_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/cluster"
)

var ctx = context.Background()

func TestPutAndGet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(3))
		c.Put("k", "v")
		for _, m := range c.Members() {
			resp, err := m.Client().Get(ctx, "k")
			if err != nil {
				t.Fatal(err)
			}
			if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "v" {
				t.Fatalf("%s: %v", m.Name, resp.Kvs)
			}
		}
	})
}

func TestSingleMemberRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(1))
		for range 100 {
			c.Put("k", "v")
		}
		c.Member(0).Restart()
		resp, err := c.Client().Get(ctx, "k")
		if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].Version != 100 {
			t.Fatalf("after restart: %v, %v", resp, err)
		}
	})
}

// With a retention of an hour, revisions older than that go and younger ones stay, across a change of leader and a
// restart of every member.
func TestOneHourOfHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Retention(time.Hour), cluster.Heartbeat(5*time.Second))
		start := time.Now()
		written := map[int64]time.Time{} // when each revision was made
		for minute := range 5 * 60 {
			rev := c.Put("clock", time.Now().String())
			written[rev] = time.Now()
			switch minute {
			case 100:
				c.Leader().Restart()
			case 200:
				for _, m := range c.Members() {
					m.Restart()
				}
			}
			time.Sleep(time.Minute)
		}
		newest := c.Put("clock", "end")
		for rev := int64(2); rev <= newest; rev++ {
			at, ok := written[rev]
			if !ok {
				continue
			}
			_, err := c.Client().Get(ctx, "clock", clientv3.WithRev(rev))
			gone := err != nil && strings.Contains(err.Error(), "required revision has been compacted")
			if err != nil && !gone {
				t.Fatal(err)
			}
			switch age := time.Since(at); {
			case age > 75*time.Minute && !gone:
				t.Errorf("revision %d of %v ago is still there, %v after the start", rev, age, time.Since(start))
			case age < time.Hour && gone:
				t.Errorf("revision %d of only %v ago is gone", rev, age)
			}
		}
	})
}
