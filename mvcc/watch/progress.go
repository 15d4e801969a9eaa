package watch

import (
	"maps"
	"slices"
)

// RequestProgress asks for a response of the whole stream (watch id StreamWide) with a revision that the store has now
// or later: when it comes out of Next, all events up to that revision have come before, and none above it. Nothing
// comes where the stream has no watchers, or one that is catching up or starts in the future.
func (s *Stream) RequestProgress() {
	s.waitForRoom()
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.closed || len(s.watchers) == 0 {
		return
	}
	rev := h.store.Revision()
	if rev <= h.dispatched {
		s.pushProgressLocked()
		return
	}
	if s.progressRev == 0 {
		h.awaiting = append(h.awaiting, s)
	}
	s.progressRev = rev // the dispatcher is on its way there
}

// RequestProgressOf is the same for one watcher, as the progress ticker does it: nothing comes either where events of
// the watcher were queued since the last RequestProgressOf or tick.
func (s *Stream) RequestProgressOf(id int64) {
	s.waitForRoom()
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := s.watchers[id]; w != nil {
		h.progressOfLocked(w)
	}
}

// answerProgressLocked answers the requests that waited for the dispatcher.
func (h *Hub) answerProgressLocked() {
	waiting := h.awaiting[:0]
	for _, s := range h.awaiting {
		switch {
		case s.closed:
		case s.progressRev > h.dispatched:
			waiting = append(waiting, s)
		default:
			s.progressRev = 0
			s.pushProgressLocked()
		}
	}
	clear(h.awaiting[len(waiting):])
	h.awaiting = waiting
}

func (s *Stream) pushProgressLocked() {
	if len(s.watchers) == 0 || s.lagging > 0 {
		return
	}
	for _, w := range s.watchers {
		if !s.hub.toldLocked(w) {
			return
		}
	}
	s.pushControl(entry{kind: kindProgress, rev: s.hub.dispatched})
}

// toldLocked reports whether the watcher has been given all events up to dispatched, and has begun.
func (h *Hub) toldLocked(w *watcher) bool {
	return w.state == synced && w.startRev <= h.dispatched && w.next <= h.dispatched+1
}

// progressTick tells idle watchers that asked for it how far they are, and sets the next tick. Called by Next.
func (s *Stream) progressTick() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.closed {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(s.watchers)) {
		if w := s.watchers[id]; w.progressNotify {
			h.progressOfLocked(w)
		}
	}
	s.tick.Reset(s.tickAfter())
}

func (h *Hub) progressOfLocked(w *watcher) {
	if w.quiet && h.toldLocked(w) {
		w.stream.pushControl(entry{kind: kindProgress, w: w, rev: h.dispatched})
	}
	w.quiet = true
}
