package maintenance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server/schedule"
)

// Why a task is stopped. Each is the cause of its context.
var (
	// ErrPaused: somebody paused maintenance while the task was under way.
	ErrPaused = errors.New("maintenance was paused meanwhile")
	// ErrStopping: the member is being stopped.
	ErrStopping = errors.New("the member is stopping")

	errPredecessor = errors.New("the process that worked on it is gone")
	errCallerGone  = errors.New("whoever asked for it has gone")
	errSilenced    = errors.New("no report of this member has reached the log for too long, so another may be about to begin")
	errTakenAway   = errors.New("the task was closed by the leader")
)

// retryPropose is the pause before a proposal that failed is made again.
const retryPropose = 500 * time.Millisecond

// lastWords is how long a member that stops tries to say that its task is interrupted.
const lastWords = time.Second

// AgentConfig is what an Agent works with.
type AgentConfig struct {
	Member uint64
	// Incarnation tells this process from the ones before it. Not 0.
	Incarnation uint64
	Schedule    Schedule
	Workers     map[schedulepb.Kind]Worker
	Timing      Timing
	Logger      *zap.Logger
	Observer    Observer
}

// Observer is told what this member does; nil functions are skipped.
type Observer struct {
	TaskStarted  func(kind string)
	TaskProgress func(kind, phase string, done, total int64)
	TaskEnded    func(kind, result string, took time.Duration)
}

// Agent executes the tasks of one member, one at a time.
type Agent struct {
	cfg    AgentConfig
	cancel context.CancelCauseFunc
	done   chan struct{}

	mu struct {
		sync.Mutex
		// calls are waiting here for a task that they begin, by their number.
		calls    map[uint64]*call
		lastCall uint64
		// phase, at and of are the last report of the task under way.
		progress Progress
		moved    chan struct{} // closed when progress changes
	}
}

// Progress is what the member is doing. The zero value: nothing.
type Progress struct {
	Task        *schedulepb.Task
	Phase       string
	Done, Total int64
}

// call is somebody on this member who waits for a task.
type call struct {
	ctx    context.Context
	work   Worker          // nil: that of the kind
	result chan callResult // capacity 1
}

type callResult struct {
	outcome *schedulepb.Outcome
	err     error
}

// StartAgent begins to execute what the schedule says; Close stops it.
func StartAgent(cfg AgentConfig) *Agent {
	ctx, cancel := context.WithCancelCause(context.Background())
	a := &Agent{cfg: cfg, cancel: cancel, done: make(chan struct{})}
	a.mu.calls = map[uint64]*call{}
	a.mu.moved = make(chan struct{})
	go func() {
		defer close(a.done)
		a.run(ctx)
	}()
	return a
}

// Close stops the task under way, says so if it can, and waits for both.
func (a *Agent) Close() {
	a.cancel(ErrStopping)
	<-a.done
}

