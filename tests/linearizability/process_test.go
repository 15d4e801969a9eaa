package linearizability_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/linearizability"
	"github.com/upkeep-kv/upkeep/tests/longrun"
	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestProcesses runs clusters of three real processes and breaks them in ways that follow from the seed. The first has a
// disk of its own, which can be full, and all have disks that can be slow.
func TestProcesses(t *testing.T) {
	first, given := longrun.Seed(t, 1)
	total := longrun.Length(t, 8*time.Second)
	end := time.Now().Add(total)
	for seed := first; seed == first || (!given && time.Now().Before(end) && !t.Failed()); seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { runProcesses(t, seed, min(total, 20*time.Second)) })
	}
}

func runProcesses(t *testing.T, seed uint64, length time.Duration) {
	n := startProcesses(t, seed)
	var endpoints []linearizability.Endpoint
	for _, m := range n.members {
		endpoints = append(endpoints, linearizability.Endpoint{Name: m.Name, URL: m.ClientURL})
	}
	n.rec = linearizability.NewRecorder(seed)
	run, err := linearizability.StartLoad(n.rec, seed, endpoints, linearizability.Load{
		Clients: 9, Keys: 8, Timeout: 2 * time.Second, Pause: 15 * time.Millisecond, Tasters: 3, LeaseTTL: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.run = run
	for end := time.Now().Add(length); time.Now().Before(end); {
		n.step()
	}
	n.network.heal()
	for _, m := range n.members {
		m.WaitReady()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	h, err := run.Finish(ctx)
	report := linearizability.Check(h)
	t.Logf("seed %d: %v, %d faults: %v", seed, h.Took.Round(time.Millisecond), len(h.Faults), report)
	if err != nil {
		t.Error(err)
		linearizability.Keep(t, h, report)
		return
	}
	linearizability.Require(t, h, report)
}

// processes is a cluster of processes and what breaks it. A step brings one fault, does some maintenance while it lasts,
// and heals it.
type processes struct {
	t       *testing.T
	program string
	flags   []string
	network *network
	members []*proc.Member
	pids    []*atomic.Int64 // of members, for the network; 0 while not running
	random  *rand.Rand
	rec     *linearizability.Recorder
	run     *linearizability.Run
	gates   []*proc.SyncGate
	disk    *smallDisk // of the first member
	added   int
}

func startProcesses(t *testing.T, seed uint64) *processes {
	n := &processes{
		t: t, program: proc.Build(t, "upkeep"), network: newNetwork(t), random: rand.New(rand.NewPCG(seed, 77)),
		flags: []string{"--snapshot-count=300", "--snapshot-catchup-entries=100", "--watch-progress-notify-interval=300ms",
			"--heartbeat-interval=50", "--election-timeout=500"},
	}
	n.disk = newSmallDisk(t)
	if n.disk.err != nil {
		t.Logf("no disk will be full, since none can be mounted here: %v", n.disk.err)
	}
	dirs := []string{n.disk.dir, t.TempDir(), t.TempDir()}
	var initial []string
	for i, dir := range dirs {
		m := n.prepare(dir, fmt.Sprintf("m%d", i))
		initial = append(initial, m.Name+"="+m.PeerURL)
	}
	n.flags = append(n.flags, "--initial-cluster="+strings.Join(initial, ","))
	// The founders need each other's ports to be described, so they are described a second time.
	for i, m := range n.members {
		n.members[i] = proc.Prepare(t, n.program, m.Name, m.DataDir, m.PeerURL, append(n.flags, listen(m))...)
		n.gates = append(n.gates, n.members[i].GateSyncs())
		n.launch(i)
	}
	for _, m := range n.members {
		m.WaitReady()
	}
	return n
}

// prepare describes a member behind the network and adds it to the list.
func (n *processes) prepare(dir, name string, flags ...string) *proc.Member {
	n.t.Helper()
	pid := &atomic.Int64{}
	target := fmt.Sprintf("127.0.0.1:%d", ports.Free(n.t, 1)[0])
	address := n.network.join(n.t, name, target, func() int { return int(pid.Load()) })
	flags = append(append(flags, n.flags...), "--listen-peer-urls=http://"+target)
	m := proc.Prepare(n.t, n.program, name, dir+"/"+name, "http://"+address, flags...)
	n.members, n.pids = append(n.members, m), append(n.pids, pid)
	return m
}

// listen returns the flag that a prepared member has for where it really listens.
func listen(m *proc.Member) string {
	args := m.Arguments()
	return args[len(args)-1]
}

func (n *processes) launch(i int) {
	n.members[i].Launch()
	n.pids[i].Store(int64(n.members[i].Pid()))
}

func (n *processes) kill(i int) {
	n.pids[i].Store(0)
	n.members[i].Kill()
}

func (n *processes) wait(most time.Duration) {
	time.Sleep(time.Duration(n.random.Int64N(int64(most)))) // a random moment is the point
}

func (n *processes) step() {
	n.wait(300 * time.Millisecond)
	if n.random.IntN(8) == 0 {
		n.replaceMember()
		return
	}
	heal := n.fault()
	for range n.random.IntN(4) {
		n.wait(400 * time.Millisecond)
		n.maintain()
	}
	n.wait(2 * time.Second)
	heal()
	n.rec.Fault("healed")
}

// fault brings a random fault and returns what ends it.
func (n *processes) fault() (heal func()) {
	p := n.random.Perm(3)
	one, two, three := n.members[p[0]].Name, n.members[p[1]].Name, n.members[p[2]].Name
	switch n.random.IntN(12) {
	case 0, 1:
		n.rec.Fault("%s is killed", one)
		n.kill(p[0])
		return func() { n.launch(p[0]) }
	case 2:
		n.rec.Fault("all are killed")
		for _, i := range p {
			n.kill(i)
		}
		for _, i := range p {
			n.launch(i)
		}
		return func() {}
	case 3:
		n.rec.Fault("%s is paused", one)
		pid := n.members[p[0]].Pid()
		_ = syscall.Kill(pid, syscall.SIGSTOP)
		return func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
	case 4:
		n.rec.Fault("%s stutters", one)
		return n.stutter(n.members[p[0]].Pid())
	case 5:
		n.rec.Fault("%s is cut off from the others", one)
		n.network.partition(one, two, three)
		return n.network.heal
	case 6:
		n.rec.Fault("%s and %s do not see each other, %s sees both", one, two, three)
		n.network.partition(one, two)
		return n.network.heal
	case 7:
		n.rec.Fault("%s is not heard by the others", one)
		n.network.drop(one, two)
		n.network.drop(one, three)
		return n.network.heal
	case 8:
		return n.slowDisk(p[0])
	case 9, 10:
		if n.disk.err != nil {
			return n.slowDisk(p[0])
		}
		return n.diskFull()
	default:
		n.rec.Fault("%s is slow to reach", one)
		n.network.slow(one, two, 100*time.Millisecond)
		n.network.slow(one, three, 100*time.Millisecond)
		return n.network.heal
	}
}

// stutter lets a process run only a tenth of the time, as on a machine or disk that is too slow.
func (n *processes) stutter(pid int) (heal func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			_ = syscall.Kill(pid, syscall.SIGSTOP)
			time.Sleep(90 * time.Millisecond)
			_ = syscall.Kill(pid, syscall.SIGCONT)
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() { close(done); <-ended }
}

// maintain asks one member for maintenance. Under a fault it may fail; what it does to clients is what counts.
func (n *processes) maintain() {
	i := n.random.IntN(3)
	member := n.members[i]
	client := member.Client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	what, err := "", error(nil)
	switch n.random.IntN(5) {
	case 0, 1:
		rev := n.run.Collected() - n.random.Int64N(50)
		if rev < 2 {
			return
		}
		what = fmt.Sprintf("compact at %d", rev)
		n.run.Compact(i, rev)
	case 2:
		what = "defragment"
		_, err = client.Defragment(ctx, member.ClientURL)
	case 3:
		what = "snapshot"
		err = drain(client.Snapshot(ctx))
	default:
		to := n.members[n.random.IntN(3)]
		what = "move the lead to " + to.Name
		err = n.moveLead(ctx, client, member, to)
	}
	n.rec.Fault("%s on %s: %v", what, member.Name, err)
}

// moveLead asks member, whether it leads or not, to give the lead to another.
func (n *processes) moveLead(ctx context.Context, client *clientv3.Client, member, to *proc.Member) error {
	list, err := client.MemberList(ctx)
	if err != nil {
		return err
	}
	for _, m := range list.Members {
		if m.Name == to.Name {
			_, err = client.MoveLeader(ctx, m.ID)
			return err
		}
	}
	return fmt.Errorf("%s is not among the members of %s", to.Name, member.Name)
}

// replaceMember adds a fourth member as a learner, promotes it, has it in the cluster for a moment and removes it.
func (n *processes) replaceMember() {
	client := n.members[n.random.IntN(3)].Client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	n.added++
	name := fmt.Sprintf("extra%d", n.added)
	m := n.prepare(n.t.TempDir(), name)
	last := len(n.members) - 1
	defer func() { // the list is of the three that clients use
		n.kill(last)
		n.members, n.pids = n.members[:last], n.pids[:last]
	}()
	added, err := client.MemberAddAsLearner(ctx, []string{m.PeerURL})
	if err != nil {
		n.rec.Fault("%s is not added: %v", name, err)
		n.removeExtras(ctx, client)
		return
	}
	initial := fmt.Sprintf("--initial-cluster=%s,%s=%s", strings.TrimPrefix(n.flags[len(n.flags)-1], "--initial-cluster="), name, m.PeerURL)
	m = proc.Prepare(n.t, n.program, name, m.DataDir, m.PeerURL, append(n.flags, initial, "--initial-cluster-state=existing", listen(m))...)
	n.members[last] = m
	n.launch(last)
	n.rec.Fault("%s is added as a learner", name)
	for err = ctx.Err(); ctx.Err() == nil; {
		if _, err = client.MemberPromote(ctx, added.Member.ID); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond) // between two requests
	}
	n.rec.Fault("%s is promoted: %v", name, err)
	if err == nil {
		n.wait(time.Second)
		if n.random.IntN(2) == 0 {
			n.rec.Fault("%s is killed", name)
			n.kill(last)
		}
	}
	ctx, cancel = context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	n.removeExtras(ctx, client)
}

// removeExtras removes all members but the first three.
func (n *processes) removeExtras(ctx context.Context, client *clientv3.Client) {
	for ctx.Err() == nil {
		list, err := client.MemberList(ctx)
		if err == nil && len(list.Members) == 3 {
			n.rec.Fault("three members are left")
			return
		}
		if err == nil {
			for _, m := range list.Members {
				if !strings.HasPrefix(m.Name, "m") {
					_, err = client.MemberRemove(ctx, m.ID)
				}
			}
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // between two requests
		}
	}
	n.t.Errorf("the fourth member could not be removed")
}
