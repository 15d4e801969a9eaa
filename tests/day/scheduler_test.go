package day

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/server/maintenance/window"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// The policy of the day.
const (
	defragRule     = "free > 2MiB && fragmented > 45%"
	minInterval    = 2 * time.Hour
	defragWindow   = "daily 01:00-11:00 UTC; daily 13:00-23:30 UTC"
	checkInterval  = 2 * time.Hour
	retention      = time.Hour
	fullInterval   = 6 * time.Hour
	incrementEvery = 30 * time.Minute
	keepFull       = 3
	quotaBytes     = 12 << 20
	// asking is how old the leader's figures may be when a task begins.
	asking = 5 * time.Second
)

// overseer judges every event of maintenance by what the test itself knows.
type overseer struct {
	c    *cluster.Cluster
	open window.Window
	// stopped ends with the day.
	cancel context.CancelFunc
	all    sync.WaitGroup
	// onBackup is called after each backup, in the overseer's goroutines.
	onBackup func() error

	mu       sync.Mutex
	down     map[*cluster.Member]time.Time // since when
	corrupt  *cluster.Member
	events   map[uint64]*schedulepb.Event
	task     *schedulepb.Event            // BEGUN of the one that is open
	defrags  map[uint64]*schedulepb.Event // the last DEFRAG that was done by policy, by member
	done     map[schedulepb.Kind]int      // tasks that were done
	results  map[schedulepb.Outcome_Result]int
	problems []string
}

func oversee(c *cluster.Cluster, onBackup func() error) *overseer {
	open, err := window.Parse(defragWindow)
	if err != nil {
		panic(err) // a constant
	}
	ctx, cancel := context.WithCancel(context.Background())
	o := &overseer{
		c: c, open: open, cancel: cancel, onBackup: onBackup, down: map[*cluster.Member]time.Time{},
		events: map[uint64]*schedulepb.Event{}, defrags: map[uint64]*schedulepb.Event{},
		done: map[schedulepb.Kind]int{}, results: map[schedulepb.Outcome_Result]int{},
	}
	for _, m := range c.Members() {
		client := m.NewClient()
		connect := func() upkeeppb.UpkeepClient { return upkeeppb.NewUpkeepClient(client.ActiveConnection()) }
		o.all.Go(func() { o.follow(ctx, m, connect) })
	}
	return o
}

func (o *overseer) stop() {
	o.cancel()
	o.all.Wait()
}

// follow hears of every event from one member, as soon as that has applied it.
func (o *overseer) follow(ctx context.Context, m *cluster.Member, connect func() upkeeppb.UpkeepClient) {
	after := uint64(0)
	for ; ctx.Err() == nil; pause(ctx, time.Second) {
		history, err := connect().History(ctx, &upkeeppb.HistoryRequest{})
		if err != nil {
			continue
		}
		for _, e := range history.Events {
			if e.Sequence > after {
				after = e.Sequence
				o.heard(m, e)
			}
		}
		stream, err := connect().Follow(ctx, &upkeeppb.FollowRequest{AfterEvent: after})
		for err == nil {
			var resp *upkeeppb.FollowResponse
			if resp, err = stream.Recv(); err == nil && resp.Event != nil {
				after = resp.Event.Sequence
				o.heard(m, resp.Event)
			}
		}
	}
}

// heard takes an event; the first member that tells of one has it judged, the others must tell the same.
func (o *overseer) heard(m *cluster.Member, e *schedulepb.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if known := o.events[e.Sequence]; known != nil {
		if known.String() != e.String() {
			o.blame(e, "%s tells it as %v", m.Name, known)
		}
		return
	}
	o.events[e.Sequence] = e
	switch e.Type {
	case schedulepb.Event_BEGUN:
		o.begun(e)
	case schedulepb.Event_ENDED:
		o.ended(e)
	}
}

func (o *overseer) blame(e *schedulepb.Event, format string, args ...any) {
	o.problems = append(o.problems, fmt.Sprintf("%s %s %s on %s (%s): %s", clock(time.Unix(0, e.Time)), e.Type, e.Kind,
		o.name(e.Member), e.Reason, fmt.Sprintf(format, args...)))
}

