package maintenance

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server/schedule"
)

// fakeSchedule is the schedule of a cluster whose log can be cut off.
type fakeSchedule struct {
	mu      sync.Mutex
	now     *schedulepb.State
	changed chan struct{}
	cut     bool
	ended   []*schedulepb.Outcome
}

func newFakeSchedule() *fakeSchedule {
	return &fakeSchedule{now: &schedulepb.State{}, changed: make(chan struct{})}
}

func (f *fakeSchedule) Now() *schedulepb.State   { f.mu.Lock(); defer f.mu.Unlock(); return f.now }
func (f *fakeSchedule) Changed() <-chan struct{} { f.mu.Lock(); defer f.mu.Unlock(); return f.changed }

func (f *fakeSchedule) change(do func(s *schedulepb.State)) {
	f.now = proto.CloneOf(f.now)
	do(f.now)
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeSchedule) set(do func(s *schedulepb.State)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.change(do)
}

func (f *fakeSchedule) Propose(ctx context.Context, c *schedulepb.Command) (any, error) {
	for {
		f.mu.Lock()
		if !f.cut {
			break
		}
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	defer f.mu.Unlock()
	open := f.now.Open
	switch a := c.Action.(type) {
	case *schedulepb.Command_Begin:
		if open != nil {
			return nil, schedule.ErrBusy
		}
		f.change(func(s *schedulepb.State) {
			s.TaskSequence++
			s.Open = proto.CloneOf(a.Begin.Task)
			s.Open.Sequence = s.TaskSequence
		})
	case *schedulepb.Command_Progress:
		if open.GetSequence() != a.Progress.Task || open.Incarnation != 0 && open.Incarnation != a.Progress.Incarnation {
			return nil, schedule.ErrNotOpen
		}
		f.change(func(s *schedulepb.State) { s.Open.Incarnation = a.Progress.Incarnation; s.Open.Reports++ })
	case *schedulepb.Command_Finish:
		if open.GetSequence() != a.Finish.Task {
			return nil, schedule.ErrNotOpen
		}
		f.ended = append(f.ended, a.Finish.Outcome)
		f.change(func(s *schedulepb.State) { s.Open = nil })
	}
	return nil, nil
}

// outcomes are how tasks ended, so far.
func (f *fakeSchedule) outcomes() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, o := range f.ended {
		out = append(out, strings.TrimSuffix(ResultName(o.Result)+": "+o.Message, ": "))
	}
	return strings.Join(out, "; ")
}

// slowWorker works for an hour, unless it is stopped, and says when that was.
type slowWorker struct {
	mu      sync.Mutex
	stopped time.Time
	runs    int
}

func (w *slowWorker) Run(ctx context.Context, _ *schedulepb.Task, report func(string, int64, int64)) (*schedulepb.Outcome, error) {
	w.mu.Lock()
	w.runs++
	w.mu.Unlock()
	report("working", 1, 2)
	select {
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stopped = time.Now()
		return nil, ctx.Err()
	case <-time.After(time.Hour):
		return &schedulepb.Outcome{Bytes: 7}, nil
	}
}

func (w *slowWorker) stoppedAt() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.stopped }

// withAgent runs a test of member 1 in a bubble.
func withAgent(t *testing.T, test func(t *testing.T, f *fakeSchedule, w *slowWorker, a *Agent)) {
	synctest.Test(t, func(t *testing.T) {
		f, w := newFakeSchedule(), &slowWorker{}
		a := StartAgent(AgentConfig{
			Member: 1, Incarnation: 5, Schedule: f, Timing: DefaultTiming(time.Second), Logger: zap.NewNop(),
			Workers: map[schedulepb.Kind]Worker{schedulepb.Kind_DEFRAG: w},
		})
		defer a.Close()
		test(t, f, w, a)
	})
}

func (f *fakeSchedule) begin(task *schedulepb.Task) {
	f.set(func(s *schedulepb.State) {
		s.TaskSequence++
		task.Sequence, task.Kind = s.TaskSequence, schedulepb.Kind_DEFRAG
		s.Open = task
	})
}

func expectOutcomes(t *testing.T, f *fakeSchedule, want string) {
	t.Helper()
	synctest.Wait()
	if got := f.outcomes(); got != want {
		t.Errorf("outcomes %q, want %q", got, want)
	}
}

func TestAgentDoesItsTasksOnce(t *testing.T) {
	withAgent(t, func(t *testing.T, f *fakeSchedule, w *slowWorker, _ *Agent) {
		f.begin(&schedulepb.Task{Member: 2}) // somebody else's
		time.Sleep(2 * time.Hour)
		f.begin(&schedulepb.Task{Member: 1})
		time.Sleep(time.Hour + time.Second)
		expectOutcomes(t, f, "done")
		if w.runs != 1 || f.ended[0].Bytes != 7 || time.Duration(f.ended[0].Duration) != time.Hour {
			t.Errorf("%d runs, outcome %v", w.runs, f.ended[0])
		}
	})
}

