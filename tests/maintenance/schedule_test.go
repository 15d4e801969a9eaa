package maintenance

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// unchecked leaves the comparison of the members out, so that events are of what a test is about.
func unchecked() cluster.Option {
	return cluster.Upkeep(func(u *config.Upkeep) { u.CheckInterval = 0 })
}

// fragment makes every member's file mostly free: it writes, deletes and compacts, some 3 MiB in all.
func fragment(c *cluster.Cluster) {
	value := strings.Repeat("v", 64<<10)
	rev := int64(0)
	for i := range 48 {
		rev = c.Put("big", fmt.Sprint(i)+value)
	}
	c.Compact(rev)
	for range 3 { // what a commit has freed is free as of the next one
		time.Sleep(time.Second)
		c.Put("small", "v")
	}
	for _, m := range c.Members() {
		if m.Running() {
			c.Wait(m.Name+" to have room in its file", func() bool {
				s := m.Status()
				return s.DbSize-s.DbSizeInUse > 1<<20
			})
		}
	}
}

// ended are the events of tasks, as lines.
func ended(c *cluster.Cluster, kinds ...schedulepb.Event_Type) string {
	var out []*schedulepb.Event
	for _, e := range c.Events(0) {
		for _, kind := range kinds {
			if e.Type == kind {
				short := &schedulepb.Event{Type: e.Type, Kind: e.Kind, Member: e.Member, Outcome: e.Outcome}
				if e.Type == schedulepb.Event_WAITING || e.Type == schedulepb.Event_PAUSED || e.Type == schedulepb.Event_RESUMED {
					short.Reason = e.Reason
				}
				out = append(out, short)
			}
		}
	}
	return c.EventLines(out)
}

func same(t *testing.T, got, want string) {
	t.Helper()
	if strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

const smallRule = "free > 1MiB && fragmented > 45%"

// Three members whose files are mostly free are defragmented in turn, the leader last, and not again within the hour.
func TestScheduledDefragmentation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), unchecked(), cluster.DefragRule(smallRule))
		leader := c.Leader()
		fragment(c)
		time.Sleep(5 * time.Minute)
		events := ended(c, schedulepb.Event_BEGUN, schedulepb.Event_ENDED)
		lines := strings.Split(strings.TrimSpace(events), "\n")
		if len(lines) != 6 {
			t.Fatalf("events:\n%s", c.EventLines(c.Events(0)))
		}
		for i := 0; i < len(lines); i += 2 {
			begun, name, _ := strings.Cut(lines[i], "begun defrag ")
			if begun != "" || lines[i+1] != "ended defrag "+name+" done" {
				t.Errorf("%s, then %s", lines[i], lines[i+1])
			}
		}
		if lines[4] != "begun defrag "+leader.Name {
			t.Errorf("the leader %s was not the last:\n%s", leader.Name, events)
		}
		for _, m := range c.Members() {
			if s := m.Status(); s.DbSize > 1<<20 {
				t.Errorf("the file of %s still has %d bytes", m.Name, s.DbSize)
			}
		}
		fragment(c)
		time.Sleep(30 * time.Minute)
		same(t, ended(c, schedulepb.Event_BEGUN, schedulepb.Event_ENDED), events)
		time.Sleep(40 * time.Minute)
		if again := ended(c, schedulepb.Event_ENDED); strings.Count(again, "\n") != 6 {
			t.Errorf("an hour later:\n%s", again)
		}
	})
}

// A small database is left alone by the flags that a member has without any.
func TestSmallDatabasesAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), unchecked())
		fragment(c)
		time.Sleep(20 * time.Minute)
		same(t, c.EventLines(c.Events(0)), "")
	})
}

// While a member is down nothing begins, and the reason is there to read; when it is back, all goes on.
func TestMemberThatIsDownHoldsMaintenanceUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), unchecked(), cluster.DefragRule(smallRule))
		down := c.Follower()
		down.Kill()
		fragment(c)
		time.Sleep(10 * time.Minute)
		same(t, ended(c, schedulepb.Event_BEGUN), "")
		waiting := c.Leader().Maintenance().Waiting
		if len(waiting) == 0 {
			t.Fatal("nothing waits")
		}
		for _, w := range waiting {
			if w.Reason != down.Name+" does not answer" {
				t.Errorf("reason: %s", w.Reason)
			}
		}
		if notes := len(c.Events(0)); notes > 4 {
			t.Errorf("%d events in ten minutes:\n%s", notes, c.EventLines(c.Events(0)))
		}
		down.Restart()
		time.Sleep(10 * time.Minute)
		if done := strings.Count(ended(c, schedulepb.Event_ENDED), "done"); done < 2 {
			t.Errorf("after it was back:\n%s", c.EventLines(c.Events(0)))
		}
		if left := c.Leader().Maintenance().Waiting; len(left) != 0 {
			t.Errorf("still waiting: %v", left)
		}
	})
}

