package schedule

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
)

// begin opens a task. It is the one place where a task becomes open.
func (c *change) begin(b *schedulepb.Begin) (any, error) {
	task := b.GetTask()
	switch {
	case task == nil || task.Member == 0:
		return nil, ErrUnknownCommand
	case c.Open != nil:
		return nil, ErrBusy
	case c.Paused != nil && task.Call == 0:
		return nil, ErrPaused
	case b.AfterTask != 0 && b.AfterTask != c.TaskSequence+1:
		return nil, ErrStale
	case task.Run != 0 && c.openRunOf(task.Run) == nil:
		return nil, ErrNotOpen
	}
	c.TaskSequence++
	task = proto.CloneOf(task)
	task.Sequence, task.Begun, task.Reported = c.TaskSequence, c.time, c.time
	c.Open = task
	c.forgetWaiting(task.Kind, task.Member)
	c.event(&schedulepb.Event{
		Type: schedulepb.Event_BEGUN, Kind: task.Kind, Member: task.Member, Task: task.Sequence, Run: task.Run, Reason: task.Reason,
	})
	return task, nil
}

func (c *change) progress(p *schedulepb.Progress) error {
	task := c.Open
	switch {
	case task == nil || task.Sequence != p.GetTask():
		return ErrNotOpen
	case task.Incarnation != 0 && task.Incarnation != p.Incarnation:
		return ErrNotOpen
	}
	task.Incarnation = p.Incarnation
	task.Phase, task.Done, task.Total = p.Phase, p.Done, p.Total
	task.Reported = c.time
	task.Reports++
	return nil
}

// finish closes the open task. It is the one place where a task ends.
func (c *change) finish(f *schedulepb.Finish) error {
	task := c.Open
	if task == nil || task.Sequence != f.GetTask() {
		return ErrNotOpen
	}
	outcome := proto.CloneOf(f.Outcome)
	if outcome == nil {
		outcome = &schedulepb.Outcome{}
	}
	outcome.Kind, outcome.Member, outcome.Task, outcome.Run = task.Kind, task.Member, task.Sequence, task.Run
	outcome.Begun, outcome.Ended = task.Begun, c.time
	c.Open = nil
	c.remember(outcome)
	if run := c.openRunOf(task.Run); run != nil {
		run.Outcomes = append(run.Outcomes, outcome)
	}
	c.event(&schedulepb.Event{
		Type: schedulepb.Event_ENDED, Kind: task.Kind, Member: task.Member, Task: task.Sequence, Run: task.Run,
		Reason: outcome.Message, Outcome: outcome,
	})
	return nil
}

// remember puts outcome in the place of the last one of its kind and member.
func (c *change) remember(outcome *schedulepb.Outcome) {
	c.Outcomes = slices.DeleteFunc(c.Outcomes, func(old *schedulepb.Outcome) bool {
		if old.Kind != outcome.Kind || old.Member != outcome.Member {
			return false
		}
		outcome.Failures = old.Failures
		return true
	})
	switch outcome.Result {
	case schedulepb.Outcome_DONE:
		outcome.Failures = 0
	case schedulepb.Outcome_CANCELLED:
		// Somebody wanted it so; that says nothing about the next one.
	default:
		outcome.Failures++
	}
	c.Outcomes = append(c.Outcomes, outcome)
	if drop := len(c.Outcomes) - maxOutcomes; drop > 0 {
		c.Outcomes = slices.Delete(c.Outcomes, 0, drop)
	}
}

// setPause leaves the open task to its executor, which sees the pause, stops and says so.
func (c *change) setPause(p *schedulepb.SetPause) {
	switch {
	case p.Paused && c.Paused == nil:
		c.Paused = &schedulepb.Pause{Reason: p.Reason, Since: c.time}
		c.event(&schedulepb.Event{Type: schedulepb.Event_PAUSED, Reason: p.Reason})
		for _, run := range slices.Clone(c.Runs) { // which closing changes
			if run.State == schedulepb.Run_OPEN {
				c.closeRun(run, schedulepb.Run_FAILED, "maintenance was paused")
			}
		}
		c.Waiting = nil
	case !p.Paused && c.Paused != nil:
		c.Paused = nil
		c.event(&schedulepb.Event{Type: schedulepb.Event_RESUMED, Reason: p.Reason})
	}
}

func (c *change) openRunOf(id uint64) *schedulepb.Run {
	for _, run := range c.Runs {
		if run.Id == id && run.State == schedulepb.Run_OPEN {
			return run
		}
	}
	return nil
}

func (c *change) openRun(run *schedulepb.Run) (any, error) {
	open := 0
	for _, other := range c.Runs {
		if other.State == schedulepb.Run_OPEN {
			open++
		}
	}
	switch {
	case run == nil:
		return nil, ErrUnknownCommand
	case c.Paused != nil:
		return nil, ErrPaused
	case open >= maxOpenRuns:
		return nil, ErrTooManyRuns
	}
	c.RunSequence++
	run = proto.CloneOf(run)
	run.Id, run.Requested, run.State = c.RunSequence, c.time, schedulepb.Run_OPEN
	run.Outcomes, run.Message, run.Ended = nil, "", 0
	c.Runs = append(c.Runs, run)
	c.event(&schedulepb.Event{Type: schedulepb.Event_RUN_OPENED, Kind: run.Kind, Run: run.Id, Reason: "on demand"})
	return proto.CloneOf(run), nil
}

func (c *change) endRun(e *schedulepb.EndRun) error {
	run := c.openRunOf(e.Run)
	if run == nil || e.State == schedulepb.Run_OPEN {
		return ErrNotOpen
	}
	c.closeRun(run, e.State, e.Message)
	return nil
}

func (c *change) closeRun(run *schedulepb.Run, state schedulepb.Run_State, message string) {
	run.State, run.Message, run.Ended = state, message, c.time
	c.event(&schedulepb.Event{Type: schedulepb.Event_RUN_ENDED, Kind: run.Kind, Run: run.Id, Reason: message})
	ended := 0
	for _, r := range c.Runs {
		if r.State != schedulepb.Run_OPEN {
			ended++
		}
	}
	c.Runs = slices.DeleteFunc(c.Runs, func(r *schedulepb.Run) bool {
		if r.State == schedulepb.Run_OPEN || ended <= maxEndedRuns {
			return false
		}
		ended--
		return true
	})
}

// note records an event. A WAITING one stands in the schedule until what waits begins, or IDLE says that nothing does.
func (c *change) note(e *schedulepb.Event) error {
	if e == nil {
		return ErrUnknownCommand
	}
	e = proto.CloneOf(e)
	switch e.Type {
	case schedulepb.Event_WAITING:
		c.forgetWaiting(e.Kind, e.Member)
		c.Waiting = append(c.Waiting, &schedulepb.Waiting{Kind: e.Kind, Member: e.Member, Reason: e.Reason, Since: c.time})
	case schedulepb.Event_IDLE:
		c.forgetWaiting(e.Kind, e.Member)
	}
	c.event(e)
	return nil
}

func (c *change) forgetWaiting(kind schedulepb.Kind, member uint64) {
	c.Waiting = slices.DeleteFunc(c.Waiting, func(w *schedulepb.Waiting) bool { return w.Kind == kind && w.Member == member })
}
