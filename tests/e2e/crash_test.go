package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/longrun"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestKillNine kills members at random moments, under load and in the middle of defragmentations and compactions. What
// was acknowledged must be there after the last restart, on every member alike.
func TestKillNine(t *testing.T) {
	length := longrun.Length(t, 20*time.Second) / 2
	for _, members := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d members", members), func(t *testing.T) {
			c := proc.Start(t, proc.Build(t, "upkeep"), members, "--snapshot-count=500", "--snapshot-catchup-entries=200")
			load := startLoad(t, c)
			deadline := time.Now().Add(length)
			random := rand.New(rand.NewPCG(uint64(members), 7))
			kills := 0
			for time.Now().Before(deadline) {
				m := c.Members[random.IntN(members)]
				time.Sleep(time.Duration(random.IntN(800)) * time.Millisecond) // a random moment is the point here
				m.Kill()
				kills++
				m.Restart()
			}
			load.stop()
			if load.acknowledged.Load() == 0 {
				t.Fatal("nothing was written")
			}
			t.Logf("%d kills, %d acknowledged writes, %d defragmentations", kills, load.acknowledged.Load(), load.defrags.Load())
			load.check(t, c)
		})
	}
}

// load writes counters, each key by one writer, and remembers the last acknowledged value of each.
type load struct {
	cancel       context.CancelFunc
	done         sync.WaitGroup
	acknowledged atomic.Int64
	defrags      atomic.Int64
	last         []int64 // last acknowledged value of each writer
}

const writers = 8

func startLoad(t *testing.T, c *proc.Cluster) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, last: make([]int64, writers)}
	client := c.Client()
	for w := range writers {
		l.done.Go(func() { l.write(ctx, client, w) })
	}
	for _, m := range c.Members {
		one := m.Client()
		l.done.Go(func() { l.maintain(ctx, one) })
	}
	return l
}

func (l *load) write(ctx context.Context, client *clientv3.Client, w int) {
	key := fmt.Sprintf("counter-%d", w)
	for n := int64(1); ctx.Err() == nil; n++ {
		once, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := client.Put(once, key, strconv.FormatInt(n, 10))
		cancel()
		if err == nil {
			l.last[w] = n
			l.acknowledged.Add(1)
		}
	}
}

// maintain compacts and defragments one member all the time; failures are expected while it is down.
func (l *load) maintain(ctx context.Context, client *clientv3.Client) {
	for ctx.Err() == nil {
		once, cancel := context.WithTimeout(ctx, 5*time.Second)
		if resp, err := client.Get(once, "x"); err == nil {
			_, _ = client.Compact(once, resp.Header.Revision)
		}
		if _, err := client.Defragment(once, client.Endpoints()[0]); err == nil {
			l.defrags.Add(1)
		}
		cancel()
	}
}

func (l *load) stop() {
	l.cancel()
	l.done.Wait()
}

// check compares every member with what was acknowledged, and the members' histories with each other.
func (l *load) check(t *testing.T, c *proc.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, m := range c.Members {
		client := m.Client()
		for w, want := range l.last {
			resp, err := client.Get(ctx, fmt.Sprintf("counter-%d", w))
			if err != nil {
				t.Fatal(err)
			}
			got := int64(0)
			if len(resp.Kvs) > 0 {
				got, _ = strconv.ParseInt(string(resp.Kvs[0].Value), 10, 64)
			}
			if got < want {
				t.Errorf("%s: counter %d is %d, but %d was acknowledged", m.Name, w, got, want)
			}
		}
	}
	checkHashes(t, c)
}

// checkHashes waits until all members have the same history. It is asked for at a revision of its own: at one that was
// compacted to, a member that has run since answers with the hash that it remembers, which looks at the history from
// further back. So does etcd. A compaction that a writer had given up may still come, so one difference proves nothing.
func checkHashes(t *testing.T, c *proc.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	hashes := map[string]bool{}
	for range 5 {
		last, err := c.Client().Put(ctx, "last", "")
		if err != nil {
			t.Fatal(err)
		}
		clear(hashes)
		for _, m := range c.Members {
			client := m.Client()
			if _, err := client.Get(ctx, "last"); err != nil {
				t.Fatal(err)
			}
			hash, err := client.HashKV(ctx, m.ClientURL, last.Header.Revision)
			if err != nil {
				t.Fatal(err)
			}
			hashes[fmt.Sprintf("%d of %d to %d", hash.Hash, hash.CompactRevision, hash.HashRevision)] = true
		}
		if len(hashes) == 1 {
			return
		}
	}
	t.Errorf("the members differ: %v", hashes)
}
