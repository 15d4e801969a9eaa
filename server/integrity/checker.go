package integrity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// ErrNotComparable is returned where members do not stand on the same compact revision, or could not be asked.
var ErrNotComparable = errors.New("integrity: the members' histories cannot be compared at the moment")

const (
	// compareTries and compareRetry are for members that compact a moment later than others.
	compareTries = 5
	compareRetry = 500 * time.Millisecond
)

// Cluster is what the checker needs of the server. Every method may be called at any time.
type Cluster interface {
	IsLeader() bool
	// LeaderChanged is closed at the next change of leader.
	LeaderChanged() <-chan struct{}
	// Current returns the newest revision that the cluster has, once this member has applied it.
	Current(ctx context.Context) (int64, error)
	// Members are all members, learners too, this one included.
	Members() []Member
	// Hash asks one member, this one or another, for its HashKV up to rev.
	Hash(ctx context.Context, member Member, rev int64) Answer
	// CompactionHashes are those that this member's newest compactions made in passing, oldest first.
	CompactionHashes() []Hash
	// RaiseCorrupt puts a CORRUPT alarm through the log in the name of a member, 0 for nobody in particular.
	RaiseCorrupt(ctx context.Context, member uint64) error
}

// Config says what is checked. A zero interval switches that check off.
type Config struct {
	// Interval of the comparison at the current revision.
	Interval time.Duration
	// CompactionInterval of the comparison of the hashes that compactions make.
	CompactionInterval time.Duration
	Logger             *zap.Logger
	// Found is told of every difference; may be nil.
	Found func(Verdict)
}

// Checker compares the members by itself, on whichever member leads.
type Checker struct {
	cluster Cluster
	config  Config
	cancel  context.CancelFunc
	done    sync.WaitGroup
	// checkedUpTo is the newest compaction whose hash has been compared. Only the compaction loop touches it.
	checkedUpTo int64
}

// StartChecker starts the checks; Close stops them.
func StartChecker(cluster Cluster, config Config) *Checker {
	if config.Logger == nil {
		config.Logger = zap.NewNop()
	}
	if config.Found == nil {
		config.Found = func(Verdict) {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Checker{cluster: cluster, config: config, cancel: cancel}
	if config.Interval > 0 {
		c.done.Go(func() { c.every(ctx, config.Interval, c.compareNow) })
	}
	if config.CompactionInterval > 0 {
		c.done.Go(func() { c.every(ctx, config.CompactionInterval, c.compareCompactions) })
	}
	return c
}

// Close stops the checks and waits for what is under way.
func (c *Checker) Close() {
	c.cancel()
	c.done.Wait()
}

// every takes a step each interval while this member leads.
func (c *Checker) every(ctx context.Context, interval time.Duration, step func(context.Context) error) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !c.cluster.IsLeader() {
			continue
		}
		if err := step(ctx); err != nil && ctx.Err() == nil {
			c.config.Logger.Warn("corruption check failed, will try again", zap.Error(err), zap.Duration("in", interval))
		}
	}
}

func (c *Checker) compareNow(ctx context.Context) error {
	v, err := Compare(ctx, c.cluster)
	if err != nil {
		return err
	}
	return Report(ctx, c.cluster, v, c.config.Logger, c.config.Found)
}

// compareCompactions compares the newest compaction hash that all members still know and that was not compared yet.
func (c *Checker) compareCompactions(ctx context.Context) error {
	for _, own := range slices.Backward(c.cluster.CompactionHashes()) {
		if own.Revision <= c.checkedUpTo {
			return nil
		}
		answers := ask(ctx, c.cluster, own.Revision)
		for i := range answers {
			// A member that knows the hash no more, since it was restarted, has nothing to compare. That is no fault.
			if answers[i].Short || answers[i].CompactRevision != own.CompactRevision {
				answers[i].Err, answers[i].Short = errors.Join(answers[i].Err, ErrNotComparable), false
			}
		}
		v := Judge(answers)
		if !v.Equal() {
			c.checkedUpTo = own.Revision
			return Report(ctx, c.cluster, v, c.config.Logger, c.config.Found)
		}
		if v.Complete() {
			c.checkedUpTo = own.Revision
			c.config.Logger.Info("compared the hashes of a compaction", zap.Int64("revision", own.Revision),
				zap.Uint32("hash", own.Sum), zap.Int("members", v.Compared))
			return nil
		}
	}
	return nil
}

