package simulation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/tests/cluster"
	"github.com/upkeep-kv/upkeep/tests/longrun"
)

// figures are the sums over all runs.
type figures struct {
	runs, faults, maintenance, moves, changes int
	writes, tried, reads, events, checks      int
	simulated                                 time.Duration
}

func (f *figures) add(o figures) {
	f.runs += o.runs
	f.faults += o.faults
	f.maintenance += o.maintenance
	f.moves += o.moves
	f.changes += o.changes
	f.writes += o.writes
	f.tried += o.tried
	f.reads += o.reads
	f.events += o.events
	f.checks += o.checks
	f.simulated += o.simulated
}

func (f figures) String() string {
	return fmt.Sprintf("%d runs, %.1f cluster-hours: %d faults, %d maintenance operations, %d moves of leadership, %d changes of "+
		"membership, %d writes acknowledged of %d tried, %d linearizable reads, %d revisions watched, %d checks", f.runs, f.simulated.Hours(), f.faults,
		f.maintenance, f.moves, f.changes, f.writes, f.tried, f.reads, f.events,
		f.checks)
}

// run is one simulated cluster.
type run struct {
	t        *testing.T
	c        *cluster.Cluster
	rng      *rand.Rand
	load     *load
	watchers []*watcher
	seen     *seen
	figures  figures
	patience time.Duration
	paused   map[*cluster.Member]bool
}

func TestSimulation(t *testing.T) {
	length, long := longrun.Length(t, 12*time.Second), longrun.Asked(t)
	first := uint64(1)
	if long {
		first = uint64(time.Now().UnixNano()) // other runs each time
	}
	batch := parallel
	seed, only := longrun.Seed(t, first)
	if only {
		batch = 1
	}
	var sum figures
	var mu sync.Mutex
	late := realTimer(t, length)
	for end := time.Now().Add(length); sum.runs == 0 || !only && time.Now().Before(end); seed += parallel {
		// A batch at a time, so that the files of one are removed before the next.
		t.Run("batch", func(t *testing.T) {
			for i := range batch {
				seed := seed + uint64(i)
				t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						t.Cleanup(func() {
							if t.Failed() {
								t.Logf("to repeat: UPKEEP_TEST_SEED=%d go test ./tests/simulation -count=20", seed)
							}
						})
						r := simulate(t, seed, long, late)
						mu.Lock()
						defer mu.Unlock()
						sum.add(r.figures)
					})
				})
			}
		})
		if t.Failed() {
			break
		}
	}
	fmt.Println("simulation:", sum)
}

// parallel is how many runs go on at the same time; they wait for the disk now and then.
const parallel = 3

// realTimer tells when so much real time has passed, also inside of a bubble.
func realTimer(t *testing.T, length time.Duration) (late func() bool) {
	now := func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			t.Error(err)
		}
		return time.Duration(ts.Nano())
	}
	end := now() + length
	return func() bool { return now() > end }
}

// simulate is one run. One that is late ends after the step under way, with all checks of an end.
//
// A heartbeat is what simulating costs, and elections and requests take some of them. So all times are in heartbeats, and
// with slow ones a day is as quick as an hour.
func simulate(t *testing.T, seed uint64, long bool, late func() bool) *run {
	rng := rand.New(rand.NewPCG(seed, 1))
	heartbeat := []time.Duration{200 * time.Millisecond, time.Second, time.Second, 5 * time.Second, 5 * time.Second}[rng.IntN(5)]
	length := 600 * heartbeat
	if long {
		length *= time.Duration(6 + rng.IntN(14))
	}
	r := &run{t: t, rng: rng, seen: newSeen(), paused: map[*cluster.Member]bool{}, patience: 30*time.Second + 30*heartbeat}
	options := []cluster.Option{cluster.Heartbeat(heartbeat), cluster.Seed(seed), cluster.Configure(func(c *config.Config) {
		c.SnapshotCount, c.SnapshotCatchUpEntries = 30, 10
	})}
	if rng.IntN(3) == 0 {
		options = append(options, cluster.Retention(length/4))
	}
	r.c = cluster.Start(t, options...)
	r.load = startLoad(seed, 5*heartbeat, r.patience)
	t.Cleanup(r.load.end) // also if the run fails, since a bubble waits for all that it started
	r.useClients()
	r.startWatchers(seed, heartbeat)
	start := time.Now()
	for time.Since(start) < length && !late() {
		time.Sleep(time.Duration(rng.Int64N(int64(200 * heartbeat))))
		r.step()
		r.check()
	}
	r.quiet()
	r.load.end()
	r.c.WaitApplied()
	r.check()
	r.checkAcknowledged()
	r.checkWatchers()
	members := r.c.Members()
	for _, m := range members {
		m.Stop()
	}
	r.checkLogs(members)
	r.figures.runs, r.figures.simulated = 1, time.Since(start)
	r.figures.writes = len(r.load.all())
	for _, key := range r.load.keys {
		_, tried := r.load.counts(key)
		r.figures.tried += int(tried)
	}
	return r
}

// useClients gives the writers a client for each member.
func (r *run) useClients() {
	var clients []*clientv3.Client
	for _, m := range r.c.Members() {
		clients = append(clients, m.NewClient())
	}
	r.load.use(clients)
}

// up are the members that run and answer.
func (r *run) up() []*cluster.Member {
	var out []*cluster.Member
	for _, m := range r.c.Members() {
		if m.Running() && !r.paused[m] {
			out = append(out, m)
		}
	}
	return out
}

