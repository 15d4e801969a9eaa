package linearizability

import (
	"fmt"
	"slices"
	"sort"
	"time"
)

// transaction is one revision of the log.
type transaction struct {
	events []Event
	seen   int64         // moment at which a watcher first had it
	seenAt time.Duration // the same as a time
	op     *Op           // the request that made it, nil for the end of a lease or what is not explained yet
}

// version is what a key was from revision mod on.
type version struct {
	kv   KV
	mod  int64
	gone bool
}

// log is what happened, revision by revision, as the watchers saw it.
type log struct {
	first, last int64 // revisions that it covers
	revisions   []transaction
	versions    map[string][]version // ascending
}

// at returns a revision of the log, nil outside of it.
func (l *log) at(rev int64) *transaction {
	if rev < l.first || rev > l.last {
		return nil
	}
	return &l.revisions[rev-l.first]
}

// state returns what a key was at a revision.
func (l *log) state(key string, rev int64) (KV, bool) {
	all := l.versions[key]
	i := sort.Search(len(all), func(i int) bool { return all[i].mod > rev })
	if i == 0 || all[i-1].gone {
		return KV{}, false
	}
	return all[i-1].kv, true
}

// states returns every pair at a revision, by key.
func (l *log) states(rev int64) []KV {
	var out []KV
	for key := range l.versions {
		if kv, ok := l.state(key, rev); ok {
			out = append(out, kv)
		}
	}
	slices.SortFunc(out, func(a, b KV) int { return compareStrings(a.Key, b.Key) })
	return out
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// firstRevision is that of the first write to an empty store.
const firstRevision = 2

// buildLog merges what the watchers of all keys saw, and replays it.
func (c *checker) buildLog() {
	l := &log{first: firstRevision, last: c.history.Final, versions: map[string][]version{}}
	c.log = l
	l.revisions = make([]transaction, max(0, l.last-l.first+1))
	for _, w := range c.history.Watches {
		for _, b := range w.Batches {
			c.mergeBatch(w, b)
		}
	}
	for i := range l.revisions {
		rev := l.first + int64(i)
		if len(l.revisions[i].events) == 0 {
			c.violate("hole in the log", "no watcher of all keys saw an event of revision %d; the last one is %d", rev, l.last)
			continue
		}
		for _, ev := range l.revisions[i].events {
			c.replay(rev, ev)
		}
	}
}

// mergeBatch adds the events of one response. Those of watchers of single keys count as a sight of the revision only.
func (c *checker) mergeBatch(w *Watch, b Batch) {
	for group := range revisionsOf(b.Events) {
		rev := group[0].KV.Mod
		tx := c.log.at(rev)
		if tx == nil {
			if rev < c.log.first {
				c.violate("impossible revision", "watch %d (%s): an event at revision %d", w.ID, w.Watcher, rev)
			}
			continue
		}
		if tx.seen == 0 || b.Seq < tx.seen {
			tx.seen, tx.seenAt = b.Seq, b.At
		}
		if w.Key != "" {
			continue
		}
		// The fullest sight of a revision counts: a watcher that saw less is found out by its own check.
		if len(group) > len(tx.events) {
			tx.events = group
		}
	}
}

// revisionsOf splits events into runs of the same revision.
func revisionsOf(events []Event) func(func([]Event) bool) {
	return func(yield func([]Event) bool) {
		for from := 0; from < len(events); {
			to := from + 1
			for to < len(events) && events[to].KV.Mod == events[from].KV.Mod {
				to++
			}
			if !yield(events[from:to]) {
				return
			}
			from = to
		}
	}
}

// replay applies one event to the versions and checks what it says of the pair's past.
func (c *checker) replay(rev int64, ev Event) {
	l, kv := c.log, ev.KV
	before, existed := l.state(kv.Key, rev)
	next := version{kv: kv, mod: rev}
	switch {
	case ev.Delete:
		next.gone = true
		if !existed {
			c.violate("impossible delete", "revision %d deletes %s, which did not exist", rev, kv.Key)
		}
	case !existed && (kv.Create != rev || kv.Version != 1):
		c.violate("wrong pair", "revision %d creates %s with create revision %d and version %d", rev, kv.Key, kv.Create, kv.Version)
	case existed && (kv.Create != before.Create || kv.Version != before.Version+1):
		c.violate("wrong pair", "revision %d puts %s with create revision %d and version %d; before: %d and %d",
			rev, kv.Key, kv.Create, kv.Version, before.Create, before.Version)
	}
	l.versions[kv.Key] = append(l.versions[kv.Key], next)
}

// describe tells the events of a revision.
func describe(events []Event) string {
	if len(events) == 0 {
		return "nothing"
	}
	s := ""
	for i, ev := range events {
		if i > 0 {
			s += ", "
		}
		if ev.Delete {
			s += "delete " + ev.KV.Key
		} else {
			s += fmt.Sprintf("%s=%s", ev.KV.Key, ev.KV.Value)
		}
	}
	return s
}
