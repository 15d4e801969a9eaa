package maintenance

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server/schedule"
)

// watch reports on one task while it is executed, and stops it when it must not go on.
type watch struct {
	agent  *Agent
	task   *schedulepb.Task
	cancel context.CancelCauseFunc
	// paused: maintenance was paused already when the task began, so it was meant to run all the same.
	paused bool
	// lastSign is when the last report that was applied had been proposed. Used by one goroutine at a time.
	lastSign time.Time

	latest struct {
		sync.Mutex
		phase       string
		done, total int64
	}
}

// report is called by the worker.
func (w *watch) report(phase string, done, total int64) {
	w.latest.Lock()
	w.latest.phase, w.latest.done, w.latest.total = phase, done, total
	w.latest.Unlock()
	w.agent.setProgress(Progress{Task: w.task, Phase: phase, Done: done, Total: total})
	if observe := w.agent.cfg.Observer.TaskProgress; observe != nil {
		observe(KindName(w.task.Kind), phase, done, total)
	}
}

// firstReport returns once a report is applied, or an error if the task is not this process's.
func (w *watch) firstReport(ctx context.Context) error {
	if w.task.Incarnation == w.agent.cfg.Incarnation {
		w.lastSign = time.Now() // it began as this process's, a moment ago
		return nil
	}
	for {
		err := w.propose(ctx)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, schedule.ErrNotOpen):
			return errTakenAway
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		sleep(ctx, retryPropose)
	}
}

// propose puts the latest report through the log.
func (w *watch) propose(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.agent.cfg.Timing.Lease)
	defer cancel()
	w.latest.Lock()
	progress := &schedulepb.Progress{
		Task: w.task.Sequence, Incarnation: w.agent.cfg.Incarnation,
		Phase: w.latest.phase, Done: w.latest.done, Total: w.latest.total,
	}
	w.latest.Unlock()
	start := time.Now()
	_, err := w.agent.cfg.Schedule.Propose(ctx, &schedulepb.Command{
		Time: start.UnixNano(), Action: &schedulepb.Command_Progress{Progress: progress},
	})
	if err == nil {
		w.lastSign = start
	}
	return err
}

// run reports until ctx ends, and ends it itself if the schedule or its own silence asks for that.
func (w *watch) run(ctx context.Context) {
	timing := w.agent.cfg.Timing
	reports := make(chan error, 1)
	reporting := false
	lease := time.NewTimer(time.Until(w.lastSign.Add(timing.Lease)))
	defer lease.Stop()
	next := time.NewTimer(timing.Report)
	defer next.Stop()
	defer func() {
		if reporting {
			<-reports
		}
	}()
	for {
		changed := w.agent.cfg.Schedule.Changed()
		now := w.agent.cfg.Schedule.Now()
		switch {
		case now.Open.GetSequence() != w.task.Sequence:
			w.cancel(errTakenAway)
		case now.Paused != nil && !w.paused:
			w.cancel(ErrPaused)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-lease.C:
			w.cancel(errSilenced)
		case <-next.C:
			reporting = true
			go func() { reports <- w.propose(ctx) }()
		case err := <-reports:
			reporting = false
			wait := timing.Report
			if err != nil {
				wait = retryPropose
			} else {
				lease.Reset(time.Until(w.lastSign.Add(timing.Lease)))
			}
			next.Reset(wait)
		}
	}
}
