package linearizability_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/tests/cluster"
	"github.com/upkeep-kv/upkeep/tests/linearizability"
	"github.com/upkeep-kv/upkeep/tests/longrun"
)

// TestVirtualCluster runs clusters in this process, in virtual time, with faults that follow from the seed.
func TestVirtualCluster(t *testing.T) {
	first, given := longrun.Seed(t, 1)
	end := time.Now().Add(longrun.Length(t, 5*time.Second))
	useMemory(t)
	for seed := first; seed == first || (!given && time.Now().Before(end) && !t.Failed()); seed++ {
		start := time.Now()
		var h *linearizability.History
		synctest.Test(t, func(t *testing.T) { h = runVirtual(t, seed) })
		if h == nil {
			return
		}
		real := time.Since(start)
		report := linearizability.Check(h)
		t.Logf("seed %d: %v of virtual time in %v, %d faults: %v", seed, h.Took.Round(time.Second), real.Round(time.Millisecond),
			len(h.Faults), report)
		linearizability.Require(t, h, report)
	}
}

// useMemory puts temporary directories where no disk slows them down: nothing here is about disks.
func useMemory(t *testing.T) {
	const memory = "/dev/shm"
	if info, err := os.Stat(memory); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", memory)
	}
}

// stepsPerRun is how many faults one virtual cluster lives through. More runs find more than longer ones.
const stepsPerRun = 6

