package maintenance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server/schedule"
)

const (
	// minStep is the shortest time between two looks at all members, so that whoever makes the schedule change all the time
	// cannot make the leader busy.
	minStep = time.Second
	// minNote is the shortest time between two notes on why the same thing waits.
	minNote = time.Minute
)

// Fleet is what the coordinator needs of the server. Every method may be called at any time.
type Fleet interface {
	IsLeader() bool
	// LeaderChanged is closed at the next change of leader.
	LeaderChanged() <-chan struct{}
	// Figures asks all members at once, and returns their answers by ID. It returns when ctx ends at the latest.
	Figures(ctx context.Context) []*schedulepb.Figures
	// Members lists the IDs of all members.
	Members() []uint64
	// Flags is the policy that this member was started with.
	Flags() *schedulepb.Policy
	Retained(now time.Time) Retained
}

// NamedPlanner is a planner and the kind of the runs that it plans.
type NamedPlanner struct {
	Kind schedulepb.Kind
	Planner
}

// CoordinatorConfig is what a Coordinator works with.
type CoordinatorConfig struct {
	Fleet    Fleet
	Schedule Schedule
	// Planners are asked in this order; the first step that can begin does.
	Planners []NamedPlanner
	// Poked makes the leader look at once, since something has happened that is not in the schedule, such as an alarm.
	Poked  <-chan struct{}
	Timing Timing
	Logger *zap.Logger
}

// Coordinator begins tasks while its member leads. All that it decides from is replicated or asked anew, so whoever leads
// next goes on where it stopped.
type Coordinator struct {
	cfg    CoordinatorConfig
	cancel context.CancelFunc
	done   chan struct{}

	// What follows belongs to the one goroutine.

	// seen is the open task and its last report, since is when this member first saw that.
	seen struct {
		task, reports uint64
		since         time.Time
	}
	noted map[waitKey]time.Time
	last  time.Time // when the members were last asked
}

type waitKey struct {
	kind   schedulepb.Kind
	member uint64
}

// StartCoordinator begins to coordinate whenever this member leads; Close stops it.
func StartCoordinator(cfg CoordinatorConfig) *Coordinator {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Coordinator{cfg: cfg, cancel: cancel, done: make(chan struct{}), noted: map[waitKey]time.Time{}}
	go func() {
		defer close(c.done)
		c.run(ctx)
	}()
	return c
}

// Close stops the coordinator and waits for what it has under way.
func (c *Coordinator) Close() {
	c.cancel()
	<-c.done
}

func (c *Coordinator) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		led := c.cfg.Fleet.LeaderChanged()
		changed := c.cfg.Schedule.Changed()
		if c.cfg.Fleet.IsLeader() {
			timer.Reset(c.step(ctx))
		} else {
			timer.Stop()
			c.seen.task = 0 // a leader counts from when it began to lead
		}
		select {
		case <-ctx.Done():
			return
		case <-led:
		case <-changed:
		case <-c.cfg.Poked:
		case <-timer.C:
		}
	}
}

// step does what is to be done now, and returns when to look again if nothing happens before.
func (c *Coordinator) step(ctx context.Context) time.Duration {
	now := time.Now()
	s := c.cfg.Schedule.Now()
	if s.Open != nil {
		return c.watchOpen(ctx, now, s.Open)
	}
	if s.Paused != nil {
		return c.cfg.Timing.Look
	}
	if rest := Settling(s, c.policy(), now); rest > 0 {
		c.endRuns(ctx, s)
		return rest
	}
	if rest := c.last.Add(minStep).Sub(now); rest > 0 {
		return rest
	}
	in := c.gather(ctx)
	c.last = now
	next := c.cfg.Timing.Look
	for _, p := range c.propose(ctx, in) {
		if !p.NextAt.IsZero() {
			next = min(next, max(minStep, p.NextAt.Sub(now)))
		}
	}
	return next
}

func (c *Coordinator) policy() *schedulepb.Policy {
	return InForce(c.cfg.Schedule.Now(), c.cfg.Fleet.Flags())
}

// InForce is the policy that counts: the parts that were set, and the flags for the others.
func InForce(s *schedulepb.State, flags *schedulepb.Policy) *schedulepb.Policy {
	return WithFlags(s.Policy, flags)
}

