package cluster_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// shortLog makes members keep so little of the log that one that was away needs a state transfer.
func shortLog() cluster.Option {
	return cluster.Configure(func(c *config.Config) { c.SnapshotCount, c.SnapshotCatchUpEntries = 20, 10 })
}

func TestMemberIsAddedPromotedAndRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(3), shortLog())
		for i := range 100 {
			c.Put(fmt.Sprintf("k%d", i), "v")
		}
		time.Sleep(6 * time.Second) // the strict check wants peers to have been connected for 5 s
		learner := c.AddMember(true)
		if _, err := learner.Client().Put(ctx, "x", "y"); err == nil || !strings.Contains(err.Error(), "not supported for learner") {
			t.Fatalf("put on a learner: %v", err)
		}
		c.Wait("the learner to catch up", func() bool { return learner.Server().Revision() == c.Leader().Server().Revision() })
		if n := transfers(t, c, learner); n != 1 {
			t.Fatalf("%d databases were transferred to the learner", n)
		}
		if _, err := c.Client().MemberPromote(ctx, learner.Server().ID()); err != nil {
			t.Fatal(err)
		}
		c.Wait("the promotion to be applied everywhere", func() bool {
			_, err := learner.Client().Put(ctx, "x", "y")
			return err == nil
		})
		resp, err := learner.Client().Get(ctx, "k", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil || resp.Count != 100 {
			t.Fatalf("count on the new member: %v, %v", resp, err)
		}
		// The leader removes itself; the others go on.
		time.Sleep(6 * time.Second)
		leader := c.Leader()
		if _, err := leader.Client().MemberRemove(ctx, leader.Server().ID()); err != nil {
			t.Fatal(err)
		}
		<-leader.Server().Done()
		if err := leader.Server().Err(); err == nil || !strings.Contains(err.Error(), "removed") {
			t.Fatalf("the removed member stopped with %v", err)
		}
		leader.Stop()
		c.Leader()
		c.Put("after", "removal")
		list, err := c.Client().MemberList(ctx)
		if err != nil || len(list.Members) != 3 {
			t.Fatalf("%v, %v", list, err)
		}
	})
}

// transfers counts the databases that a member has received since its start.
func transfers(t *testing.T, c *cluster.Cluster, m *cluster.Member) int {
	t.Helper()
	client, _ := browser(t, c)
	count := 0
	for line := range strings.Lines(request(t, client, "GET", m.ClientURL()+"/metrics", "")) {
		var n int
		if sample, found := strings.CutPrefix(line, "etcd_network_snapshot_receive_success{"); found {
			if _, err := fmt.Sscan(sample[strings.Index(sample, "} ")+2:], &n); err != nil {
				t.Fatal(err)
			}
			count += n
		}
	}
	return count
}

func TestLaggingMemberGetsTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(3), shortLog())
		c.Put("before", "1")
		away := c.Member(2)
		away.Stop()
		time.Sleep(5 * time.Second) // the leader keeps its log for a member that it has just heard
		for i := range 300 {
			c.Put(fmt.Sprintf("k%d", i), strings.Repeat("v", 1000))
		}
		time.Sleep(5 * time.Second) // what is not durable in the database stays in the log
		away.Restart()
		c.Wait("the state transfer", func() bool { return away.Server().Revision() == c.Leader().Server().Revision() })
		resp, err := away.Client().Get(ctx, "k", clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithSerializable())
		if err != nil || resp.Count != 300 {
			t.Fatalf("%v, %v", resp, err)
		}
		if n := transfers(t, c, away); n != 1 {
			t.Fatalf("%d databases were transferred: the leader had the rest in its log", n)
		}
		// And once more after it has been installed.
		away.Restart()
		c.Put("after", "2")
	})
}

func TestMinorityRefusesAndMajorityGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(3))
		old := c.Leader()
		c.Network().Isolate(old.Host)
		c.Network().Heal("client", old.Host)
		var next *cluster.Member
		c.Wait("a new leader", func() bool {
			for _, m := range c.Members() {
				if m != old && m.Server().Leader() == m.Server().ID() {
					next = m
					return true
				}
			}
			return false
		})
		if _, err := next.Client().Put(ctx, "k", "new"); err != nil {
			t.Fatal(err)
		}
		c.Network().HealAll()
		c.Wait("the old leader to follow", func() bool {
			once, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			resp, err := old.Client().Get(once, "k")
			return err == nil && len(resp.Kvs) == 1 && string(resp.Kvs[0].Value) == "new"
		})
	})
}

func TestLeadershipMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(3))
		leader := c.Leader()
		target := c.Member(0)
		if target == leader {
			target = c.Member(1)
		}
		if _, err := target.Client().MoveLeader(ctx, leader.Server().ID()); err == nil || !strings.Contains(err.Error(), "not leader") {
			t.Fatalf("asked of a follower: %v", err)
		}
		if _, err := leader.Client().MoveLeader(ctx, target.Server().ID()); err != nil {
			t.Fatal(err)
		}
		if got := c.Leader(); got != target {
			t.Fatalf("%s leads, want %s", got.Name, target.Name)
		}
	})
}

func TestTheLeaderIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(3))
		c.Put("k", "v")
		time.Sleep(6 * time.Second)
		c.RemoveMember(c.Leader())
		c.Put("k", "w")
		if n := len(c.Members()); n != 2 {
			t.Fatalf("%d members are left", n)
		}
	})
}
