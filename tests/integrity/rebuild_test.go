package integrity

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/server"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// load puts counters through one client each until stop, and checks afterwards that the last acknowledged value of each
// is there.
type load struct {
	c       *cluster.Cluster
	cancel  context.CancelFunc
	writers sync.WaitGroup
	acked   [4]atomic.Int64
}

func startLoad(c *cluster.Cluster, t *testing.T) *load {
	l := &load{c: c}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	members := c.Members()
	for i := range l.acked {
		cli := members[i%len(members)].NewClient()
		l.writers.Go(func() {
			for n := int64(1); ctx.Err() == nil; n++ {
				once, done := context.WithTimeout(ctx, 20*time.Second)
				_, err := cli.Put(once, fmt.Sprint("load", i), fmt.Sprint(n))
				done()
				if err == nil {
					l.acked[i].Store(n)
				}
				time.Sleep(25 * time.Millisecond)
			}
		})
	}
	return l
}

// stop ends the load; every member must have what was acknowledged.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.cancel()
	l.writers.Wait()
	l.c.WaitApplied()
	for _, m := range l.c.Members() {
		if !m.Running() {
			continue
		}
		for i := range l.acked {
			resp, err := m.Client().Get(t.Context(), fmt.Sprint("load", i))
			if err != nil {
				t.Fatal(err)
			}
			var got int64
			if len(resp.Kvs) > 0 {
				fmt.Sscan(string(resp.Kvs[0].Value), &got)
			}
			if want := l.acked[i].Load(); got < want {
				t.Errorf("%s: writer %d was told that %d is written, there is %d", m.Name, i, want, got)
			}
		}
	}
}

func sameHashes(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	c.WaitApplied()
	c.Wait("equal hashes", func() bool {
		var first uint32
		for i, m := range c.Members() {
			h, err := m.Server().HashKV(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = h.Hash
			}
			if h.Hash != first {
				return false
			}
		}
		return true
	})
}

// A member with a bit turned over gets its database anew, under load, with a watch and a lease on it, and without a
// restart. Every acknowledged write is kept and no watcher sees an event twice or misses one.
func TestRebuild(t *testing.T) {
	for _, who := range []string{"follower", "leader"} {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cluster.Start(t, cluster.Heartbeat(time.Second), periodic(time.Minute))
				fill(c)
				for i := range 20 {
					c.Put(fmt.Sprint("k", i), fmt.Sprint("precious-", i, "."))
				}
				c.WaitApplied()
				m := c.Leader()
				if who == "follower" {
					m = c.Follower()
				}
				rot(t, m, "precious-7.")
				before := m.Server()
				watched := m.Watch(&pb.WatchCreateRequest{Key: []byte("load0")})
				l := startLoad(c, t)
				time.Sleep(time.Second)

				// The alarm is not raised yet; the rebuild finds by itself who is right.
				result, err := m.Server().Rebuild(t.Context(), server.RebuildOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if result.From == 0 || result.From == m.Server().ID() || result.Hash == 0 {
					t.Errorf("%+v", result)
				}
				time.Sleep(time.Second)
				l.stop(t)
				if m.Server() != before {
					t.Error("the member was restarted")
				}
				sameHashes(t, c)
				last := l.acked[0].Load()
				next := int64(1)
				for next <= last {
					resp, err := watched.Next()
					if err != nil {
						t.Fatal(err)
					}
					for _, ev := range resp.Events {
						var n int64
						fmt.Sscan(string(ev.Kv.Value), &n)
						if n != next {
							t.Fatalf("the watcher expected %d and got %d", next, n)
						}
						next++
					}
				}
				m.Restart()
				sameHashes(t, c)
			})
		})
	}
}

// The alarm is raised, the rebuild puts things right and lowers it; only then can be written again.
func TestRebuildDisarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), periodic(time.Minute))
		fill(c)
		c.Put("k", "precious")
		c.WaitApplied()
		m := c.Follower()
		rot(t, m, "precious")
		m.WaitAlarm(pb.AlarmType_CORRUPT, false)
		c.WaitFor(3*time.Minute, "the alarm", func() bool { return len(corruptAlarms(c)) == 1 })
		result, err := m.Server().Rebuild(t.Context(), server.RebuildOptions{Disarm: true})
		if err != nil || !result.Disarmed {
			t.Fatalf("%+v, %v", result, err)
		}
		m.WaitAlarm(pb.AlarmType_CORRUPT, false)
		c.Put("k", "again")
		sameHashes(t, c)
	})
}

