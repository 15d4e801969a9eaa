package pace

import (
	"context"
	"time"
)

// Sizes are in whatever unit a job counts its pieces.
type Sizes struct {
	First, Least, Most int
}

// Job is one piece of background work among others. It belongs to one goroutine.
type Job struct {
	g     *Governor
	sizes Sizes
	size  int
	// from is when the piece at hand began.
	from time.Time
}

// Start enters a job, whose first piece begins now.
func (g *Governor) Start(sizes Sizes) *Job {
	if g != nil {
		g.mu.Lock()
		g.mu.jobs++
		g.lookLocked()
		g.mu.Unlock()
		g.works()
	}
	return &Job{g: g, sizes: sizes, size: sizes.First, from: time.Now()}
}

// Close takes the job out, between two pieces or in the middle of one.
func (j *Job) Close() {
	if j.g != nil {
		j.g.rests()
		j.g.mu.Lock()
		j.g.mu.jobs--
		j.g.mu.Unlock()
	}
}

// Size is how large the piece at hand may be.
func (j *Job) Size() int { return j.size }

// Rest ends a piece of the given size, waits for as long as requests need, and
// begins the next one. The error is the cause of the context's end.
func (j *Job) Rest(ctx context.Context) error { return j.RestAfter(ctx, time.Since(j.from)) }

// RestAfter is Rest for a piece that was not work all the time: part of it was
// waiting for somebody else.
func (j *Job) RestAfter(ctx context.Context, worked time.Duration) error {
	share, piece := j.g.allowance()
	j.resize(worked, piece)
	defer func() { j.from = time.Now() }()
	if share >= 1 {
		return context.Cause(ctx)
	}
	rest := time.Duration(float64(worked) * (1/share - 1))
	rest = min(max(rest, leastRest), mostRest)
	if rest <= settle {
		return Sleep(ctx, rest)
	}
	if err := Sleep(ctx, settle); err != nil {
		return err
	}
	j.g.rests()
	defer j.g.works()
	return Sleep(ctx, rest-settle)
}

// resize makes the next piece last as long as it should, if it goes as fast as
// the one before. One piece does not say much, so it is at most twice as large.
func (j *Job) resize(worked, should time.Duration) {
	next := float64(2 * j.size)
	if worked > 0 {
		next = min(next, float64(j.size)*float64(should)/float64(worked))
	}
	j.size = min(max(int(next), j.sizes.Least, 1), j.sizes.Most)
}

// Sleep waits for d or for the end of ctx, whose cause it returns.
func Sleep(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
