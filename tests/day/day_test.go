package day

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server"
	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/tests/cluster"
	"github.com/upkeep-kv/upkeep/tests/longrun"
)

// day is one cluster for a day.
type day struct {
	t    *testing.T
	c    *cluster.Cluster
	rng  *rand.Rand
	load *load
	over *overseer
	keep *keeper
	// largest is how large any member's file was when the hour was full.
	largest int64
}

// TestDay lives one day, and with UPKEEP_TEST_SECONDS as many as fit.
func TestDay(t *testing.T) {
	length, long := longrun.Length(t, 0), longrun.Asked(t)
	first := uint64(1)
	if long {
		first = uint64(time.Now().UnixNano()) // other days each time
	}
	seed, only := longrun.Seed(t, first)
	for end := time.Now().Add(length); ; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			repository := t.TempDir() // outlives the bubble's members
			synctest.Test(t, func(t *testing.T) { live(t, seed, repository) })
		})
		if t.Failed() || only || !time.Now().Before(end) {
			return
		}
	}
}

func live(t *testing.T, seed uint64, repository string) {
	d := &day{t: t, rng: rand.New(rand.NewPCG(seed, 0))}
	d.c = cluster.Start(t, cluster.Seed(seed), cluster.Heartbeat(5*time.Second), cluster.Quota(quotaBytes),
		cluster.Retention(retention), cluster.DefragRule(defragRule), cluster.Upkeep(func(u *config.Upkeep) {
			u.DefragMinInterval, u.Window, u.RecoverNoSpace, u.CheckInterval = minInterval, defragWindow, true, checkInterval
			u.DefragMoveLeader = seed%2 == 0
		}), cluster.Configure(func(c *config.Config) { c.SnapshotCount, c.SnapshotCatchUpEntries = 500, 100 }), backedUp(repository, seed%3 == 0))
	d.keep = newKeeper(t, repository)
	d.over = oversee(d.c, d.keep.look)
	d.load = newLoad(d.c, seed, 2*time.Minute)
	t.Cleanup(func() { // before the cluster's own end
		d.load.stop()
		d.over.stop()
	})
	start := time.Now()
	d.episodes()
	d.pass(time.Until(start.Add(24 * time.Hour)))
	d.evening()
}

// episodes are what happens to the cluster, in an order of the seed's own, with quiet hours in between.
func (d *day) episodes() {
	all := []struct {
		name string
		play func()
	}{
		{"a member is down for an hour", d.memberDown},
		{"the quota runs full", d.noSpace},
		{"a bit turns over", d.flippedBit},
		{"leadership moves", d.leaderMoves},
		{"the leader dies", d.leaderDies},
		{"a member is cut off", d.cutOff},
		{"a member dies at its task", d.dieAtWork},
		{"the cluster goes back", d.goBack},
	}
	d.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	d.pass(20 * time.Minute)
	for _, e := range all {
		begun := time.Now()
		d.churn()
		d.pass(time.Duration(d.rng.Int64N(int64(time.Hour))))
		d.t.Logf("%s %s", clock(time.Now()), e.name)
		e.play()
		d.pass(time.Until(begun.Add(130 * time.Minute)))
	}
}

// pass lets time go by, and looks at the members every quarter of an hour.
func (d *day) pass(left time.Duration) {
	d.t.Helper()
	for left > 0 {
		step := min(left, 15*time.Minute)
		time.Sleep(step)
		left -= step
		d.check()
	}
}

// check fails the test as soon as something is wrong.
func (d *day) check() {
	d.t.Helper()
	if problem := d.load.history.Problem(); problem != "" {
		d.t.Fatal(problem)
	}
	for _, problem := range d.over.Problems() {
		d.t.Error(problem)
	}
	if d.t.Failed() {
		d.t.Fatalf("events:\n%s", d.c.EventLines(d.c.Events(0)))
	}
	for _, m := range d.c.Members() {
		if s := m.Server(); s != nil {
			d.largest = max(d.largest, s.Figures().File)
		}
	}
}

// churn writes a few megabytes and deletes them, so that there is something to compact and to defragment.
func (d *day) churn() {
	rev := d.fill(64, func(i int) string { return fmt.Sprint("churn/", i) })
	if rev == 0 {
		return // no room for it
	}
	for i := range 64 {
		d.delete(fmt.Sprint("churn/", i))
	}
}

func (d *day) memberDown() {
	m := d.c.Follower()
	d.kill(m)
	d.pass(time.Hour)
	d.restart(m)
}

func (d *day) leaderMoves() {
	for range 3 {
		d.c.MoveLeader(d.c.Follower())
		d.pass(time.Duration(d.rng.Int64N(int64(20 * time.Minute))))
	}
}

func (d *day) leaderDies() {
	m := d.c.Leader()
	d.kill(m)
	d.pass(time.Duration(d.rng.Int64N(int64(10 * time.Minute))))
	d.restart(m)
}

func (d *day) cutOff() {
	m := d.c.Members()[d.rng.IntN(3)]
	d.over.setDown(m, true)
	d.c.Partition(m)
	d.pass(20 * time.Minute)
	d.over.setDown(m, false)
	d.c.Heal()
	d.c.WaitApplied()
}

// dieAtWork kills a member in the middle of a task that was asked for.
func (d *day) dieAtWork() {
	m := d.c.Follower()
	m.SlowDisk(10 * time.Second)
	run := d.ask(schedulepb.Kind_DEFRAG, m)
	d.c.WaitFor(10*time.Minute, "the task to begin", func() bool {
		open := d.c.Leader().OpenTask()
		return open.GetRun() == run && open.GetReports() > 0 && m.AtWork()
	})
	d.kill(m)
	m.SlowDisk(0)
	d.pass(time.Duration(d.rng.Int64N(int64(10 * time.Minute))))
	d.restart(m)
	d.finished(run)
}