// quiet ends all faults and waits until the cluster is whole.
func (r *run) quiet() {
	r.t.Helper()
	members := r.c.Members()
	for i, m := range members {
		if r.paused[m] {
			m.Resume()
			delete(r.paused, m)
		}
		if !m.Running() {
			m.Launch()
		}
		m.SlowDisk(0)
		m.EmptyDisk()
		for _, o := range members[:i] {
			r.c.SlowLink(m, o, 0, 0)
		}
	}
	r.c.Heal()
	for _, m := range members {
		m.WaitReady()
	}
	r.c.WaitApplied()
}

// step does one thing to the cluster.
func (r *run) step() {
	r.t.Helper()
	members := r.c.Members()
	m := members[r.rng.IntN(len(members))]
	switch n := r.rng.IntN(100); {
	case n < 12:
		r.quiet()
	case n < 55:
		r.figures.faults++
		r.fault(m, members[r.rng.IntN(len(members))])
	case n < 75:
		r.figures.maintenance++
		r.maintain(m)
	case n < 85:
		r.quiet()
		r.figures.moves++
		r.c.MoveLeader(m)
	default:
		r.quiet()
		r.changeMembership(m)
	}
}

func (r *run) fault(m, other *cluster.Member) {
	if r.paused[m] {
		m.Resume()
		delete(r.paused, m)
		return
	}
	if !m.Running() {
		m.Launch()
		return
	}
	switch r.rng.IntN(11) {
	case 0:
		m.Stop()
	case 1, 2:
		m.Kill()
	case 3:
		m.Pause()
		r.paused[m] = true
	case 4:
		if len(r.c.Members()) > 1 {
			r.c.Partition(m)
		}
	case 5:
		r.c.Mute(m, other)
	case 6:
		r.c.SlowLink(m, other, time.Duration(r.rng.Int64N(int64(2*time.Second))), time.Duration(r.rng.Int64N(int64(time.Second))))
	case 7:
		r.c.LoseMessages(m, other)
	case 8:
		m.SlowDisk(time.Duration(r.rng.Int64N(int64(time.Second))))
	case 9:
		m.FillDisk()
	case 10: // all at once
		for _, m := range r.c.Members() {
			if m.Running() {
				delete(r.paused, m)
				m.Kill()
			}
		}
		for _, m := range r.c.Members() {
			m.Launch()
		}
	}
}

// maintain asks for maintenance in the middle of whatever is broken, so errors are no failures.
func (r *run) maintain(m *cluster.Member) {
	if !m.Running() || r.paused[m] {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.patience)
	defer cancel()
	client := m.Client()
	switch r.rng.IntN(5) {
	case 0:
		rev := m.Server().Revision()
		_, _ = client.Compact(ctx, rev-r.rng.Int64N(rev), clientv3.WithCompactPhysical())
	case 1:
		_, _ = client.Defragment(ctx, m.ClientURL())
	case 2:
		if stream, err := client.Snapshot(ctx); err == nil {
			_, _ = io.Copy(io.Discard, stream)
			stream.Close()
		}
	case 3:
		r.quiet()
		r.fill(m)
	case 4:
		r.quiet()
		r.defragmentAll()
	}
}

// defragmentAll asks all members at once. They take turns: at most one is under maintenance.
func (r *run) defragmentAll() {
	r.t.Helper()
	var asked sync.WaitGroup
	for _, m := range r.up() {
		client := m.Client()
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), r.patience)
			defer cancel()
			_, _ = client.Defragment(ctx, m.ClientURL()) // leadership may move meanwhile
		})
	}
	all := make(chan struct{})
	go func() { asked.Wait(); close(all) }()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for {
		var at []string
		for _, m := range r.up() {
			if m.UnderMaintenance() {
				at = append(at, m.Name)
			}
		}
		if len(at) > 1 {
			r.t.Errorf("under maintenance at the same time: %v", at)
		}
		r.figures.checks++
		select {
		case <-look.C:
		case <-all:
			return
		}
	}
}

// fill lets a member run out of quota, sees that writes end on all members, and gives it room again.
func (r *run) fill(m *cluster.Member) {
	r.t.Helper()
	m.SetQuota(1 << 10)
	defer func() {
		m.SetQuota(0)
		r.c.Disarm()
		r.c.Put("room", "again")
	}()
	refused := false
	for range 200 {
		members := r.up()
		ctx, cancel := context.WithTimeout(context.Background(), r.patience)
		_, err := members[r.rng.IntN(len(members))].Client().Put(ctx, "filler", "x")
		cancel()
		if refused = errors.Is(err, rpctypes.ErrNoSpace); refused {
			break
		}
		time.Sleep(time.Second)
	}
	if !refused {
		r.t.Fatalf("%s is over its quota, and writes go on", m.Name)
	}
}

func (r *run) changeMembership(m *cluster.Member) {
	r.t.Helper()
	r.figures.changes++
	if n := len(r.c.Members()); n > 3 || n == 3 && r.rng.IntN(2) == 0 {
		if r.c.Leader() == m {
			r.c.MoveLeader(r.c.Follower())
		}
		r.c.RemoveMember(m)
	} else {
		learner := r.rng.IntN(2) == 0
		added := r.c.AddMember(learner)
		if learner {
			r.c.WaitApplied()
			added.Promote()
		}
	}
	r.useClients()
}
