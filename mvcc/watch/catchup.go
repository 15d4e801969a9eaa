package watch

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

const (
	// handoverRevisions is how near the end of history the last read is done under the hub's lock. The dispatcher waits
	// meanwhile (nobody else does), so that the watchers become synced instead of running after it for ever.
	handoverRevisions = 64
	// historyRetry is the pause after the store failed to give history.
	historyRetry = 100 * time.Millisecond
)

var errEnough = errors.New("enough")

func (h *Hub) wakeCatchUp() {
	select {
	case h.catchUpWake <- struct{}{}:
	default:
	}
}

// catchUpLoop feeds lagging watchers from history, round after round, until none is left whose client reads.
func (h *Hub) catchUpLoop() {
	retry := time.NewTimer(0)
	retry.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-h.catchUpWake:
		case <-retry.C:
		}
		for more := true; more; {
			select {
			case <-h.stop:
				return
			default:
			}
			var err error
			if more, err = h.catchUpRound(); err != nil {
				h.cfg.Logger.Warn("failed to read history for watchers", zap.Error(err))
				retry.Reset(historyRetry)
			}
		}
	}
}

// catchUpRound reads one piece of history and gives it to all watchers that are about there. It reports whether there
// was anything to do.
func (h *Hub) catchUpRound() (more bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	members := h.pickLocked()
	if len(members) == 0 {
		return false, nil
	}
	from := members[0].next
	for _, w := range members {
		from = min(from, w.next)
	}
	// Near the end the lock is kept; far from it, reading and sorting go on without.
	near := h.store.Revision()-from < handoverRevisions
	if !near {
		h.mu.Unlock()
	}
	hist, err := h.readHistory(from)
	var shares map[span]*batch
	if err == nil {
		shares = share(members, hist.events)
	}
	if !near {
		h.mu.Lock()
	}
	if err != nil {
		if from < h.store.CompactRevision() {
			return true, nil // the next pick cancels
		}
		return false, err
	}
	h.feedLocked(members, hist, shares)
	return true, nil
}

// pickLocked chooses whom the next round serves: the watcher that waited for the longest, and all whose position is
// within one read above it. So a watcher far behind does not hold up one that is nearly there, and those that start
// together stay together. Watchers whose history is gone are cancelled on the way.
func (h *Hub) pickLocked() []*watcher {
	floor := h.store.CompactRevision()
	var runnable []*watcher
	for w := range h.lagging {
		switch {
		case w.next < floor:
			h.becomeCancelledLocked(w)
			w.stream.pushControl(entry{kind: kindCanceled, w: w, compactRev: floor})
		case w.stream.hasRoomOrParks():
			runnable = append(runnable, w)
		}
	}
	if len(runnable) == 0 {
		return nil
	}
	slices.SortFunc(runnable, func(a, b *watcher) int {
		return cmp.Or(cmp.Compare(a.turn, b.turn), cmp.Compare(a.seq, b.seq))
	})
	first := runnable[0].next
	members := runnable[:0]
	for _, w := range runnable {
		if w.next >= first && w.next < first+int64(h.cfg.CatchUpRevisions) {
			members = append(members, w)
		}
	}
	return members
}

// history is a piece of the past: all events in [from, next).
type history struct {
	events   []*mvccpb.Event
	next     int64
	storeRev int64 // after it was read
}

// readHistory reads whole revisions from a revision on, as many as one response may hold.
func (h *Hub) readHistory(from int64) (history, error) {
	var hist history
	bytes, revs, last := 0, 0, int64(0)
	next, err := h.store.Events(from, h.readRevs, func(rev int64, events []*mvccpb.Event) error {
		hist.events = append(hist.events, events...)
		last = rev
		revs++
		for _, ev := range events {
			bytes += eventBytes(ev)
		}
		if bytes >= h.cfg.CatchUpBytes {
			return errEnough
		}
		return nil
	})
	// Ask next time for about what fits, so that the store does not read what we then have no room for.
	h.readRevs = min(2*h.readRevs, h.cfg.CatchUpRevisions)
	if errors.Is(err, errEnough) {
		next, err = last+1, nil
		h.readRevs = min(revs+revs/4+1, h.cfg.CatchUpRevisions)
	}
	if err != nil {
		return history{}, err
	}
	if from < h.store.CompactRevision() {
		return history{}, ErrCompacted // overtaken: some of it may have been deleted while we read
	}
	if next <= from {
		return history{}, fmt.Errorf("watch: store at revision %d has no history from %d on", h.store.Revision(), from)
	}
	hist.next, hist.storeRev = next, h.store.Revision()
	return hist, nil
}

// share sorts events by who wants them. Watchers of the same keys get one batch.
func share(members []*watcher, events []*mvccpb.Event) map[span]*batch {
	ix := newIndex()
	for _, w := range members {
		ix.of(w.span)
	}
	shares := make(map[span]*batch)
	var whole *batch
	for _, in := range ix.matchAll(events, nil) {
		picked, lo, hi := in.take(events)
		switch {
		case hi-lo < len(picked):
			// A copy, so that a queue does not hold the rest in memory.
			shares[in.span] = newBatch(slices.Clone(picked[lo:hi]))
		case len(picked) < len(events):
			shares[in.span] = newBatch(picked)
		default:
			if whole == nil {
				whole = newBatch(events)
			}
			shares[in.span] = whole
		}
	}
	return shares
}

// feedLocked gives the watchers their shares of a piece of history.
func (h *Hub) feedLocked(members []*watcher, hist history, shares map[span]*batch) {
	h.turn++
	for _, w := range members {
		if w.state != catchingUp || w.next >= hist.next {
			continue // cancelled, or moved while the lock was free
		}
		w.turn = h.turn
		if b := shares[w.span]; b != nil && !h.feedOneLocked(w, b, hist.storeRev) {
			continue // no room: from the same place next time
		}
		w.next = hist.next
		if w.next > h.dispatched {
			h.becomeSyncedLocked(w)
		}
	}
}

// feedOneLocked queues what a watcher has not got of a batch. False: its stream has no room.
func (h *Hub) feedOneLocked(w *watcher, b *batch, storeRev int64) bool {
	lo := sort.Search(len(b.events), func(i int) bool { return b.events[i].Kv.ModRevision >= w.next })
	if lo == len(b.events) || !b.wanted(w) {
		return true
	}
	if !w.stream.pushEvents(entry{kind: kindEvents, w: w, rev: storeRev, batch: b, lo: lo, hi: len(b.events)}) {
		return false
	}
	w.quiet = false
	return true
}
