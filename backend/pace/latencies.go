package pace

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Latencies are counted in buckets of a quarter of a power of two microseconds:
// 0, 1, 2, 3, 4, 5, 6, 7, 8-9, 10-11, ... up to a minute.
const buckets = 4 * 25

func bucketOf(took time.Duration) int {
	us := uint64(max(took, 0) / time.Microsecond)
	if us < 4 {
		return int(us)
	}
	exp := bits.Len64(us) - 3 // us>>exp is in 4..7
	return min(4*exp+int(us>>exp), buckets-1)
}

// upperEnd is the latency at which a bucket ends.
func upperEnd(bucket int) time.Duration {
	if bucket < 4 {
		return time.Duration(bucket+1) * time.Microsecond
	}
	exp := bucket/4 - 1
	return time.Duration((4+bucket%4+1)<<exp) * time.Microsecond
}

// counters are written by anyone at any time.
type counters [buckets]atomic.Uint64

func (c *counters) add(took time.Duration) { c[bucketOf(took)].Add(1) }

// histogram is a reading of counters, or several with fading weight.
type histogram struct {
	count [buckets]float64
	total float64
}

// quantile is an upper estimate; 0 of an empty histogram.
func (h *histogram) quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	seen := 0.0
	for i, n := range h.count {
		if seen += n; seen >= q*h.total {
			return upperEnd(i)
		}
	}
	return upperEnd(buckets - 1)
}

// above is how many took longer than limit for certain.
func (h *histogram) above(limit time.Duration) float64 {
	n := 0.0
	for i := bucketOf(limit) + 1; i < buckets; i++ {
		n += h.count[i]
	}
	return n
}

func (h *histogram) scale(f float64) {
	for i := range h.count {
		h.count[i] *= f
	}
	h.total *= f
}

func (h *histogram) add(other *histogram) {
	for i, n := range other.count {
		h.count[i] += n
	}
	h.total += other.total
}

// reader reads what was counted since it last did.
type reader struct {
	from *counters
	last [buckets]uint64
}

func (r *reader) read() (h histogram) {
	for i := range r.from {
		now := r.from[i].Load()
		h.count[i] = float64(now - r.last[i])
		h.total += h.count[i]
		r.last[i] = now
	}
	return h
}