// noSpace fills the quota. What fills it is history, which may be compacted after an hour; the members get out by themselves.
func (d *day) noSpace() {
	if d.fill(4*quotaBytes/valueBytes, func(int) string { return "filler" }) != 0 {
		d.t.Fatal("the quota was never full")
	}
	d.c.Wait("the alarm", func() bool { return len(d.c.Alarms()) > 0 })
	d.c.WaitFor(3*time.Hour, "the members to get out of NOSPACE", func() bool { return len(d.c.Leader().Server().Alarms()) == 0 })
	d.c.Put("room", "again")
	d.check()
}

// flippedBit damages a follower's file. The members find that by themselves within the interval; the operator has the
// member rebuilt.
func (d *day) flippedBit() {
	m := d.c.Follower()
	value := fmt.Sprintf("precious-%d.", d.rng.Int64())
	d.c.Put(rottenKey, value)
	resume := d.load.quiet()
	rot(d.t, m, value)
	resume()
	d.c.WaitFor(checkInterval+time.Hour, "the flipped bit to be found", func() bool {
		alarms := d.c.Leader().Server().Alarms()
		return len(alarms) == 1 && alarms[0].MemberID == m.Server().ID() && int32(alarms[0].Alarm) == int32(pb.AlarmType_CORRUPT)
	})
	d.over.setCorrupt(m)
	d.pass(10 * time.Minute)
	d.finished(d.ask(schedulepb.Kind_REBUILD, m, &schedulepb.Parameter{Name: "disarm", Value: "true"}))
	d.over.setCorrupt(nil)
	m.WaitAlarm(pb.AlarmType_CORRUPT, false)
	m.Repaired()
}

// goBack takes the running cluster back to one of its revisions of the last hour.
func (d *day) goBack() {
	resume := d.load.quiet()
	defer resume()
	d.c.WaitApplied()
	leader, h := d.c.Leader(), d.load.history
	d.c.Wait("the watchers to be level", func() bool { return h.Last() >= leader.Server().Revision() })
	to := h.Last() - 1 - d.rng.Int64N(max(1, min(50, h.Last()-leader.Server().CompactRevision()-2)))
	result, err := d.c.Members()[d.rng.IntN(3)].Server().RestoreOnline(d.t.Context(), server.RestoreOnlineOptions{ToRevision: to})
	if err != nil {
		d.t.Fatalf("going back to revision %d: %v", to, err)
	}
	h.restored(result.Revision, result.Restored)
	for _, m := range d.c.Members() {
		if diff := difference(d.read(m), h.State(result.Revision)); diff != "" {
			d.t.Fatalf("%s after going back to revision %d: %s", m.Name, to, diff)
		}
	}
}

// evening compares what is left at the end of the day with what it ought to be.
func (d *day) evening() {
	d.check()
	d.load.stop()
	d.c.WaitApplied()
	d.c.CheckHashes()
	d.load.history.checkAcknowledged()
	d.load.history.checkPassed()
	d.checkMembers()
	if problem := d.load.history.Problem(); problem != "" {
		d.t.Error(problem)
	}
	d.over.mu.Lock()
	defer d.over.mu.Unlock()
	for kind, atLeast := range map[schedulepb.Kind]int{
		schedulepb.Kind_DEFRAG: 6, schedulepb.Kind_BACKUP: 40, schedulepb.Kind_CHECK: 6, schedulepb.Kind_REBUILD: 1, schedulepb.Kind_RECOVER: 1,
	} {
		if d.over.done[kind] < atLeast {
			d.t.Errorf("%s was done %d times, at least %d were expected:\n%s", kind, d.over.done[kind], atLeast, d.c.EventLines(d.c.Events(0)))
		}
	}
	restored := d.keep.restores(d, 6)
	d.t.Logf("%d requests, %d refused, %d reads of the past, %d revisions, %d told; tasks %v, results %v; %d restores, largest file %d bytes",
		d.load.requests.Load(), d.load.refused.Load(), d.load.reads.Load(), d.load.history.Last(), d.load.history.events,
		d.over.done, d.over.results, restored, d.largest)
}

// checkMembers compares every member's state with the history, and bounds what it keeps on its disk.
func (d *day) checkMembers() {
	d.t.Helper()
	want := d.load.history.State(d.load.history.Last())
	for _, m := range d.c.Members() {
		got := d.read(m)
		if diff := difference(got, want); diff != "" {
			d.t.Errorf("%s: %s", m.Name, diff)
		}
		if _, held := got[heldKey]; !held {
			d.t.Errorf("%s: the key of the lease that was kept alive is gone", m.Name)
		}
		f := m.Server().Figures()
		if f.File > quotaBytes+4<<20 || f.InUse > quotaBytes/2 {
			d.t.Errorf("%s: a file of %d bytes with %d in use", m.Name, f.File, f.InUse)
		}
		if n := len(m.LogFiles()); n > 8 {
			d.t.Errorf("%s: %d segments of the log", m.Name, n)
		}
		entries, _ := os.ReadDir(filepath.Dir(m.DatabaseFile()))
		for _, e := range entries {
			if info, err := e.Info(); err == nil && info.Mode().IsRegular() && e.Name() != "db" && info.Size() > 1<<20 {
				d.t.Errorf("%s: %s with %d bytes is left beside the database", m.Name, e.Name(), info.Size())
			}
		}
	}
}