// WithFlags fills in the parts that a policy lacks. Neither is modified; a nil policy lacks all.
func WithFlags(set, flags *schedulepb.Policy) *schedulepb.Policy {
	if set == nil {
		return flags
	}
	all := &schedulepb.Policy{
		Defrag: set.Defrag, Backup: set.Backup, Integrity: set.Integrity, Recover: set.Recover, Settle: set.Settle,
	}
	all.Defrag = cmp.Or(all.Defrag, flags.GetDefrag())
	all.Backup = cmp.Or(all.Backup, flags.GetBackup())
	all.Integrity = cmp.Or(all.Integrity, flags.GetIntegrity())
	all.Recover = cmp.Or(all.Recover, flags.GetRecover())
	if flags != nil {
		all.Settle = cmp.Or(all.Settle, flags.Settle)
	}
	return all
}

// Settling is how long the members are still left alone after the last task.
func Settling(s *schedulepb.State, policy *schedulepb.Policy, now time.Time) time.Duration {
	var ended int64
	for _, o := range s.Outcomes {
		ended = max(ended, o.Ended)
	}
	settle := time.Duration(policy.GetSettle())
	// A clock that ran ahead when the task ended must not hold maintenance up for longer than it should.
	return min(settle, time.Unix(0, ended).Add(settle).Sub(now))
}

// gather asks all members.
func (c *Coordinator) gather(ctx context.Context) PlanInput {
	return Gather(ctx, c.cfg.Fleet, c.cfg.Schedule)
}

// Gather asks all members and returns what plans are made of.
func Gather(ctx context.Context, fleet Fleet, agreed Schedule) PlanInput {
	members := fleet.Figures(ctx)
	s, now := agreed.Now(), time.Now()
	return PlanInput{
		Now: now, Policy: InForce(s, fleet.Flags()), State: s, Members: members, Retention: fleet.Retained(now),
	}
}

// watchOpen closes the open task if its member is gone or has been silent for too long.
func (c *Coordinator) watchOpen(ctx context.Context, now time.Time, task *schedulepb.Task) time.Duration {
	if c.seen.task != task.Sequence || c.seen.reports != task.Reports {
		c.seen.task, c.seen.reports, c.seen.since = task.Sequence, task.Reports, now
	}
	message := ""
	silent := now.Sub(c.seen.since)
	switch {
	case !slices.Contains(c.cfg.Fleet.Members(), task.Member):
		message = "the member was removed from the cluster"
	case silent >= c.cfg.Timing.Abandon:
		message = fmt.Sprintf("the member has not reported for %v", c.cfg.Timing.Abandon)
	default:
		return c.cfg.Timing.Abandon - silent
	}
	c.put(ctx, &schedulepb.Command{Action: &schedulepb.Command_Finish{Finish: &schedulepb.Finish{
		Task: task.Sequence, Outcome: &schedulepb.Outcome{Result: schedulepb.Outcome_ABANDONED, Message: message},
	}}})
	return minStep
}

// propose plans the runs on demand and then the policy, begins the first step that can, and notes why others cannot. It
// returns all steps.
func (c *Coordinator) propose(ctx context.Context, in PlanInput) []Proposal {
	var all []Proposal
	for _, run := range in.State.Runs {
		if run.State != schedulepb.Run_OPEN {
			continue
		}
		steps, over := c.planRun(ctx, in, run)
		if over {
			return nil // the schedule has changed
		}
		all = append(all, steps...)
		if c.beginFirst(ctx, in, steps, run.Id) {
			return nil
		}
	}
	for _, planner := range c.cfg.Planners {
		steps := planner.Plan(in)
		all = append(all, steps...)
		if c.beginFirst(ctx, in, steps, 0) {
			return nil
		}
	}
	c.note(ctx, in, all)
	return all
}

