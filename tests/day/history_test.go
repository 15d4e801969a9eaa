package day

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// change is what one revision did to one key.
type change struct {
	key, value string
	lease      int64
	deleted    bool
}

func (c change) String() string {
	if c.deleted {
		return "delete " + c.key
	}
	return fmt.Sprintf("put %s (%d bytes, lease %x)", c.key, len(c.value), c.lease)
}

// write is one that was acknowledged.
type write struct {
	change
	revision     int64
	begun, ended time.Time
}

// history is everything that ever happened to the keys, as watchers and writers were told.
type history struct {
	mu      sync.Mutex
	changes map[int64][]change
	by      map[int64]string // which watcher was told first
	last    int64
	acked   []write
	// jumps are online restores: the state at a revision is that at an older one. passed is where watchers were told that
	// the history begins anew.
	jumps   map[int64]int64
	passed  map[string]int64
	events  int
	problem string // the first that was found
}

func newHistory() *history {
	return &history{changes: map[int64][]change{}, by: map[int64]string{}, last: 1, jumps: map[int64]int64{}, passed: map[string]int64{}}
}

func (h *history) fail(format string, args ...any) {
	if h.problem == "" {
		h.problem = time.Now().UTC().Format("15:04:05 ") + fmt.Sprintf(format, args...)
	}
}

// Problem is the first one that was found, "" for none.
func (h *history) Problem() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.problem
}

func (h *history) acknowledged(w write) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked = append(h.acked, w)
}

// told takes what one watcher was told of one revision.
func (h *history) told(who string, rev int64, changes []change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events++
	known, seen := h.changes[rev]
	if !seen {
		h.changes[rev], h.by[rev], h.last = changes, who, max(h.last, rev)
		return
	}
	if !slices.Equal(known, changes) {
		h.fail("watcher %s was told %v of revision %d, and watcher %s %v", who, changes, rev, h.by[rev], known)
	}
}

// follow watches all keys by way of one member after the other until ctx ends. Each response goes on exactly where the one
// before ended.
func (h *history) follow(ctx context.Context, who string, clients []watchClient, first int) {
	next := int64(2)
	for at := first; ctx.Err() == nil; at++ {
		h.watchOnce(ctx, who, clients[at%len(clients)], &next)
		pause(ctx, time.Second)
	}
}

// watchClient is what a watcher is made with: connected to one member, whether that runs or not.
type watchClient func() pb.WatchClient

func clientsOf(c *cluster.Cluster) []watchClient {
	var out []watchClient
	for _, m := range c.Members() {
		client := m.NewClient()
		out = append(out, func() pb.WatchClient { return pb.NewWatchClient(client.ActiveConnection()) })
	}
	return out
}

func (h *history) watchOnce(ctx context.Context, who string, client watchClient, next *int64) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client().Watch(ctx)
	if err != nil {
		return
	}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: *next,
	}}})
	for err == nil {
		var resp *pb.WatchResponse
		if resp, err = stream.Recv(); err != nil {
			return
		}
		if resp.Canceled {
			h.cancelled(who, *next, resp)
			*next = max(*next, resp.CompactRevision+1)
			return
		}
		for len(resp.Events) > 0 {
			rev := resp.Events[0].Kv.ModRevision
			if rev != *next {
				h.mu.Lock()
				h.fail("watcher %s expected revision %d and was told of %d", who, *next, rev)
				h.mu.Unlock()
			}
			var changes []change
			for len(resp.Events) > 0 && resp.Events[0].Kv.ModRevision == rev {
				changes = append(changes, changeOf(resp.Events[0]))
				resp.Events = resp.Events[1:]
			}
			h.told(who, rev, changes)
			*next = rev + 1
		}
	}
}

// cancelled: a watcher that follows closely is cancelled by an online restore only, and once.
func (h *history) cancelled(who string, next int64, resp *pb.WatchResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if resp.CompactRevision < next || h.passed[who] != 0 {
		h.fail("watcher %s at revision %d was cancelled: %s, compacted at %d, earlier at %d", who, next, resp.CancelReason,
			resp.CompactRevision, h.passed[who])
	}
	h.passed[who] = resp.CompactRevision
}

// restored notes an online restore; told later than the watchers.
func (h *history) restored(at, from int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.jumps[at] = from
}

// checkPassed: every watcher was told of the restore, as what it was.
func (h *history) checkPassed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for who, rev := range h.passed {
		if _, restored := h.jumps[rev]; !restored {
			h.fail("watcher %s was told that the history begins at %d; the restores are %v", who, rev, h.jumps)
		}
	}
	if len(h.jumps) > 0 && len(h.passed) != 3 {
		h.fail("of a restore, %v were told", h.passed)
	}
}

// hole tells whether a revision was never given to a write, since an online restore left it out.
func (h *history) hole(rev int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, jump := h.jumps[rev]
	return h.changes[rev] == nil && !jump
}

func changeOf(e *mvccpb.Event) change {
	return change{key: string(e.Kv.Key), value: string(e.Kv.Value), lease: e.Kv.Lease, deleted: e.Type == mvccpb.Event_DELETE}
}

// State is what there was at a revision.
func (h *history) State(rev int64) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stateLocked(rev)
}

func (h *history) stateLocked(rev int64) map[string]string {
	state, first := map[string]string{}, int64(2)
	for at, from := range h.jumps {
		if at <= rev && at >= first {
			state, first = h.stateLocked(from), at+1
		}
	}
	for r := first; r <= rev; r++ {
		for _, c := range h.changes[r] {
			if c.deleted {
				delete(state, c.key)
			} else {
				state[c.key] = c.value
			}
		}
	}
	return state
}

// At is the value of one key at a revision.
func (h *history) At(key string, rev int64) (value string, exists bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for r := min(rev, h.last); r >= 2; r-- {
		if from, jump := h.jumps[r]; jump {
			r = from
		}
		for _, c := range h.changes[r] {
			if c.key == key {
				return c.value, !c.deleted
			}
		}
	}
	return "", false
}

// Last is the newest revision that a watcher was told of.
func (h *history) Last() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// checkAcknowledged looks for every acknowledged write in what watchers were told.
func (h *history) checkAcknowledged() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.acked {
		if !slices.Contains(h.changes[w.revision], w.change) {
			h.fail("%v was acknowledged at revision %d, where watchers were told %v", w.change, w.revision, h.changes[w.revision])
		}
	}
}

// checkMoment tells whether rev can have been the newest revision at a moment: all that was acknowledged before is in it,
// and nothing that began after.
func (h *history) checkMoment(at time.Time, rev int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.acked {
		switch {
		case w.ended.Before(at) && w.revision > rev:
			return fmt.Errorf("%v was acknowledged at %s as revision %d, before %s, which is said to be revision %d", w.change,
				clock(w.ended), w.revision, clock(at), rev)
		case w.begun.After(at) && w.revision <= rev:
			return fmt.Errorf("%v began at %s and has revision %d; that is after %s, which is said to be revision %d", w.change,
				clock(w.begun), w.revision, clock(at), rev)
		}
	}
	return nil
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

// difference says how two states differ, "" if they do not.
func difference(got, want map[string]string) string {
	var out []string
	for k, v := range want {
		if g, ok := got[k]; !ok {
			out = append(out, k+" is missing")
		} else if g != v {
			out = append(out, fmt.Sprintf("%s is %.20q, want %.20q", k, g, v))
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			out = append(out, k+" is too much")
		}
	}
	slices.Sort(out)
	return strings.Join(out[:min(5, len(out))], "; ")
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