func runVirtual(t *testing.T, seed uint64) *linearizability.History {
	c := cluster.Start(t, cluster.Members(3), cluster.Configure(func(cfg *config.Config) {
		cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 200, 50
		cfg.HeartbeatInterval, cfg.ElectionTimeout = 20*time.Millisecond, 200*time.Millisecond
		cfg.WatchProgressNotifyInterval = 100 * time.Millisecond
	}))
	network := c.Network()
	var endpoints []linearizability.Endpoint
	for _, m := range c.Members() {
		endpoints = append(endpoints, linearizability.Endpoint{
			Name: m.Name, URL: m.ClientURL(),
			Options: []grpc.DialOption{grpc.WithContextDialer(network.Host("client").Dial)},
		})
		network.Delay("client", m.Host, 200*time.Microsecond, 2*time.Millisecond)
		for _, other := range c.Members() {
			network.Delay(m.Host, other.Host, 200*time.Microsecond, 2*time.Millisecond)
		}
	}
	rec := linearizability.NewRecorder(seed)
	run, err := linearizability.StartLoad(rec, seed, endpoints, linearizability.Load{
		Clients: 9, Keys: 8, Timeout: 500 * time.Millisecond, Pause: 10 * time.Millisecond, Tasters: 3, LeaseTTL: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	n := &virtualNemesis{t: t, c: c, run: run, rec: rec, random: rand.New(rand.NewPCG(seed, 99))}
	for range stepsPerRun {
		n.step()
	}
	network.HealAll()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	h, err := run.Finish(ctx)
	if err != nil {
		t.Errorf("seed %d: %v", seed, err)
		linearizability.Keep(t, h, linearizability.Check(h))
		return nil
	}
	return h
}

// virtualNemesis breaks a virtual cluster. A step brings one fault, does some maintenance while it lasts, and heals it.
type virtualNemesis struct {
	t      *testing.T
	c      *cluster.Cluster
	run    *linearizability.Run
	rec    *linearizability.Recorder
	random *rand.Rand
}

func (n *virtualNemesis) wait(most time.Duration) {
	time.Sleep(time.Duration(n.random.Int64N(int64(most))))
}

func (n *virtualNemesis) members() (one, two, three *cluster.Member) {
	p := n.random.Perm(3)
	return n.c.Member(p[0]), n.c.Member(p[1]), n.c.Member(p[2])
}

func (n *virtualNemesis) step() {
	n.wait(150 * time.Millisecond)
	heal := n.fault()
	for range n.random.IntN(4) {
		n.wait(100 * time.Millisecond)
		n.maintain()
	}
	n.wait(800 * time.Millisecond)
	heal()
	n.rec.Fault("healed")
}

// fault brings a random fault and returns what ends it.
func (n *virtualNemesis) fault() (heal func()) {
	network := n.c.Network()
	one, two, three := n.members()
	switch n.random.IntN(11) {
	case 0:
		n.rec.Fault("%s is cut off from the others", one.Name)
		network.Partition(one.Host, two.Host)
		network.Partition(one.Host, three.Host)
		return network.HealAll
	case 1:
		n.rec.Fault("%s and %s do not see each other, %s sees both", one.Name, two.Name, three.Name)
		network.Partition(one.Host, two.Host)
		return network.HealAll
	case 2:
		n.rec.Fault("%s is not heard by the others", one.Name)
		network.Drop(one.Host, two.Host)
		network.Drop(one.Host, three.Host)
		return network.HealAll
	case 3:
		n.rec.Fault("nobody sees anybody")
		network.Partition(one.Host, two.Host)
		network.Partition(one.Host, three.Host)
		network.Partition(two.Host, three.Host)
		return network.HealAll
	case 4:
		n.rec.Fault("%s is stopped", one.Name)
		one.Stop()
		return one.Restart
	case 5:
		n.rec.Fault("%s is slow to reach", one.Name)
		for _, other := range []*cluster.Member{two, three} {
			network.Delay(one.Host, other.Host, 20*time.Millisecond, 60*time.Millisecond)
		}
		return func() {
			for _, other := range []*cluster.Member{two, three} {
				network.Delay(one.Host, other.Host, 200*time.Microsecond, 2*time.Millisecond)
			}
		}
	case 6:
		n.rec.Fault("%s loses its connections, clients' too", one.Name)
		network.Crash(one.Host)
		return func() {}
	default:
		return n.diskFault(one)
	}
}

// diskFault breaks what the member's log and database are written to.
func (n *virtualNemesis) diskFault(one *cluster.Member) (heal func()) {
	switch n.random.IntN(4) {
	case 0:
		n.rec.Fault("%s loses its power, and what it had not synced", one.Name)
		one.Kill()
		return one.Restart
	case 1:
		delay := time.Duration(1+n.random.Int64N(300)) * time.Millisecond
		n.rec.Fault("every sync and commit of %s takes %v", one.Name, delay)
		one.SlowDisk(delay)
		return func() { one.SlowDisk(0) }
	case 2:
		n.rec.Fault("the disk of %s is full", one.Name)
		one.FillDisk()
		return one.EmptyDisk
	default:
		n.rec.Fault("the disk of %s is full, and it loses its power", one.Name)
		one.FillDisk()
		one.Kill()
		if err := one.TryStart(); err != nil {
			n.rec.Fault("%s does not start: %v", one.Name, err)
		}
		return func() {
			one.EmptyDisk()
			if !one.Running() {
				one.Restart()
			}
		}
	}
}

// maintain asks one member for maintenance. Under a fault it may fail; what it does to clients is what counts.
func (n *virtualNemesis) maintain() {
	member, other, _ := n.members()
	if !member.Running() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	what, err := "", error(nil)
	switch client := member.Client(); n.random.IntN(8) {
	case 0, 1, 6, 7:
		rev := n.run.Collected() - n.random.Int64N(50)
		if rev < 2 {
			return
		}
		what = fmt.Sprintf("compact at %d", rev)
		n.run.Compact(n.random.IntN(3), rev)
	case 2:
		what = "defragment"
		_, err = client.Defragment(ctx, member.ClientURL())
	case 3:
		what = "snapshot"
		err = drain(client.Snapshot(ctx))
	case 4:
		if !other.Running() {
			return
		}
		what = "move the lead to " + other.Name
		_, err = client.MoveLeader(ctx, other.Server().ID())
	default:
		what = "add and remove a learner"
		var added *clientv3.MemberAddResponse
		if added, err = client.MemberAddAsLearner(ctx, []string{"http://127.0.1.9:2380"}); err == nil {
			_, err = client.MemberRemove(ctx, added.Member.ID)
		}
		cancel()
		n.removeLearners()
	}
	n.rec.Fault("%s on %s: %v", what, member.Name, err)
}

// removeLearners takes away what an unanswered request may have added, so that the next one can add again.
func (n *virtualNemesis) removeLearners() {
	for _, m := range n.c.Members() {
		if !m.Running() {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		list, err := m.Client().MemberList(ctx)
		if err == nil {
			for _, member := range list.Members {
				if member.IsLearner {
					_, _ = m.Client().MemberRemove(ctx, member.ID)
				}
			}
		}
		cancel()
	}
}