// planRun plans one run, or ends it.
func (c *Coordinator) planRun(ctx context.Context, in PlanInput, run *schedulepb.Run) (steps []Proposal, over bool) {
	at := slices.IndexFunc(c.cfg.Planners, func(p NamedPlanner) bool { return p.Kind == run.Kind })
	if at < 0 {
		c.endRun(ctx, run, schedulepb.Run_FAILED, fmt.Sprintf("the leader does not know how to do %s", KindName(run.Kind)))
		return nil, true
	}
	in.Run = run
	steps = c.cfg.Planners[at].Plan(in)
	blocked := ""
	for _, p := range steps {
		if p.Fail != "" {
			c.endRun(ctx, run, schedulepb.Run_FAILED, p.Fail)
			return nil, true
		}
		if blocked == "" {
			blocked = p.Blocked
		}
	}
	switch {
	case len(steps) == 0:
		c.endRun(ctx, run, schedulepb.Run_SUCCEEDED, "")
		return nil, true
	case run.Deadline != 0 && in.Now.UnixNano() >= run.Deadline:
		message := "it was not over in time"
		if blocked != "" {
			message += ": " + blocked
		}
		c.endRun(ctx, run, schedulepb.Run_FAILED, message)
		return nil, true
	}
	return steps, false
}

// endRuns ends the runs that have nothing left to do, for which nobody has to wait until the members have settled.
func (c *Coordinator) endRuns(ctx context.Context, s *schedulepb.State) {
	if !slices.ContainsFunc(s.Runs, func(r *schedulepb.Run) bool { return r.State == schedulepb.Run_OPEN }) {
		return
	}
	in := c.gather(ctx)
	for _, run := range in.State.Runs {
		if run.State == schedulepb.Run_OPEN {
			c.planRun(ctx, in, run)
		}
	}
}

func (c *Coordinator) endRun(ctx context.Context, run *schedulepb.Run, s schedulepb.Run_State, message string) {
	c.put(ctx, &schedulepb.Command{Action: &schedulepb.Command_EndRun{EndRun: &schedulepb.EndRun{
		Run: run.Id, State: s, Message: message,
	}}})
}

// beginFirst begins the first step that is not blocked, and tells whether there was one.
func (c *Coordinator) beginFirst(ctx context.Context, in PlanInput, steps []Proposal, run uint64) bool {
	at := slices.IndexFunc(steps, func(p Proposal) bool { return p.Blocked == "" })
	if at < 0 {
		return false
	}
	p := steps[at]
	c.put(ctx, &schedulepb.Command{Action: &schedulepb.Command_Begin{Begin: &schedulepb.Begin{
		Task:      &schedulepb.Task{Kind: p.Kind, Member: p.Member, Reason: p.Reason, Run: run, Parameters: p.Parameters},
		AfterTask: in.State.TaskSequence + 1,
	}}})
	return true
}

// note records why things wait, where that has changed, and what no longer does.
func (c *Coordinator) note(ctx context.Context, in PlanInput, steps []Proposal) {
	waiting := map[waitKey]string{}
	var order []waitKey
	for _, p := range steps {
		key := waitKey{p.Kind, p.Member}
		if _, known := waiting[key]; !known {
			waiting[key] = p.Blocked
			order = append(order, key)
		}
	}
	before := map[waitKey]string{}
	for _, w := range in.State.Waiting {
		key := waitKey{w.Kind, w.Member}
		before[key] = w.Reason
		if _, still := waiting[key]; !still {
			c.noteOne(ctx, in, key, schedulepb.Event_IDLE, "no longer due")
		}
	}
	for _, key := range order {
		if before[key] != waiting[key] {
			c.noteOne(ctx, in, key, schedulepb.Event_WAITING, waiting[key])
		}
	}
}

func (c *Coordinator) noteOne(ctx context.Context, in PlanInput, key waitKey, kind schedulepb.Event_Type, reason string) {
	if last, ok := c.noted[key]; ok && in.Now.Sub(last) < minNote {
		return
	}
	c.noted[key] = in.Now
	c.put(ctx, &schedulepb.Command{Action: &schedulepb.Command_Note{Note: &schedulepb.Note{Event: &schedulepb.Event{
		Type: kind, Kind: key.kind, Member: key.member, Reason: reason,
	}}}})
}

// put proposes a command. Whether that worked shows in the schedule: the next step begins with that.
func (c *Coordinator) put(ctx context.Context, command *schedulepb.Command) {
	command.Time = time.Now().UnixNano()
	_, err := c.cfg.Schedule.Propose(ctx, command)
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, schedule.ErrBusy), errors.Is(err, schedule.ErrStale),
		errors.Is(err, schedule.ErrNotOpen), errors.Is(err, schedule.ErrPaused):
	default:
		c.cfg.Logger.Warn("a decision on maintenance did not get into the log, will try again", zap.Error(err))
	}
}