// What came into the log while the image was on its way is applied again: leases, compactions and membership changes too.
func TestRebuildAppliesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second))
		fill(c)
		var rev int64
		for i := range 100 {
			rev = c.Put(fmt.Sprint("k", i), fmt.Sprint("precious-", i, "."))
		}
		c.WaitApplied()
		m := c.Follower()
		rot(t, m, "precious-7.")
		other := c.Leader()
		cli := other.NewClient()
		// The image is on its way for long, since the link is slow, and meanwhile everything happens.
		for _, from := range c.Members() {
			if from != m {
				c.SlowLink(from, m, 200*time.Millisecond, 0)
			}
		}
		done := make(chan error, 1)
		go func() {
			_, err := m.Server().Rebuild(t.Context(), server.RebuildOptions{})
			done <- err
		}()
		lease, err := cli.Grant(t.Context(), 600)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 60 {
			if _, err := cli.Put(t.Context(), fmt.Sprint("l", i), "x", clientv3.WithLease(lease.ID)); err != nil {
				t.Fatal(err)
			}
			if i == 30 {
				if _, err := cli.Compact(t.Context(), rev-50); err != nil {
					t.Fatal(err)
				}
			}
			if i == 40 {
				if _, err := cli.MemberAddAsLearner(t.Context(), []string{"http://127.9.9.9:2380"}); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		c.WaitApplied()
		ttl, err := m.Client().TimeToLive(t.Context(), lease.ID, clientv3.WithAttachedKeys())
		if err != nil || len(ttl.Keys) != 60 {
			t.Fatalf("%d keys of the lease, %v", len(ttl.Keys), err)
		}
		members, err := m.Client().MemberList(t.Context())
		if err != nil || len(members.Members) != 4 {
			t.Fatalf("%v, %v", members, err)
		}
		sameHashes(t, c)
		c.Put("k", "goes on")
		m.Kill()
		m.Restart()
		sameHashes(t, c)
	})
}

func TestRebuildRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alone := cluster.Start(t, cluster.Members(1))
		_, err := alone.Member(0).Server().Rebuild(t.Context(), server.RebuildOptions{})
		if err == nil || !strings.Contains(err.Error(), "restore a backup") {
			t.Errorf("alone: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(2))
		fill(c)
		c.Put("k", "precious")
		c.WaitApplied()
		m := c.Follower()
		rot(t, m, "precious")
		if _, err := m.Server().Rebuild(t.Context(), server.RebuildOptions{}); err == nil || !strings.Contains(err.Error(), "majority") {
			t.Errorf("a tie: %v", err)
		}
		if _, err := m.Server().Rebuild(t.Context(), server.RebuildOptions{From: m.Server().ID()}); err == nil {
			t.Error("rebuilt from itself")
		}
		if _, err := m.Server().Rebuild(t.Context(), server.RebuildOptions{From: c.Leader().Server().ID()}); err != nil {
			t.Errorf("from a member that is named: %v", err)
		}
		sameHashes(t, c)
	})
}

// Members die while one of them is being rebuilt: the rebuilt one or the one whose database it takes. Nothing is lost, and
// the next rebuild works.
func TestRebuildWithKills(t *testing.T) {
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cluster.Start(t, cluster.Heartbeat(time.Second))
				fill(c)
				for j := range 50 {
					c.Put(fmt.Sprint("k", j), fmt.Sprint("precious-", j, ".", strings.Repeat("v", 1000)))
				}
				c.WaitApplied()
				m, source := c.Follower(), c.Leader()
				rot(t, m, "precious-7.")
				for _, other := range c.Members() {
					if other != m {
						c.SlowLink(other, m, 20*time.Millisecond, 0)
					}
				}
				done := make(chan error, 1)
				s, from := m.Server(), source.Server().ID()
				go func() {
					ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
					defer cancel()
					_, err := s.Rebuild(ctx, server.RebuildOptions{From: from})
					done <- err
				}()
				time.Sleep(time.Duration(40+i/2*120) * time.Millisecond)
				victim := []*cluster.Member{m, source}[i%2]
				victim.Kill()
				victim.Restart()
				t.Logf("killed %s, which is rebuilt: %v: %v", victim.Name, victim == m, <-done)
				if left, _ := filepath.Glob(filepath.Join(m.DataDir(), "member", "snap", "tmp*")); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
				if _, err := m.Server().Rebuild(t.Context(), server.RebuildOptions{}); err != nil {
					t.Fatal(err)
				}
				c.Put("k", "goes on")
				sameHashes(t, c)
				m.Kill()
				m.Restart()
				sameHashes(t, c)
			})
		})
	}
}