func (o *overseer) name(id uint64) string {
	for _, m := range o.c.Members() {
		if s := m.Server(); s != nil && s.ID() == id {
			return m.Name
		}
	}
	return fmt.Sprintf("%x", id)
}

// begun judges the begin of a task.
func (o *overseer) begun(e *schedulepb.Event) {
	at := time.Unix(0, e.Time)
	if o.task != nil {
		o.blame(e, "task %d was open on %s", o.task.Task, o.name(o.task.Member))
	}
	o.task = e
	// A backup needs only its own member to be well.
	for m, since := range o.down {
		own := m.Server() != nil && m.Server().ID() == e.Member
		if since.Add(asking).Before(at) && (e.Kind != schedulepb.Kind_BACKUP || own) {
			o.blame(e, "%s has been down since %s", m.Name, clock(since))
		}
	}
	if o.corrupt != nil && e.Run == 0 && (e.Kind != schedulepb.Kind_BACKUP || o.corrupt.Server().ID() == e.Member) {
		o.blame(e, "%s has raised CORRUPT", o.corrupt.Name)
	}
	if e.Kind != schedulepb.Kind_DEFRAG || e.Run != 0 || recovery(e) {
		return
	}
	if !o.open.Open(at) {
		o.blame(e, "it is outside of the window %s", o.open)
	}
	if last := o.defrags[e.Member]; last != nil && at.Sub(time.Unix(0, last.Time)) < minInterval {
		o.blame(e, "the last one ended at %s", clock(time.Unix(0, last.Time)))
	}
	o.leaderLast(e, at)
}

// recovery tells whether a defragmentation is a step out of NOSPACE, for which interval and window do not count.
func recovery(e *schedulepb.Event) bool { return len(e.Reason) > 7 && e.Reason[:7] == "NOSPACE" }

// leaderLast: where the leader has its turn, no other member may be waiting for one.
func (o *overseer) leaderLast(e *schedulepb.Event, at time.Time) {
	for _, m := range o.c.Members() {
		s := m.Server()
		if s == nil || s.Leader() != e.Member {
			return // not the leader's turn, or nobody is certain who leads
		}
	}
	for _, m := range o.c.Members() {
		s := m.Server()
		last := o.defrags[s.ID()]
		if s.ID() == e.Member || last != nil && at.Sub(time.Unix(0, last.Time)) < minInterval {
			continue
		}
		sizes := s.Figures()
		free := sizes.File - sizes.InUse
		// Well beyond the rule, so that what has happened since the leader asked does not matter.
		if free > 3<<20 && free*100 > 55*sizes.File && at.Sub(o.lastTry(s.ID())) > 24*time.Hour {
			o.blame(e, "it leads, and %s, with %d of %d bytes free, has yet to have its turn", m.Name, free, sizes.File)
		}
	}
}

// lastTry is when a task on a member last ended without success.
func (o *overseer) lastTry(member uint64) time.Time {
	var last time.Time
	for _, e := range o.events {
		if e.Type == schedulepb.Event_ENDED && e.Member == member && e.Outcome.Result != schedulepb.Outcome_DONE {
			if at := time.Unix(0, e.Time); at.After(last) {
				last = at
			}
		}
	}
	return last
}

func (o *overseer) ended(e *schedulepb.Event) {
	if o.task == nil || o.task.Task != e.Task {
		o.blame(e, "task %d was not open", e.Task)
	}
	o.task = nil
	o.results[e.Outcome.Result]++
	if e.Outcome.Result != schedulepb.Outcome_DONE {
		return
	}
	o.done[e.Kind]++
	switch e.Kind {
	case schedulepb.Kind_DEFRAG:
		o.defrags[e.Member] = e
	case schedulepb.Kind_BACKUP:
		if err := o.onBackup(); err != nil {
			o.blame(e, "%v", err)
		}
	}
}

// setDown notes that the test takes a member out of the world, or back.
func (o *overseer) setDown(m *cluster.Member, down bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.down, m)
	if down {
		o.down[m] = time.Now()
	}
}

// setCorrupt notes that CORRUPT is known to all to be raised for a member; nil ends that.
func (o *overseer) setCorrupt(m *cluster.Member) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.corrupt = m
}

// Problems are all that were found.
func (o *overseer) Problems() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.problems)
}
