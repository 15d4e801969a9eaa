package watch

import (
	"cmp"
	"strings"

	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// span is a set of keys: one key, [key, end), or all keys from key on. It is comparable.
type span struct {
	key, end string
	kind     spanKind
}

type spanKind uint8

const (
	oneKey  spanKind = iota // end is empty
	keysTo                  // [key, end)
	keysAll                 // from key on; end is empty
)

// newSpan reads key and range end as a watch request gives them: an empty key is the lowest key, an empty end means one
// key, and an end of one zero byte means no end.
func newSpan(key, end []byte) (span, error) {
	k := string(key)
	if k == "" {
		k = "\x00"
	}
	switch {
	case len(end) == 0:
		return span{key: k}, nil
	case len(end) == 1 && end[0] == 0:
		return span{key: k, kind: keysAll}, nil
	case k >= string(end):
		return span{}, ErrEmptyRange
	}
	return span{key: k, end: string(end), kind: keysTo}, nil
}

func (s span) bound() bound {
	switch s.kind {
	case oneKey:
		return bound{end: s.key + "\x00"}
	case keysAll:
		return bound{open: true}
	}
	return bound{end: s.end}
}

func (s span) compare(t span) int {
	if c := strings.Compare(s.key, t.key); c != 0 {
		return c
	}
	if c := cmp.Compare(s.kind, t.kind); c != 0 {
		return c
	}
	return strings.Compare(s.end, t.end)
}

// interest is all watchers of one span, and while events are matched, what they will get.
type interest struct {
	span     span
	watchers []*watcher

	// The events selected so far: all.events[lo:hi] while they are neighbours there, else a list of its own. Scratch of
	// whoever matches; hi is 0 between matches.
	lo, hi int
	picked []*mvccpb.Event
}

// pick selects all[i] for the watchers of this interest. Indexes come in ascending order; the same one may come only once.
func (in *interest) pick(all []*mvccpb.Event, i int) {
	switch {
	case in.picked != nil:
		in.picked = append(in.picked, all[i])
	case in.hi == 0:
		in.lo, in.hi = i, i+1
	case in.hi == i:
		in.hi++
	default:
		in.picked = append(append(make([]*mvccpb.Event, 0, 2*(in.hi-in.lo)+1), all[in.lo:in.hi]...), all[i])
	}
}

// take returns what was picked out of all, as a stretch of a list, and forgets it. The list is all itself unless the
// picked events are not neighbours there.
func (in *interest) take(all []*mvccpb.Event) (list []*mvccpb.Event, lo, hi int) {
	list, lo, hi = all, in.lo, in.hi
	if in.picked != nil {
		list, lo, hi = in.picked, 0, len(in.picked)
	}
	in.lo, in.hi, in.picked = 0, 0, nil
	return list, lo, hi
}

// index finds interests by key. Single keys, by far the most common, cost one map lookup.
type index struct {
	keys   map[string]*interest
	ranges tree[*interest]
	hits   []*interest // scratch of matchAll
}

func newIndex() *index { return &index{keys: make(map[string]*interest)} }

// of returns the interest of a span, made if need be.
func (ix *index) of(s span) *interest {
	if s.kind == oneKey {
		in := ix.keys[s.key]
		if in == nil {
			in = &interest{span: s}
			ix.keys[s.key] = in
		}
		return in
	}
	in, ok := ix.ranges.get(s)
	if !ok {
		in = &interest{span: s}
		ix.ranges.put(s, in)
	}
	return in
}

// add puts a watcher under its span. The watcher remembers where it is.
func (ix *index) add(w *watcher) {
	in := ix.of(w.span)
	w.interest, w.position = in, len(in.watchers)
	in.watchers = append(in.watchers, w)
}

// remove takes a watcher out again. It moves the last watcher of the interest into the gap, so a loop over watchers
// that removes the current one must run downwards.
func (ix *index) remove(w *watcher) {
	in := w.interest
	last := len(in.watchers) - 1
	in.watchers[w.position] = in.watchers[last]
	in.watchers[w.position].position = w.position
	in.watchers[last] = nil
	in.watchers = in.watchers[:last]
	w.interest = nil
	if last > 0 {
		return
	}
	if in.span.kind == oneKey {
		delete(ix.keys, in.span.key)
	} else {
		ix.ranges.remove(in.span)
	}
}

// match appends all interests in key to dst.
func (ix *index) match(key []byte, dst []*interest) []*interest {
	if in := ix.keys[string(key)]; in != nil {
		dst = append(dst, in)
	}
	return ix.ranges.stab(key, dst)
}

// matchAll lets every interest pick its events out of all. It returns the interests that picked something, in dst.
func (ix *index) matchAll(all []*mvccpb.Event, dst []*interest) []*interest {
	for i, ev := range all {
		ix.hits = ix.match(ev.Kv.Key, ix.hits[:0])
		for _, in := range ix.hits {
			if in.hi == 0 {
				dst = append(dst, in)
			}
			in.pick(all, i)
		}
	}
	clear(ix.hits)
	return dst
}
