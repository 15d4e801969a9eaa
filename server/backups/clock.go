package backups

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/upkeep-kv/upkeep/snapshot/backup"
)

const (
	// sampleInterval is how finely a restore can tell moments apart.
	sampleInterval = time.Second
	// maxSamples bounds what a Clock remembers: of a day in which something changes every second, every eighth second of the
	// older part.
	maxSamples = 16 << 10
)

// Clock notes which revision is current when, every second in which that changes. It belongs to one member and is kept in
// memory only: each backup carries the part that it needs.
type Clock struct {
	revision func() int64
	wanted   func() bool

	mu      sync.Mutex
	samples []backup.Sample // ascending by time
}

// NewClock returns a clock of what revision returns, which runs while wanted says so.
func NewClock(revision func() int64, wanted func() bool) *Clock {
	return &Clock{revision: revision, wanted: wanted}
}

// Run notes samples until ctx ends. changed returns a channel that is closed when what wanted says may have changed.
func (c *Clock) Run(ctx context.Context, changed func() <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		change := changed()
		if c.wanted() {
			c.sample(time.Now())
			timer.Reset(sampleInterval)
			change = nil // looked at again in a second anyway
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-change:
		case <-timer.C:
		}
	}
}

func (c *Clock) sample(now time.Time) {
	rev := c.revision()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := backup.Sample{Time: now.UTC().Round(0), Revision: rev}
	if n := len(c.samples); n > 0 && c.samples[n-1].Revision == rev {
		return
	}
	c.samples = append(c.samples, s)
	if len(c.samples) < maxSamples {
		return
	}
	thinned := c.samples[:0]
	for i, s := range c.samples {
		if i >= maxSamples/2 || i%2 == 0 {
			thinned = append(thinned, s)
		}
	}
	c.samples = thinned
}

// Samples are those of revisions above after.
func (c *Clock) Samples(after int64) []backup.Sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.samples), func(s backup.Sample) bool { return s.Revision <= after })
}
