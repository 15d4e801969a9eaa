package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/server/config"
)

// Upkeep changes the flags of what all members do by themselves.
func Upkeep(change func(*config.Upkeep)) Option {
	return Configure(func(c *config.Config) { change(&c.Upkeep) })
}

// DefragRule lets members be defragmented by themselves when the rule says so, an hour after the last time at the earliest.
func DefragRule(rule string) Option {
	return Upkeep(func(u *config.Upkeep) { u.Defrag, u.DefragRule = true, rule })
}

// Maintenance is the schedule of maintenance as this member has applied it. It is shared and not to be modified.
func (m *Member) Maintenance() *schedulepb.State {
	m.cluster.t.Helper()
	return m.mustRun("Maintenance").Maintenance()
}

// OpenTask is the task that is open now as far as this member knows, nil for none.
func (m *Member) OpenTask() *schedulepb.Task {
	m.cluster.t.Helper()
	return m.Maintenance().Open
}

// UpkeepClient steers maintenance through this member.
func (m *Member) UpkeepClient() upkeeppb.UpkeepClient {
	m.cluster.t.Helper()
	return upkeeppb.NewUpkeepClient(m.Client().ActiveConnection())
}

// Events are the events of maintenance after a sequence number, as some running member knows them.
func (c *Cluster) Events(after uint64) []*schedulepb.Event {
	c.t.Helper()
	var newest []*schedulepb.Event
	for _, m := range c.reachable() {
		if events := m.Server().MaintenanceEvents(after); len(events) > len(newest) {
			newest = events
		}
	}
	return newest
}

// EventLines spells events for comparison in a test, one a line: what, on which member, and why.
func (c *Cluster) EventLines(events []*schedulepb.Event) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "%s", strings.ToLower(e.Type.String()))
		if e.Kind != schedulepb.Kind_ANY {
			fmt.Fprintf(&b, " %s", strings.ToLower(e.Kind.String()))
		}
		if e.Member != 0 {
			name := fmt.Sprintf("%x", e.Member)
			if m := c.byID(e.Member); m != nil {
				name = m.Name
			}
			fmt.Fprintf(&b, " %s", name)
		}
		if e.Outcome != nil {
			fmt.Fprintf(&b, " %s", strings.ToLower(e.Outcome.Result.String()))
		}
		if e.Reason != "" {
			fmt.Fprintf(&b, ": %s", e.Reason)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// RunMaintenance asks for maintenance and waits until the run is over, which must succeed.
func (c *Cluster) RunMaintenance(r *upkeeppb.RunRequest) *schedulepb.Run {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	m := c.Leader()
	opened, err := m.UpkeepClient().Run(ctx, r)
	if err != nil {
		c.t.Fatalf("cluster: maintenance: %v", err)
	}
	var run *schedulepb.Run
	c.WaitFor(time.Hour, fmt.Sprintf("run %d", opened.Run), func() bool {
		for _, r := range m.Maintenance().Runs {
			if r.Id == opened.Run && r.State != schedulepb.Run_OPEN {
				run = r
			}
		}
		return run != nil
	})
	if run.State != schedulepb.Run_SUCCEEDED {
		c.t.Fatalf("cluster: maintenance: %s", run.Message)
	}
	return run
}

// checkMaintenance compares what the members say that happened: no task begins before the last one has ended.
func (c *Cluster) checkMaintenance() {
	c.t.Helper()
	for _, m := range c.running() {
		var open *schedulepb.Event
		for _, e := range m.Server().MaintenanceEvents(0) {
			switch e.Type {
			case schedulepb.Event_BEGUN:
				if open != nil {
					c.t.Errorf("cluster: %s says that task %d began on %x while task %d was open on %x:\n%s",
						m.Name, e.Task, e.Member, open.Task, open.Member, c.EventLines(m.Server().MaintenanceEvents(0)))
				}
				open = e
			case schedulepb.Event_ENDED:
				open = nil
			}
		}
	}
	c.atWork.Lock()
	defer c.atWork.Unlock()
	for _, problem := range c.atWork.problems {
		c.t.Errorf("cluster: %s", problem)
	}
}

// workBegins and workEnds are told by every member when it is at a task, from its own goroutines: whatever the log says,
// two at the same moment are wrong.
func (c *Cluster) workBegins(m *Member, kind string) {
	c.atWork.Lock()
	defer c.atWork.Unlock()
	for other, what := range c.atWork.busy {
		if other != m {
			c.atWork.problems = append(c.atWork.problems,
				fmt.Sprintf("%s began %s while %s was at %s", m.Name, kind, other.Name, what))
		}
	}
	c.atWork.busy[m] = kind
}

// AtWork tells whether the member itself says that it is at a task now.
func (m *Member) AtWork() bool {
	work := &m.cluster.atWork
	work.Lock()
	defer work.Unlock()
	_, busy := work.busy[m]
	return busy
}

func (c *Cluster) workEnds(m *Member) {
	c.atWork.Lock()
	defer c.atWork.Unlock()
	delete(c.atWork.busy, m)
}
