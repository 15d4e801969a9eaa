package maintenance

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// samplesPerWindow is how finely a retention window is resolved.
	samplesPerWindow = 10
	// maxSampleInterval bounds how coarse a long window may get.
	maxSampleInterval = 6 * time.Minute
	// revisionInterval is how often revision mode looks. Source: etcd.
	revisionInterval = 5 * time.Minute
)

// Cluster is what retention needs of the server. Every method may be called at any time.
type Cluster interface {
	IsLeader() bool
	// LeaderChanged is closed at the next change of leader.
	LeaderChanged() <-chan struct{}
	Revision() int64
	CompactRevision() int64
	// RevisionBefore returns the newest sample that is not younger than t, ok false where there is none.
	RevisionBefore(t time.Time) (rev int64, at time.Time, ok bool)
	// LastSample returns the time of the newest sample, zero where there is none.
	LastSample() time.Time
	// Sample puts a sample through the log and drops those before dropBefore.
	Sample(ctx context.Context, now, dropBefore time.Time) error
	// Compact puts a compaction through the log.
	Compact(ctx context.Context, rev int64) error
}

// Retention is how much history is kept: a time window, or a number of revisions, or, with neither, everything.
type Retention struct {
	Window    time.Duration
	Revisions int64
}

// Compactor compacts by itself, on whichever member leads.
type Compactor struct {
	cluster   Cluster
	retention Retention
	logger    *zap.Logger
	cancel    context.CancelFunc
	done      sync.WaitGroup
}

// StartCompactor starts the policy; Close stops it.
func StartCompactor(cluster Cluster, retention Retention, logger *zap.Logger) *Compactor {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Compactor{cluster: cluster, retention: retention, logger: logger, cancel: cancel}
	switch {
	case retention.Window > 0:
		c.done.Go(func() { c.run(ctx, sampleInterval(retention.Window), c.keepWindow) })
	case retention.Revisions > 0:
		c.done.Go(func() { c.run(ctx, revisionInterval, c.keepRevisions) })
	}
	return c
}

// Close stops the policy and waits for what it has under way.
func (c *Compactor) Close() {
	c.cancel()
	c.done.Wait()
}

func sampleInterval(window time.Duration) time.Duration {
	return max(min(window/samplesPerWindow, maxSampleInterval), time.Millisecond)
}

// run takes a step every interval, and at once when this member comes to lead.
func (c *Compactor) run(ctx context.Context, interval time.Duration, step func(context.Context, time.Duration) error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := c.cluster.LeaderChanged()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-timer.C:
		}
		if !c.cluster.IsLeader() {
			timer.Reset(interval)
			continue
		}
		if err := step(ctx, interval); err != nil && !errors.Is(err, context.Canceled) {
			c.logger.Warn("auto compaction failed, will try again", zap.Error(err), zap.Duration("in", interval))
		}
		timer.Reset(interval)
	}
}

// keepWindow takes a sample if one is due and compacts at the newest revision that has left the window.
func (c *Compactor) keepWindow(ctx context.Context, interval time.Duration) error {
	now := time.Now()
	rev, at, found := c.cluster.RevisionBefore(now.Add(-c.retention.Window))
	if last := c.cluster.LastSample(); last.IsZero() || last.After(now) || now.Sub(last) >= interval {
		// The sample that was just found stays: after a failure the next step needs it again.
		if err := c.cluster.Sample(ctx, now, at); err != nil {
			return err
		}
	}
	if !found {
		return nil
	}
	return c.compact(ctx, rev, zap.Duration("window", c.retention.Window), zap.Time("sampled", at))
}

// keepRevisions compacts all but the newest revisions.
func (c *Compactor) keepRevisions(ctx context.Context, _ time.Duration) error {
	return c.compact(ctx, c.cluster.Revision()-c.retention.Revisions, zap.Int64("retention", c.retention.Revisions))
}

func (c *Compactor) compact(ctx context.Context, rev int64, why ...zap.Field) error {
	if rev <= max(c.cluster.CompactRevision(), 1) {
		return nil
	}
	if err := c.cluster.Compact(ctx, rev); err != nil {
		return err
	}
	c.logger.Info("auto compaction", append(why, zap.Int64("revision", rev))...)
	return nil
}
