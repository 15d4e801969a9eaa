package watch

import (
	"errors"
	"fmt"
	"sync"

	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// fakeStore is a history in memory. It forgets nothing, so that tests can tell what should have been told, but acts as
// if it had: what is below the floor is refused at the start of a read, and silently missing if the floor moves during
// one, which is the worst that a store may do.
type fakeStore struct {
	mu      sync.Mutex
	compact int64
	log     [][]*mvccpb.Event // by revision
	reads   int               // calls of Events
	fail    error             // what Events returns
	onRead  func(rev int64)   // called before each revision of Events is read
}

func newFakeStore() *fakeStore { return &fakeStore{compact: -1, log: make([][]*mvccpb.Event, 2)} }

func (f *fakeStore) Revision() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int64(len(f.log)) - 1
}

func (f *fakeStore) CompactRevision() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.compact
}

func (f *fakeStore) Compact(rev int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.compact = max(f.compact, rev)
}

var errFakeCompacted = errors.New("fake: compacted")

func (f *fakeStore) Events(from int64, maxRevs int, fn func(int64, []*mvccpb.Event) error) (int64, error) {
	f.mu.Lock()
	f.reads++
	end, compact, fail := int64(len(f.log)), f.compact, f.fail
	f.mu.Unlock()
	if fail != nil {
		return 0, fail
	}
	if from < compact {
		return 0, errFakeCompacted
	}
	rev := from
	for n := 0; rev < end && n < maxRevs; rev++ {
		if f.onRead != nil {
			f.onRead(rev)
		}
		f.mu.Lock()
		events := f.log[rev]
		if rev < f.compact {
			events = nil
		}
		f.mu.Unlock()
		if len(events) == 0 {
			continue
		}
		n++
		if err := fn(rev, events); err != nil {
			return 0, err
		}
	}
	return rev, nil
}

func (f *fakeStore) PrevKV(key []byte, rev int64) *mvccpb.KeyValue {
	f.mu.Lock()
	defer f.mu.Unlock()
	if rev < f.compact {
		return nil
	}
	return f.at(string(key), rev)
}

// at returns the pair of a key at a revision, from all history. The caller holds mu.
func (f *fakeStore) at(key string, rev int64) *mvccpb.KeyValue {
	for rev = min(rev, int64(len(f.log))-1); rev > 0; rev-- {
		for _, ev := range f.log[rev] {
			if string(ev.Kv.Key) != key {
				continue
			}
			if ev.Type == mvccpb.Event_DELETE {
				return nil
			}
			return ev.Kv
		}
	}
	return nil
}

// op is a put, or a delete where del is set.
type op struct {
	key, value string
	del        bool
}

// commit writes a revision and returns it with its events. Deletes of absent keys do nothing.
func (f *fakeStore) commit(ops ...op) (int64, []*mvccpb.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rev := int64(len(f.log))
	var events []*mvccpb.Event
	for _, o := range ops {
		prev := f.at(o.key, rev-1)
		kv := &mvccpb.KeyValue{Key: []byte(o.key), ModRevision: rev}
		ev := &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: kv}
		if o.del && prev == nil {
			continue
		}
		if !o.del {
			ev.Type = mvccpb.Event_PUT
			kv.Value, kv.CreateRevision, kv.Version = []byte(o.value), rev, 1
			if prev != nil {
				kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
			}
		}
		events = append(events, ev)
	}
	if len(events) == 0 {
		return rev - 1, nil
	}
	f.log = append(f.log, events)
	return rev, events
}

// write commits and notifies, as the apply goroutine does.
func (f *fakeStore) write(h *Hub, ops ...op) int64 {
	rev, events := f.commit(ops...)
	h.Notify(rev, events)
	return rev
}

// expected returns what a watcher must be told in [from, to].
func (f *fakeStore) expected(sp span, noPut, noDelete bool, from, to int64) []*mvccpb.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	var want []*mvccpb.Event
	for rev := max(from, 0); rev <= to && rev < int64(len(f.log)); rev++ {
		for _, ev := range f.log[rev] {
			k := string(ev.Kv.Key)
			if k < sp.key || !sp.bound().beyond([]byte(k)) {
				continue
			}
			if ev.Type == mvccpb.Event_PUT && noPut || ev.Type == mvccpb.Event_DELETE && noDelete {
				continue
			}
			want = append(want, ev)
		}
	}
	return want
}

func eventString(ev *mvccpb.Event) string {
	prev := ""
	if ev.PrevKv != nil {
		prev = fmt.Sprintf(" (was %s @%d)", ev.PrevKv.Value, ev.PrevKv.ModRevision)
	}
	if ev.Type == mvccpb.Event_DELETE {
		return fmt.Sprintf("delete %s @%d%s", ev.Kv.Key, ev.Kv.ModRevision, prev)
	}
	return fmt.Sprintf("put %s=%s @%d%s", ev.Kv.Key, ev.Kv.Value, ev.Kv.ModRevision, prev)
}

// valid checks the hub's invariants.
func (h *Hub) valid() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	live, lagging := 0, 0
	for s := range h.streams {
		behind := 0
		for id, w := range s.watchers {
			live++
			switch {
			case w.id != id || w.stream != s:
				return fmt.Errorf("watcher %d stands under id %d", w.id, id)
			case w.state == cancelled:
				return fmt.Errorf("watcher %d is cancelled and still on its stream", id)
			case w.state == synced && (w.interest == nil || w.interest.watchers[w.position] != w || w.interest.span != w.span):
				return fmt.Errorf("watcher %d is synced and not in the index", id)
			case w.state == catchingUp && w.interest != nil:
				return fmt.Errorf("watcher %d is catching up and in the index", id)
			}
			if _, in := h.lagging[w]; in != (w.state == catchingUp) {
				return fmt.Errorf("watcher %d is %v; among the lagging: %v", id, w.state, in)
			}
			if w.state == catchingUp {
				behind++
			}
		}
		if s.lagging != behind || s.watchable != len(s.watchers) {
			return fmt.Errorf("stream counts %d lagging of %d, has %d of %d", s.lagging, s.watchable, behind, len(s.watchers))
		}
		lagging += behind
	}
	if int64(live) != h.live.Load() || lagging != len(h.lagging) || int64(lagging) != h.slow.Load() {
		return fmt.Errorf("counted %d live, %d lagging; have %d, %d, %d", live, lagging, h.live.Load(), len(h.lagging), h.slow.Load())
	}
	if h.live.Load() == int64(lagging) && (len(h.index.keys) > 0 || h.index.ranges.len() > 0) {
		return errors.New("nobody is synced and the index is not empty")
	}
	return nil
}
