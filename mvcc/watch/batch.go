package watch

import (
	"sync"

	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// batch is a run of events in revision order that any number of watchers share, each a stretch of it.
type batch struct {
	events        []*mvccpb.Event // never changed
	puts, deletes bool            // whether there are any
	bytes         int             // memory that the events hold, about

	// prev holds the same events with their previous pairs, each made when the first stream wants it. Reading the store
	// happens under this lock: whoever else wants it, wants the same.
	prev struct {
		sync.Mutex
		events []*mvccpb.Event
	}
}

// eventOverheadBytes is what an event costs beside its key and value.
const eventOverheadBytes = 192

func eventBytes(ev *mvccpb.Event) int {
	return len(ev.Kv.Key) + len(ev.Kv.Value) + eventOverheadBytes
}

func newBatch(events []*mvccpb.Event) *batch {
	b := &batch{events: events}
	for _, ev := range events {
		if ev.Type == mvccpb.Event_PUT {
			b.puts = true
		} else {
			b.deletes = true
		}
		b.bytes += eventBytes(ev)
	}
	return b
}

// wanted is false where the watcher's filters drop all events.
func (b *batch) wanted(w *watcher) bool {
	return b.puts && !w.noPut || b.deletes && !w.noDelete
}

// withPrev returns events[lo:hi] with previous pairs filled in.
func (b *batch) withPrev(lo, hi int, store Store) []*mvccpb.Event {
	b.prev.Lock()
	defer b.prev.Unlock()
	if b.prev.events == nil {
		b.prev.events = make([]*mvccpb.Event, len(b.events))
	}
	for i := lo; i < hi; i++ {
		if b.prev.events[i] == nil {
			b.prev.events[i] = withPrevKV(b.events[i], store)
		}
	}
	return b.prev.events[lo:hi:hi]
}

func withPrevKV(ev *mvccpb.Event, store Store) *mvccpb.Event {
	if ev.Type == mvccpb.Event_PUT && ev.Kv.CreateRevision == ev.Kv.ModRevision {
		return ev // created: there is none
	}
	prev := store.PrevKV(ev.Kv.Key, ev.Kv.ModRevision-1)
	if prev == nil {
		return ev // compacted
	}
	return &mvccpb.Event{Type: ev.Type, Kv: ev.Kv, PrevKv: prev}
}

// filtered returns the events that the watcher wants; the slice itself where it wants all.
func filtered(events []*mvccpb.Event, w *watcher) []*mvccpb.Event {
	if !w.noPut && !w.noDelete {
		return events
	}
	kept := make([]*mvccpb.Event, 0, len(events))
	for _, ev := range events {
		if ev.Type == mvccpb.Event_PUT && !w.noPut || ev.Type == mvccpb.Event_DELETE && !w.noDelete {
			kept = append(kept, ev)
		}
	}
	return kept
}
