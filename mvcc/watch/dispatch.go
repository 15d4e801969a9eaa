package watch

// dispatchLoop hands committed revisions to synced watchers, in order. It never waits for a client.
func (h *Hub) dispatchLoop() {
	var spare []commit
	for {
		select {
		case <-h.stop:
			return
		case <-h.feed.ready:
		}
		commits, lostUpTo := h.feed.take(spare)
		if lostUpTo > 0 {
			h.mu.Lock()
			h.skipLocked(lostUpTo)
			h.mu.Unlock()
		}
		for _, c := range commits {
			h.mu.Lock() // for each: creating a watcher need not wait for all
			h.dispatchLocked(c)
			h.mu.Unlock()
		}
		clear(commits)
		spare = commits
	}
}

func (h *Hub) dispatchLocked(c commit) {
	if c.rev <= h.dispatched {
		return // told through history
	}
	h.matched = h.index.matchAll(c.batch.events, h.matched[:0])
	for _, in := range h.matched {
		b := c.batch
		list, lo, hi := in.take(b.events)
		if len(list) < len(b.events) {
			b = newBatch(list)
		}
		h.deliverLocked(in, b, lo, hi, c.rev)
	}
	clear(h.matched)
	h.dispatched = c.rev
	h.answerProgressLocked()
}

// deliverLocked gives one revision's events to all watchers of an interest. Downwards, because one that lags leaves.
func (h *Hub) deliverLocked(in *interest, b *batch, lo, hi int, rev int64) {
	for i := len(in.watchers) - 1; i >= 0; i-- {
		w := in.watchers[i]
		if rev < w.next || !b.wanted(w) {
			continue
		}
		if !w.stream.pushEvents(entry{kind: kindEvents, w: w, rev: rev, batch: b, lo: lo, hi: hi}) {
			h.becomeCatchingUpLocked(w, rev)
			continue
		}
		w.next = rev + 1
		w.quiet = false
	}
}

// skipLocked makes all synced watchers that would have been told of something up to rev read it from history.
func (h *Hub) skipLocked(rev int64) {
	if rev <= h.dispatched {
		return
	}
	for s := range h.streams {
		for _, w := range s.watchers {
			if w.state == synced && w.next <= rev {
				h.becomeCatchingUpLocked(w, max(w.next, h.dispatched+1))
			}
		}
	}
	h.dispatched = rev
	h.answerProgressLocked()
}
