package apply

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// timelinePrefix begins the keys of the samples in our own bucket; 8 bytes of time follow, big-endian nanoseconds.
// The value is the revision, 8 bytes big-endian.
const timelinePrefix = "timeline/"

// Sample says that the store had reached Revision at Time, by the clock of whoever led then.
type Sample struct {
	Time     time.Time
	Revision int64
}

// Timeline maps time to revisions. It is replicated, so that time-window compaction survives restarts and changes of
// leader. The apply goroutine changes it; anyone may read it.
type Timeline struct {
	mu struct {
		sync.RWMutex
		samples []Sample // ascending by time, and so by revision
	}
}

// Load replaces the samples by those that view holds.
func (t *Timeline) Load(view *backend.View) error {
	var samples []Sample
	start := []byte(timelinePrefix)
	end := []byte(timelinePrefix[:len(timelinePrefix)-1] + "0") // the byte after '/'
	err := view.ScanBucket(backend.Upkeep, start, end, func(k, v []byte) error {
		at := k[len(timelinePrefix):]
		if len(at) != 8 || len(v) != 8 {
			return fmt.Errorf("upkeep bucket: malformed sample %q", k)
		}
		samples = append(samples, Sample{
			Time:     time.Unix(0, int64(binary.BigEndian.Uint64(at))),
			Revision: int64(binary.BigEndian.Uint64(v)),
		})
		return nil
	})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.samples = samples
	return nil
}

// Before returns the newest sample that is no younger than at; ok is false where there is none.
func (t *Timeline) Before(at time.Time) (rev int64, when time.Time, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, s := range slices.Backward(t.mu.samples) {
		if !s.Time.After(at) {
			return s.Revision, s.Time, true
		}
	}
	return 0, time.Time{}, false
}

// After returns the samples of revisions above rev.
func (t *Timeline) After(rev int64) []Sample {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.DeleteFunc(slices.Clone(t.mu.samples), func(s Sample) bool { return s.Revision <= rev })
}

// Last returns the time of the newest sample, zero where there is none.
func (t *Timeline) Last() time.Time {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n := len(t.mu.samples); n > 0 {
		return t.mu.samples[n-1].Time
	}
	return time.Time{}
}

// sample records the revision that is current at the request's time and drops samples that nobody needs any more, and
// those of a clock that ran ahead, which would break the order.
func (t *Timeline) sample(batch *backend.Batch, r *pb.RetentionSampleRequest, rev int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	keep := t.mu.samples
	for len(keep) > 0 && keep[0].Time.UnixNano() < r.DropBeforeUnixNano {
		batch.Delete(backend.Upkeep, timelineKey(keep[0].Time.UnixNano()))
		keep = keep[1:]
	}
	for n := len(keep); n > 0 && keep[n-1].Time.UnixNano() >= r.TimeUnixNano; n = len(keep) {
		batch.Delete(backend.Upkeep, timelineKey(keep[n-1].Time.UnixNano()))
		keep = keep[:n-1]
	}
	keep = append(keep, Sample{Time: time.Unix(0, r.TimeUnixNano), Revision: rev})
	batch.Put(backend.Upkeep, timelineKey(r.TimeUnixNano), binary.BigEndian.AppendUint64(nil, uint64(rev)))
	t.mu.samples = keep
	return nil
}

func timelineKey(unixNano int64) []byte {
	return binary.BigEndian.AppendUint64([]byte(timelinePrefix), uint64(unixNano))
}
