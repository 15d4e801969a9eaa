package cluster

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// glance is how often a wait looks although no member has reported a change, in the test's time: conditions may be about
// anything.
const glance = 50 * time.Millisecond

// events wakes those who wait for something to happen on any member.
type events struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced when something happens
	waiting bool          // somebody holds changed
}

func (e *events) init() { e.changed = make(chan struct{}) }

// happened is called by members, on their hot paths.
func (e *events) happened() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waiting {
		close(e.changed)
		e.changed, e.waiting = make(chan struct{}), false
	}
}

func (e *events) next() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = true
	return e.changed
}

// Wait returns as soon as condition holds. It is asked whenever a member has applied or committed something or sees
// another leader. After 30 s of the test's time the test fails: in a bubble, where nothing may ever happen again, that
// is at once.
func (c *Cluster) Wait(what string, condition func() bool) {
	c.t.Helper()
	c.WaitFor(c.options.patience, what, condition)
}

// WaitFor is Wait with its own patience.
func (c *Cluster) WaitFor(patience time.Duration, what string, condition func() bool) {
	c.t.Helper()
	if !c.eventually(patience, condition) {
		c.t.Fatalf("cluster: waited %v in vain for %s\n%s", patience, what, c.describe())
	}
}

func (c *Cluster) eventually(patience time.Duration, condition func() bool) bool {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	look := time.NewTicker(glance)
	defer look.Stop()
	for {
		changed := c.events.next()
		if condition() {
			return true
		}
		select {
		case <-changed:
		case <-look.C:
		case <-deadline.C:
			return condition()
		}
	}
}

// describe is one line for each member.
func (c *Cluster) describe() string {
	var b strings.Builder
	for _, m := range c.members {
		s := m.Server()
		if s == nil {
			fmt.Fprintf(&b, "  %s is stopped\n", m.Name)
			continue
		}
		select {
		case <-s.Done():
			fmt.Fprintf(&b, "  %s has stopped by itself: %v\n", m.Name, s.Err())
			continue
		default:
		}
		leader := "nobody"
		if lead := c.byID(s.Leader()); lead != nil {
			leader = lead.Name
		}
		state := "runs"
		if m.paused {
			state = "is paused"
		}
		fmt.Fprintf(&b, "  %s %s and follows %s: applied index %d, revision %d, compacted %d, alarms %d\n", m.Name, state, leader,
			s.Applied(), s.Revision(), s.CompactRevision(), len(s.Alarms()))
	}
	return b.String()
}

func (c *Cluster) byID(id uint64) *Member {
	for _, m := range c.members {
		if s := m.Server(); s != nil && s.ID() == id {
			return m
		}
	}
	return nil
}

// reachable are the members that run and are not paused.
func (c *Cluster) reachable() []*Member {
	return slices.DeleteFunc(c.running(), func(m *Member) bool { return m.paused })
}

// mustHaveQuorum refuses a wait that only a majority could end.
func (c *Cluster) mustHaveQuorum(what string) {
	c.t.Helper()
	voters, up := 0, 0
	for _, m := range c.members {
		if m.learner {
			continue
		}
		voters++
		if m.Running() && !m.paused {
			up++
		}
	}
	if up < voters/2+1 {
		c.t.Fatalf("cluster: waiting for %s would never end: %d of %d voters run, %d are needed; Restart or Resume some first\n%s",
			what, up, voters, voters/2+1, c.describe())
	}
}

// Leader waits until the running members agree on a leader that runs, and returns it.
func (c *Cluster) Leader() *Member {
	c.t.Helper()
	c.mustHaveQuorum("a leader")
	var leader *Member
	c.Wait("a leader that all running members agree on", func() bool {
		leader = nil
		for i, m := range c.reachable() {
			lead := c.byID(m.Server().Leader())
			if lead == nil || lead.paused || i > 0 && lead != leader {
				return false
			}
			leader = lead
		}
		return leader != nil
	})
	return leader
}

// Follower returns a running voter that does not lead.
func (c *Cluster) Follower() *Member {
	c.t.Helper()
	leader := c.Leader()
	for _, m := range c.reachable() {
		if m != leader && !m.learner {
			return m
		}
	}
	c.t.Fatalf("cluster: there is no follower\n%s", c.describe())
	return nil
}

// NewLeader waits for a leader other than old among the members that can see each other, and returns it. It does not
// ask old, which may be cut off.
func (c *Cluster) NewLeader(old *Member) *Member {
	c.t.Helper()
	var leader *Member
	c.Wait("a leader other than "+old.Name, func() bool {
		for _, m := range c.reachable() {
			if m != old && m.Server().Leader() == m.Server().ID() {
				leader = m
				return true
			}
		}
		return false
	})
	return leader
}

// WaitApplied waits until every running member has applied what the farthest one has by now.
func (c *Cluster) WaitApplied() {
	c.t.Helper()
	c.mustHaveQuorum("members to apply the same")
	var farthest uint64
	for _, m := range c.running() {
		farthest = max(farthest, m.Server().Applied())
	}
	c.Wait(fmt.Sprintf("all members to apply the log up to %d", farthest), func() bool {
		return !slices.ContainsFunc(c.reachable(), func(m *Member) bool { return m.Server().Applied() < farthest })
	})
}

// WaitRevision waits until every running member has applied a revision.
func (c *Cluster) WaitRevision(rev int64) {
	c.t.Helper()
	c.Wait(fmt.Sprintf("revision %d on all members", rev), func() bool {
		return !slices.ContainsFunc(c.reachable(), func(m *Member) bool { return m.Server().Revision() < rev })
	})
}

// WaitAlarm waits until every running member knows of an alarm of m, or, with raised false, of none.
func (m *Member) WaitAlarm(kind pb.AlarmType, raised bool) {
	c := m.cluster
	c.t.Helper()
	id := m.mustRun("WaitAlarm").ID()
	c.mustHaveQuorum("an alarm")
	c.Wait(fmt.Sprintf("alarm %v of %s to be raised=%v", kind, m.Name, raised), func() bool {
		for _, other := range c.reachable() {
			found := false
			for _, a := range other.Server().Alarms() {
				found = found || a.MemberID == id && int32(a.Alarm) == int32(kind)
			}
			if found != raised {
				return false
			}
		}
		return true
	})
}
