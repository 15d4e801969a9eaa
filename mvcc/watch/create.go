package watch

// CreateOptions describe a watcher.
type CreateOptions struct {
	// ID is the wanted watch id; 0 lets the stream choose the lowest unused one above those it chose before.
	ID int64
	// Key and End are the keys as in a range request: no End for one key, "\x00" for all from Key on. An empty Key is the
	// lowest key. Both are copied.
	Key, End []byte
	// StartRev is the first revision wanted. 0 means the next one; a future one is waited for.
	StartRev int64
	// PrevKV adds to each event the pair that it replaced or deleted, unless that is compacted.
	PrevKV bool
	// NoPut and NoDelete drop events.
	NoPut, NoDelete bool
	// ProgressNotify asks for a response without events whenever nothing happened for a Config.ProgressInterval.
	ProgressNotify bool
	// Fragment is handed through to the responses.
	Fragment bool
}

// Create starts a watcher. It returns the watch id and the store's revision, which the created response that Next
// returns tells as well. Where StartRev is compacted, that response is followed by a canceled one.
//
// ErrCompacted (StartRev is negative), ErrEmptyRange, ErrDuplicateID, ErrClosed: there is no watcher and no response.
func (s *Stream) Create(opt CreateOptions) (id, rev int64, err error) {
	if opt.StartRev < 0 {
		return 0, 0, ErrCompacted
	}
	sp, err := newSpan(opt.Key, opt.End)
	if err != nil {
		return 0, 0, err
	}
	s.waitForRoom()
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.closed {
		return 0, 0, ErrClosed
	}
	if id, err = s.chooseIDLocked(opt.ID); err != nil {
		return 0, 0, err
	}
	h.seq++
	w := &watcher{
		id: id, stream: s, span: sp, startRev: opt.StartRev, seq: h.seq,
		prevKV: opt.PrevKV, noPut: opt.NoPut, noDelete: opt.NoDelete,
		progressNotify: opt.ProgressNotify, fragment: opt.Fragment, quiet: true,
	}
	rev = h.admitLocked(w)
	return id, rev, nil
}

func (s *Stream) chooseIDLocked(wanted int64) (int64, error) {
	if wanted != 0 {
		if s.watchers[wanted] != nil {
			return 0, ErrDuplicateID
		}
		return wanted, nil
	}
	for s.watchers[s.nextID] != nil {
		s.nextID++
	}
	s.nextID++
	return s.nextID - 1, nil
}

// admitLocked makes the watcher live and returns the store's revision from which on it is told of every commit.
func (h *Hub) admitLocked(w *watcher) (rev int64) {
	// First live, then the revision: a commit that Notify did not pass on for lack of watchers is not above it.
	first := h.live.Add(1) == 1
	rev = h.store.Revision()
	if first {
		h.dispatched = max(h.dispatched, rev) // nobody else has been waiting for less
	}
	w.stream.watchers[w.id] = w
	w.stream.setWatchable(len(w.stream.watchers))
	w.stream.pushControl(entry{kind: kindCreated, w: w, rev: rev})
	w.next = w.startRev
	if w.next == 0 {
		w.next = rev + 1
	}
	if w.next > rev {
		h.becomeSyncedLocked(w)
	} else {
		h.becomeCatchingUpLocked(w, w.next)
	}
	return rev
}

// Cancel ends a watcher: Next returns no more events of it, only a canceled response. False: there is no such watcher.
func (s *Stream) Cancel(id int64) bool {
	s.waitForRoom()
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	w := s.watchers[id]
	if w == nil {
		return false
	}
	w.muted.Store(true)
	h.becomeCancelledLocked(w)
	s.pushControl(entry{kind: kindCanceled, w: w, rev: h.store.Revision()})
	return true
}

func (s *Stream) setWatchable(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchable = n
}
