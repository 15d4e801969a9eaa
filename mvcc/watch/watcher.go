package watch

import "sync/atomic"

// state is where a watcher stands. There is no other record of it: membership in the index and in the set of lagging
// watchers follows from it, and only the verbs in this file change it.
//
//	           Create                 Create
//	(cancelled) ──────► synced   (cancelled) ──────► catchingUp
//
//	            no room in the stream, feed lost, Reset
//	   synced  ──────────────────────────────────────►  catchingUp
//	           ◄──────────────────────────────────────
//	            has all that was dispatched
//
//	   synced, catchingUp  ──────► cancelled
//	     by the client, by Close, by compaction
type state uint8

const (
	// cancelled: not, or no longer, known to the hub.
	cancelled state = iota
	// synced: in the index. It has got all events of its keys in [startRev, dispatched]; the dispatcher feeds it those
	// from next on.
	synced
	// catchingUp: in the set of lagging watchers. It has got all events of its keys in [startRev, next); the catch-up
	// goroutine feeds it from history.
	catchingUp
)

func (s state) String() string { return [...]string{"cancelled", "synced", "catching up"}[s] }

// watcher is one watcher of one stream.
type watcher struct {
	// Fixed at creation.
	id             int64
	stream         *Stream
	span           span
	startRev       int64 // as asked for; 0 for none
	seq            uint64
	prevKV         bool
	noPut          bool
	noDelete       bool
	progressNotify bool
	fragment       bool

	// muted is set when the client cancels, so that Next, which does not take the hub's lock, drops what is queued.
	muted atomic.Bool

	// Guarded by Hub.mu.
	state    state
	next     int64     // lowest revision that it may still have to get
	interest *interest // while synced: its place in the index
	position int
	turn     uint64 // while catching up: the round that served it last; lowest goes first
	quiet    bool   // no events since the last progress tick
}

// leaveLocked undoes what the present state stands for.
func (h *Hub) leaveLocked(w *watcher) {
	switch w.state {
	case synced:
		h.index.remove(w)
	case catchingUp:
		delete(h.lagging, w)
		w.stream.lagging--
		h.slow.Store(int64(len(h.lagging)))
	}
}

// becomeSyncedLocked hands the watcher to the dispatcher. The caller has seen that next is above all that was
// dispatched, so that from here on it misses nothing.
func (h *Hub) becomeSyncedLocked(w *watcher) {
	h.leaveLocked(w)
	w.state = synced
	h.index.add(w)
}

// becomeCatchingUpLocked hands the watcher to the catch-up goroutine, to go on from the revision next.
func (h *Hub) becomeCatchingUpLocked(w *watcher, next int64) {
	h.leaveLocked(w)
	w.state = catchingUp
	w.next = next
	w.turn = h.turn
	h.lagging[w] = struct{}{}
	w.stream.lagging++
	h.slow.Store(int64(len(h.lagging)))
	h.wakeCatchUp()
}

// becomeCancelledLocked forgets the watcher. Its id is free again.
func (h *Hub) becomeCancelledLocked(w *watcher) {
	h.leaveLocked(w)
	w.state = cancelled
	delete(w.stream.watchers, w.id)
	w.stream.setWatchable(len(w.stream.watchers))
	h.live.Add(-1)
}