// Pause stops the task that is open, and nothing begins until Resume. It outlives restarts.
func TestPauseAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		c := cluster.Start(t, cluster.Heartbeat(time.Second), unchecked(), cluster.DefragRule(smallRule))
		if _, err := c.Leader().UpkeepClient().Pause(ctx, &upkeeppb.PauseRequest{Reason: "a release"}); err != nil {
			t.Fatal(err)
		}
		fragment(c)
		time.Sleep(10 * time.Minute)
		for _, m := range c.Members() {
			m.Restart()
		}
		time.Sleep(10 * time.Minute)
		same(t, c.EventLines(c.Events(0)), "paused: a release")
		_, err := c.Leader().UpkeepClient().Run(ctx, &upkeeppb.RunRequest{Kind: schedulepb.Kind_DEFRAG})
		if err == nil || !strings.Contains(err.Error(), "maintenance is paused") {
			t.Errorf("a run while paused: %v", err)
		}
		c.Member(1).Defrag() // whoever asks a member itself means it
		if _, err := c.Leader().UpkeepClient().Resume(ctx, &upkeeppb.ResumeRequest{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if done := strings.Count(ended(c, schedulepb.Event_ENDED), "done"); done != 3 {
			t.Errorf("events:\n%s", c.EventLines(c.Events(0)))
		}
	})
}

// On demand every member has its turn, whatever the rule says; with move-leader nobody is defragmented while it leads.
func TestRunOnDemandMovesLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), unchecked())
		leader := c.Leader()
		run := c.RunMaintenance(&upkeeppb.RunRequest{Kind: schedulepb.Kind_DEFRAG, Parameters: []*schedulepb.Parameter{
			{Name: "move-leader", Value: "true"},
		}})
		if len(run.Outcomes) != 4 || run.Outcomes[2].Kind != schedulepb.Kind_MOVE_LEADER ||
			run.Outcomes[3].Member != leader.Server().ID() || c.Leader() == leader {
			t.Errorf("outcomes: %v, led by %s, before by %s", run.Outcomes, c.Leader().Name, leader.Name)
		}
	})
}

// The leader dies in the middle of a cycle: the next one goes on, and nobody has two turns.
func TestLeaderDiesInTheMiddleOfACycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), unchecked(), cluster.DefragRule(smallRule),
			cluster.Upkeep(func(u *config.Upkeep) { u.Settle = 2 * time.Minute }))
		leader := c.Leader()
		fragment(c)
		c.WaitFor(5*time.Minute, "the first turn", func() bool { return strings.Contains(ended(c, schedulepb.Event_ENDED), "done") })
		leader.Kill()
		time.Sleep(10 * time.Minute)
		leader.Restart()
		time.Sleep(15 * time.Minute)
		turns := ended(c, schedulepb.Event_ENDED)
		for _, m := range c.Members() {
			if n := strings.Count(turns, " "+m.Name+" done"); n != 1 {
				t.Errorf("%s had %d turns:\n%s", m.Name, n, c.EventLines(c.Events(0)))
			}
		}
	})
}

// A member that dies at its task keeps nobody waiting for ever: the leader gives it up, and it has its turn when it is back.
func TestMemberDiesAtItsTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), unchecked())
		victim := c.Follower()
		victim.SlowDisk(10 * time.Second) // so that its defragmentation takes a while
		client := c.Leader().UpkeepClient()
		if _, err := client.Run(context.Background(), &upkeeppb.RunRequest{
			Kind: schedulepb.Kind_DEFRAG, Members: []uint64{victim.Server().ID()},
		}); err != nil {
			t.Fatal(err)
		}
		c.Wait("the task to begin", func() bool { return c.Leader().OpenTask().GetReports() > 0 })
		victim.Kill()
		c.WaitFor(10*time.Minute, "the task to be given up", func() bool { return c.Leader().OpenTask() == nil })
		victim.SlowDisk(0)
		victim.Restart()
		c.WaitFor(10*time.Minute, "the run to be over", func() bool {
			runs := c.Leader().Maintenance().Runs
			return len(runs) == 1 && runs[0].State == schedulepb.Run_SUCCEEDED
		})
		same(t, ended(c, schedulepb.Event_ENDED), fmt.Sprintf("ended defrag %[1]s abandoned\nended defrag %[1]s done", victim.Name))
	})
}

// A member that is cut off in the middle of its task stops by itself, before anybody else can begin: the cluster watches who
// is at work, and fails the test if two are.
func TestMemberIsCutOffAtItsTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), unchecked())
		victim := c.Follower()
		victim.SlowDisk(10 * time.Second)
		opened, err := c.Leader().UpkeepClient().Run(context.Background(), &upkeeppb.RunRequest{
			Kind: schedulepb.Kind_DEFRAG, Members: []uint64{victim.Server().ID()},
		})
		if err != nil {
			t.Fatal(err)
		}
		c.Wait("the task to begin", func() bool { return c.Leader().OpenTask().GetReports() > 0 })
		c.Network().Isolate(victim.Host)
		c.WaitFor(10*time.Minute, "the task to be given up", func() bool {
			return strings.Contains(ended(c, schedulepb.Event_ENDED), "abandoned")
		})
		victim.SlowDisk(0)
		c.Network().Rejoin(victim.Host)
		c.WaitFor(10*time.Minute, "the run to be over", func() bool {
			for _, r := range c.Leader().Maintenance().Runs {
				if r.Id == opened.Run {
					return r.State == schedulepb.Run_SUCCEEDED
				}
			}
			return false
		})
	})
}