// A member that is cut off stops well before the leader gives it up, wherever between two reports that happens.
func TestAgentStopsBeforeItIsGivenUp(t *testing.T) {
	timing := DefaultTiming(time.Second)
	for _, cutAfter := range []time.Duration{time.Second, timing.Report - time.Millisecond, timing.Report + time.Millisecond, 17 * time.Second} {
		withAgent(t, func(t *testing.T, f *fakeSchedule, w *slowWorker, _ *Agent) {
			f.begin(&schedulepb.Task{Member: 1})
			time.Sleep(cutAfter)
			f.mu.Lock()
			f.cut = true
			lastReport := f.now.Open.Reports
			f.mu.Unlock()
			cut := time.Now()
			time.Sleep(timing.Abandon)
			if f.Now().Open.Reports != lastReport {
				t.Fatal("a report got through")
			}
			if after := w.stoppedAt().Sub(cut); w.stoppedAt().IsZero() || after > timing.Lease {
				t.Errorf("cut off after %v: stopped %v later, given up after %v", cutAfter, after, timing.Abandon)
			}
			// The leader gives it up; what the member then says comes too late.
			f.set(func(s *schedulepb.State) { s.Open = nil })
			f.mu.Lock()
			f.cut = false
			f.mu.Unlock()
			time.Sleep(time.Minute)
			expectOutcomes(t, f, "")
		})
	}
}

func TestAgentStopsForAPause(t *testing.T) {
	withAgent(t, func(t *testing.T, f *fakeSchedule, w *slowWorker, _ *Agent) {
		f.begin(&schedulepb.Task{Member: 1})
		time.Sleep(time.Second)
		f.set(func(s *schedulepb.State) { s.Paused = &schedulepb.Pause{} })
		expectOutcomes(t, f, "cancelled: maintenance was paused meanwhile")
	})
}

// A task of a process that is gone is closed, not done again.
func TestAgentClosesWhatDiedWithItsPredecessor(t *testing.T) {
	withAgent(t, func(t *testing.T, f *fakeSchedule, w *slowWorker, _ *Agent) {
		f.begin(&schedulepb.Task{Member: 1, Incarnation: 4})
		expectOutcomes(t, f, "interrupted: the process that worked on it is gone")
		f.begin(&schedulepb.Task{Member: 1, Incarnation: 5, Call: 99})
		synctest.Wait()
		expectOutcomes(t, f, "interrupted: the process that worked on it is gone; "+
			"cancelled: whoever asked for it has gone")
		if w.runs != 0 {
			t.Errorf("%d runs", w.runs)
		}
	})
}

func TestAgentSaysThatItStops(t *testing.T) {
	withAgent(t, func(t *testing.T, f *fakeSchedule, _ *slowWorker, a *Agent) {
		f.begin(&schedulepb.Task{Member: 1})
		time.Sleep(time.Second)
		a.Close()
		expectOutcomes(t, f, "interrupted: the member is stopping")
	})
}

// A call waits for its turn, and takes its task with it when its caller goes away.
func TestCallTakesItsTurn(t *testing.T) {
	withAgent(t, func(t *testing.T, f *fakeSchedule, w *slowWorker, a *Agent) {
		led := func() bool { return true }
		f.begin(&schedulepb.Task{Member: 2})
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if _, err := a.Call(ctx, Asked{Kind: schedulepb.Kind_DEFRAG, Reason: "asked", HasLeader: led}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while another member is under maintenance: %v", err)
		}
		cancel()
		time.AfterFunc(time.Minute, func() { f.set(func(s *schedulepb.State) { s.Open = nil }) })
		start := time.Now()
		outcome, err := a.Call(context.Background(), Asked{Kind: schedulepb.Kind_DEFRAG, Reason: "asked", HasLeader: led})
		if err != nil || outcome.Bytes != 7 || time.Since(start) != time.Hour+time.Minute {
			t.Errorf("%v, %v after %v", outcome, err, time.Since(start))
		}
		synctest.Wait()
		ctx, cancel = context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := a.Call(ctx, Asked{Kind: schedulepb.Kind_DEFRAG, Reason: "asked", HasLeader: led}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller that goes away: %v", err)
		}
		synctest.Wait()
		if !strings.Contains(f.outcomes(), "done; cancelled") || f.Now().Open != nil {
			t.Errorf("outcomes: %s, open: %v", f.outcomes(), f.Now().Open)
		}
		free := time.Now().Add(time.Minute)
		start = time.Now()
		outcome, err = a.Call(context.Background(), Asked{Kind: schedulepb.Kind_DEFRAG, Reason: "asked", HasLeader: led, Busy: func(context.Context) string {
			if time.Now().Before(free) {
				return "m2" // at something that is not in the schedule
			}
			return ""
		}})
		if took := time.Since(start); err != nil || outcome.Bytes != 7 || took < time.Hour+time.Minute || took > time.Hour+2*time.Minute {
			t.Errorf("while a member is busy without a turn: %v, %v after %v", outcome, err, took)
		}
		if _, err := a.Call(context.Background(), Asked{Kind: schedulepb.Kind_DEFRAG, Reason: "asked", HasLeader: func() bool { return false }}); !errors.Is(err, ErrNoSchedule) {
			t.Errorf("without a leader: %v", err)
		}
	})
}
