package linearizability

// checkWatches holds every watch against the log.
func (c *checker) checkWatches() {
	for _, w := range c.history.Watches {
		c.checkWatch(w)
	}
}

// watchCursor walks through the part of the log that a watch must see.
type watchCursor struct {
	log *log
	key string
	rev int64 // where the next event may be
	sub int
}

// next returns the event that must come next, and its revision; ok is false at the end of the log.
func (w *watchCursor) next() (Event, int64, bool) {
	for {
		tx := w.log.at(w.rev)
		if tx == nil {
			return Event{}, 0, false
		}
		for ; w.sub < len(tx.events); w.sub++ {
			if ev := tx.events[w.sub]; w.key == "" || ev.KV.Key == w.key {
				return ev, w.rev, true
			}
		}
		w.rev, w.sub = w.rev+1, 0
	}
}

func (w *watchCursor) take() { w.sub++ }

// checkWatch checks one watch: it sees every event of its key from its start on, in order, once, no revision in two
// responses, and a bookmark passes over nothing.
func (c *checker) checkWatch(w *Watch) {
	start := w.Start
	if start == 0 {
		start = w.Created + 1
	}
	cursor := watchCursor{log: c.log, key: w.Key, rev: max(start, c.log.first)}
	last := start - 1 // everything up to here has been sent
	for _, b := range w.Batches {
		if b.Compacted > 0 {
			if w.Start >= b.Compacted || !c.compactionAsked(b.Compacted, b.Seq) {
				c.violate("watch ended for no reason", "watch %d (%s) from %d, as if %d were compacted", w.ID, w.Watcher, w.Start, b.Compacted)
			}
			continue
		}
		if len(b.Events) > 0 && b.Events[0].KV.Mod == last && last >= start {
			c.violate("torn revision", "watch %d (%s): revision %d came in two responses", w.ID, w.Watcher, last)
			return
		}
		for _, ev := range b.Events {
			if !c.checkEvent(w, &cursor, last, b, ev) {
				return
			}
			last = ev.KV.Mod
		}
		if b.Rev < last && len(b.Events) > 0 {
			c.violate("header behind its events", "watch %d (%s): header %d, event %d", w.ID, w.Watcher, b.Rev, last)
		}
		if !b.Progress {
			continue
		}
		if ev, rev, ok := cursor.next(); ok && rev <= b.Rev {
			c.violate("lost event", "watch %d (%s) of %q from %d: bookmark %d passes over %s at revision %d",
				w.ID, w.Watcher, w.Key, w.Start, b.Rev, describe([]Event{ev}), rev)
			return
		}
		if b.Rev < last && last >= start {
			c.violate("bookmark goes back", "watch %d (%s): %d after %d", w.ID, w.Watcher, b.Rev, last)
		}
		last = max(last, b.Rev)
	}
}

// checkEvent compares one event with the one that must come next.
func (c *checker) checkEvent(w *Watch, cursor *watchCursor, last int64, b Batch, ev Event) bool {
	want, rev, ok := cursor.next()
	mod := ev.KV.Mod
	switch {
	case mod > c.log.last:
		return false // behind the end of the log, which nobody else has seen for sure
	case mod < last || (!ok || mod < rev):
		c.violate("repeated or reordered event", "watch %d (%s) of %q from %d: %s at revision %d after revision %d",
			w.ID, w.Watcher, w.Key, w.Start, describe([]Event{ev}), mod, last)
		return false
	case mod > rev:
		c.violate("lost event", "watch %d (%s) of %q from %d: %s at revision %d is missing; %s at %d came instead",
			w.ID, w.Watcher, w.Key, w.Start, describe([]Event{want}), rev, describe([]Event{ev}), mod)
		return false
	case ev.Delete != want.Delete || ev.KV != want.KV:
		c.violate("watchers differ", "watch %d (%s): %+v at revision %d, another saw %+v", w.ID, w.Watcher, ev.KV, rev, want.KV)
		return false
	}
	cursor.take()
	if !w.PrevKV {
		return true
	}
	prev, existed := c.log.state(ev.KV.Key, rev-1)
	switch {
	case ev.Prev == nil && existed && !c.compactionAsked(rev, b.Seq):
		c.violate("lost previous pair", "watch %d (%s): %s at revision %d", w.ID, w.Watcher, describe([]Event{ev}), rev)
	case ev.Prev != nil && (!existed || *ev.Prev != prev):
		c.violate("wrong previous pair", "watch %d (%s): %+v before revision %d, it was %+v", w.ID, w.Watcher, *ev.Prev, rev, prev)
	}
	return true
}
