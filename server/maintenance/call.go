package maintenance

import (
	"context"
	"errors"
	"time"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server/schedule"
)

// ErrNoSchedule: there is no leader, so nothing can be agreed on.
var ErrNoSchedule = errors.New("no leader to coordinate maintenance with")

// Asked is what somebody asks of this member.
type Asked struct {
	Kind   schedulepb.Kind
	Reason string
	// Work does it; nil leaves it to the worker of its kind.
	Work Worker
	// HasLeader tells whether there is anybody to agree with.
	HasLeader func() bool
	// Busy says which member is at something that needs a turn and has none, "" for nobody; may be nil.
	Busy func(ctx context.Context) string
	// Waiting is told of the task that is in the way, whenever that is another one; may be nil.
	Waiting func(open *schedulepb.Task)
}

// Call does maintenance on this member because somebody asked it to, in its turn: it waits while any member is under
// maintenance, as long as ctx lets it. Without a leader the error is ErrNoSchedule and nothing has been done.
func (a *Agent) Call(ctx context.Context, asked Asked) (*schedulepb.Outcome, error) {
	waiting := &call{ctx: ctx, work: asked.Work, result: make(chan callResult, 1)}
	told := uint64(0)
	number := a.register(waiting)
	defer a.unregister(number)
	for {
		changed := a.cfg.Schedule.Changed()
		open := a.cfg.Schedule.Now().Open
		switch {
		case !asked.HasLeader():
			return nil, ErrNoSchedule
		case open != nil:
			if asked.Waiting != nil && told != open.Sequence {
				told = open.Sequence
				asked.Waiting(open)
			}
			if err := a.await(ctx, changed); err != nil {
				return nil, err
			}
			continue
		}
		if asked.Busy != nil && asked.Busy(ctx) != "" {
			if err := a.await(ctx, changed); err != nil {
				return nil, err
			}
			continue
		}
		_, err := a.cfg.Schedule.Propose(ctx, &schedulepb.Command{Time: time.Now().UnixNano(), Action: &schedulepb.Command_Begin{
			Begin: &schedulepb.Begin{Task: &schedulepb.Task{
				Kind: asked.Kind, Member: a.cfg.Member, Reason: asked.Reason, Call: number, Incarnation: a.cfg.Incarnation,
			}},
		}})
		switch {
		case err == nil:
			return a.result(waiting)
		case errors.Is(err, schedule.ErrBusy):
		case ctx.Err() != nil:
			return nil, ctx.Err()
		default:
			// It may have been proposed all the same: then the agent finds the caller here and answers it.
			select {
			case r := <-waiting.result:
				return r.outcome, r.err
			case <-a.done:
				return nil, ErrStopping
			case <-time.After(retryPropose):
			}
		}
	}
}

// await waits for a change of the schedule, and looks for the leader now and then.
func (a *Agent) await(ctx context.Context, changed <-chan struct{}) error {
	timer := time.NewTimer(a.cfg.Timing.Report)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-a.done:
		return ErrStopping
	case <-changed:
	case <-timer.C:
	}
	return nil
}

// result waits for the agent, which sees the end of the caller's context itself.
func (a *Agent) result(c *call) (*schedulepb.Outcome, error) {
	select {
	case r := <-c.result:
		return r.outcome, r.err
	case <-a.done:
		select {
		case r := <-c.result:
			return r.outcome, r.err
		default:
			return nil, ErrStopping
		}
	}
}

func (a *Agent) register(c *call) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.lastCall++
	a.mu.calls[a.mu.lastCall] = c
	return a.mu.lastCall
}

func (a *Agent) unregister(number uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.mu.calls, number)
}

// caller is who waits for task on this member, nil for nobody.
func (a *Agent) caller(task *schedulepb.Task) *call {
	if task.Call == 0 || task.Incarnation != a.cfg.Incarnation {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.calls[task.Call]
}

// Progress returns what this member is doing, and a channel that is closed when that changes.
func (a *Agent) Progress() (Progress, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.progress, a.mu.moved
}

func (a *Agent) setProgress(p Progress) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.progress = p
	close(a.mu.moved)
	a.mu.moved = make(chan struct{})
}