// run executes each task that names this member once.
func (a *Agent) run(ctx context.Context) {
	var last uint64
	for {
		changed := a.cfg.Schedule.Changed()
		if task := a.cfg.Schedule.Now().Open; task != nil && task.Member == a.cfg.Member && task.Sequence != last {
			last = task.Sequence
			a.take(ctx, task)
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// take executes or refuses one task, and closes it.
func (a *Agent) take(ctx context.Context, task *schedulepb.Task) {
	waiting := a.caller(task)
	outcome, err := a.execute(ctx, task, waiting)
	if errors.Is(err, errTakenAway) {
		outcome = nil // it is closed already
	} else {
		outcome = outcomeOf(outcome, err)
	}
	if waiting != nil {
		waiting.result <- callResult{outcome: outcome, err: err}
	}
	a.setProgress(Progress{})
	if outcome != nil {
		a.finish(ctx, task, outcome)
	}
}

// outcomeOf is the outcome that becomes known to all.
func outcomeOf(outcome *schedulepb.Outcome, err error) *schedulepb.Outcome {
	if outcome == nil {
		outcome = &schedulepb.Outcome{}
	}
	switch {
	case err == nil:
		outcome.Result = schedulepb.Outcome_DONE
		return outcome
	case errors.Is(err, ErrPaused), errors.Is(err, errCallerGone):
		outcome.Result = schedulepb.Outcome_CANCELLED
	case errors.Is(err, ErrStopping), errors.Is(err, errPredecessor), errors.Is(err, errSilenced):
		outcome.Result = schedulepb.Outcome_INTERRUPTED
	default:
		outcome.Result = schedulepb.Outcome_FAILED
	}
	outcome.Message = err.Error()
	return outcome
}

func (a *Agent) execute(ctx context.Context, task *schedulepb.Task, waiting *call) (*schedulepb.Outcome, error) {
	worker := a.cfg.Workers[task.Kind]
	if waiting != nil && waiting.work != nil {
		worker = waiting.work
	}
	switch {
	case task.Incarnation != 0 && task.Incarnation != a.cfg.Incarnation:
		return nil, errPredecessor
	case worker == nil:
		return nil, fmt.Errorf("this member does not know how to do %s; is it of an older version?", task.Kind)
	case task.Call != 0 && waiting == nil:
		return nil, errCallerGone
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := &watch{agent: a, task: task, cancel: cancel, paused: a.cfg.Schedule.Now().Paused != nil}
	watch.latest.phase = "starting"
	// The first report takes the task for this process: it is certain then that nobody has closed it.
	if err := watch.firstReport(ctx); err != nil {
		return nil, err
	}
	var watching sync.WaitGroup
	watching.Go(func() { watch.run(ctx) })
	if waiting != nil {
		watching.Go(func() {
			select {
			case <-ctx.Done():
			case <-waiting.ctx.Done():
				cancel(fmt.Errorf("%w: %w", errCallerGone, waiting.ctx.Err()))
			}
		})
	}
	start := time.Now()
	a.started(task)
	outcome, err := worker.Run(ctx, task, watch.report)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
	}
	cancel(nil)
	watching.Wait()
	if outcome == nil {
		outcome = &schedulepb.Outcome{}
	}
	outcome.Duration = int64(time.Since(start))
	a.ended(task, outcomeOf(outcome, err), time.Since(start))
	return outcome, err
}

// finish closes the task, until that is applied or the task is not open any more.
func (a *Agent) finish(ctx context.Context, task *schedulepb.Task, outcome *schedulepb.Outcome) {
	command := func() *schedulepb.Command {
		return &schedulepb.Command{Time: time.Now().UnixNano(), Action: &schedulepb.Command_Finish{
			Finish: &schedulepb.Finish{Task: task.Sequence, Outcome: outcome},
		}}
	}
	for ctx.Err() == nil {
		_, err := a.cfg.Schedule.Propose(ctx, command())
		if err == nil || errors.Is(err, schedule.ErrNotOpen) {
			return
		}
		if ctx.Err() == nil {
			a.cfg.Logger.Warn("could not close a maintenance task, will try again", zap.Uint64("task", task.Sequence), zap.Error(err))
			sleep(ctx, retryPropose)
		}
	}
	last, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	_, _ = a.cfg.Schedule.Propose(last, command()) // the next start closes it otherwise
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (a *Agent) started(task *schedulepb.Task) {
	a.cfg.Logger.Info("maintenance begins", zap.Stringer("kind", task.Kind), zap.Uint64("task", task.Sequence),
		zap.String("reason", task.Reason))
	if a.cfg.Observer.TaskStarted != nil {
		a.cfg.Observer.TaskStarted(KindName(task.Kind))
	}
}

func (a *Agent) ended(task *schedulepb.Task, outcome *schedulepb.Outcome, took time.Duration) {
	a.cfg.Logger.Info("maintenance has ended", zap.Stringer("kind", task.Kind), zap.Uint64("task", task.Sequence),
		zap.Stringer("result", outcome.Result), zap.String("message", outcome.Message), zap.Duration("took", took))
	if a.cfg.Observer.TaskEnded != nil {
		a.cfg.Observer.TaskEnded(KindName(task.Kind), ResultName(outcome.Result), took)
	}
}