// Compare asks all members for their history up to the revision that is current now. They are asked again for a while
// where their floors differ, since compactions are not applied everywhere at once, and where they differ themselves: the
// hash of a store in which no key exists, which is etcd's, counts what a compaction has yet to delete.
func Compare(ctx context.Context, cluster Cluster) (Verdict, error) {
	for try := 1; ; try++ {
		rev, err := cluster.Current(ctx)
		if err != nil {
			return Verdict{}, err
		}
		v := Judge(ask(ctx, cluster, rev))
		switch {
		case v.Equal() && v.Complete():
			return v, nil
		case try == compareTries && v.Compared > 1:
			return v, nil // what some did not answer, the caller sees
		case try == compareTries:
			return v, fmt.Errorf("%w: %s", ErrNotComparable, v.Detail())
		}
		timer := time.NewTimer(compareRetry)
		select {
		case <-ctx.Done():
			timer.Stop()
			return v, ctx.Err()
		case <-timer.C:
		}
	}
}

// ask asks all members at once.
func ask(ctx context.Context, cluster Cluster, rev int64) []Answer {
	members := cluster.Members()
	answers := make([]Answer, len(members))
	var asked sync.WaitGroup
	for i, m := range members {
		asked.Go(func() { answers[i] = cluster.Hash(ctx, m, rev) })
	}
	asked.Wait()
	return answers
}

// Report raises the alarms that a verdict calls for and tells found.
func Report(ctx context.Context, cluster Cluster, v Verdict, logger *zap.Logger, found func(Verdict)) error {
	if v.Equal() {
		return nil
	}
	found(v)
	if v.Tie {
		logger.Error("members differ and no hash has a majority; raising the CORRUPT alarm for nobody in particular",
			zap.String("answers", v.Detail()))
		return cluster.RaiseCorrupt(ctx, 0)
	}
	var errs []error
	for _, m := range v.Differing {
		logger.Error("a member differs from the majority; raising the CORRUPT alarm for it",
			zap.Stringer("member", m), zap.String("answers", v.Detail()))
		errs = append(errs, cluster.RaiseCorrupt(ctx, m.ID))
	}
	return errors.Join(errs...)
}

// Search finds the first revision at which the histories of two members differ, between the floor that they share and
// rev, at which they do differ. at is 0 if they differ at the floor already: then it lies in what was compacted.
func Search(ctx context.Context, cluster Cluster, healthy, differing Member, rev int64) (at int64, err error) {
	differ := func(r int64) (bool, int64, error) {
		a, b := cluster.Hash(ctx, healthy, r), cluster.Hash(ctx, differing, r)
		switch {
		case a.Err != nil || b.Err != nil:
			return false, 0, errors.Join(a.Err, b.Err)
		case !a.Short && !b.Short && a.CompactRevision != b.CompactRevision:
			return false, 0, ErrNotComparable
		}
		return a.Sum != b.Sum || a.Short != b.Short, a.CompactRevision, nil
	}
	different, floor, err := differ(rev)
	if err != nil || !different {
		return 0, err
	}
	low := max(floor, 1) // equal here, or the search is over
	if different, _, err = differ(low); err != nil || different {
		return 0, err
	}
	for high := rev; ; {
		if high-low == 1 {
			return high, nil
		}
		middle := low + (high-low)/2
		if different, _, err = differ(middle); err != nil {
			return 0, err
		}
		if different {
			high = middle
		} else {
			low = middle
		}
	}
}
