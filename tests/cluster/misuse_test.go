package cluster_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// victim is a test that is meant to fail: it notes how and goes on living.
type victim struct {
	*testing.T
	said string
}

func (v *victim) Fatalf(format string, args ...any) {
	v.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
func (v *victim) Fatal(args ...any) { v.Fatalf("%s", fmt.Sprint(args...)) }

func TestMisuseIsExplained(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*cluster.Cluster)
		want []string
	}{
		{"verb on a stopped member", func(c *cluster.Cluster) { c.Member(0).Stop(); c.Member(0).Defrag() },
			[]string{"Defrag of m0: it is stopped; Restart it first"}},
		{"stop twice", func(c *cluster.Cluster) { c.Member(0).Stop(); c.Member(0).Stop() },
			[]string{"Stop of m0: it is stopped; Restart it first"}},
		{"kill twice", func(c *cluster.Cluster) { c.Member(0).Kill(); c.Member(0).Kill() }, []string{"Kill of m0: it is stopped"}},
		{"verb on a paused member", func(c *cluster.Cluster) { c.Member(1).Pause(); c.Member(1).Client() },
			[]string{"Client of m1: it is paused; Resume it first"}},
		{"resume of one that runs", func(c *cluster.Cluster) { c.Member(1).Resume() }, []string{"it is not paused"}},
		{"no such member", func(c *cluster.Cluster) { c.Member(3) }, []string{"there are 3 members, counted from 0"}},
		{"a leader without a quorum", func(c *cluster.Cluster) { c.Member(0).Stop(); c.Member(1).Kill(); c.Leader() },
			[]string{"would never end", "1 of 3 voters run, 2 are needed", "m0 is stopped"}},
		{"a wait that never ends", func(c *cluster.Cluster) { c.Wait("doomsday", func() bool { return false }) },
			[]string{"waited 30s in vain for doomsday", "m2 runs and follows m"}},
		{"client of nobody", func(c *cluster.Cluster) {
			for _, m := range c.Members() {
				m.Stop()
			}
			c.Client()
		}, []string{"every member is stopped or paused"}},
		{"partition of all", func(c *cluster.Cluster) { c.Partition(c.Members()...) }, []string{"leaves nothing to cut off"}},
		{"wiping what runs", func(c *cluster.Cluster) { c.Member(0).Wipe() }, []string{"Stop or Kill it first"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &victim{T: t}
				done := make(chan struct{})
				go func() {
					defer close(done)
					c.do(cluster.Start(v))
				}()
				<-done
				for _, want := range c.want {
					if !strings.Contains(v.said, want) {
						t.Errorf("it said %q, which lacks %q", v.said, want)
					}
				}
			})
		})
	}
}

// A watcher that nothing happens to does not wait for ever.
func TestWatcherGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(1))
		w := c.Member(0).Watch(&pb.WatchCreateRequest{Key: []byte("k")})
		if _, err := w.NextWithin(time.Hour); err == nil || !strings.Contains(err.Error(), "nothing within 1h0m0s") {
			t.Fatal(err)
		}
	})
}
