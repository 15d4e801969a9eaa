package auth

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/upkeep-kv/upkeep/proto/authpb"
)

// interval is a half-open range of keys. A nil end means that there is none.
type interval struct{ begin, end []byte }

// intervalOf reads a range as requests and permissions give it: no end for one key, one zero byte for all from key on.
func intervalOf(key, end []byte) interval {
	switch {
	case len(end) == 0:
		return interval{key, append(slices.Clone(key), 0)}
	case len(end) == 1 && end[0] == 0:
		return interval{key, nil}
	}
	return interval{key, end}
}

// compareEnds orders ends: none is behind all others.
func compareEnds(a, b []byte) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return bytes.Compare(a, b)
}

// intervals are disjoint, do not touch, and are in order once merge was called.
type intervals []interval

func (s *intervals) merge() {
	all := *s
	slices.SortFunc(all, func(a, b interval) int {
		return cmp.Or(bytes.Compare(a.begin, b.begin), compareEnds(a.end, b.end))
	})
	merged := all[:0]
	for _, next := range all {
		if n := len(merged); n > 0 && reaches(merged[n-1].end, next.begin) {
			if compareEnds(next.end, merged[n-1].end) > 0 {
				merged[n-1].end = next.end
			}
			continue
		}
		merged = append(merged, next)
	}
	*s = merged
}

// reaches tells whether an interval with this end leaves no gap before begin.
func reaches(end, begin []byte) bool { return end == nil || bytes.Compare(end, begin) >= 0 }

// holding returns the interval in which key lies.
func (s intervals) holding(key []byte) (interval, bool) {
	// Of those that begin at or before key, only the last can reach it.
	at, found := slices.BinarySearchFunc(s, key, func(i interval, key []byte) int { return bytes.Compare(i.begin, key) })
	if !found {
		at--
	}
	if at < 0 || (s[at].end != nil && bytes.Compare(key, s[at].end) >= 0) {
		return interval{}, false
	}
	return s[at], true
}

// covers tells whether every key of a request's range lies in s. A range that holds no key, because its end is not behind
// its begin, is judged by its begin.
func (s intervals) covers(key, end []byte) bool {
	found, ok := s.holding(key)
	switch {
	case !ok:
		return false
	case len(end) == 0:
		return true
	case len(end) == 1 && end[0] == 0:
		return found.end == nil
	}
	return bytes.Compare(end, key) <= 0 || compareEnds(end, found.end) <= 0
}

// permissions are what the roles of a user allow together.
type permissions struct{ read, write intervals }

func newPermissions() *permissions { return &permissions{} }

func (p *permissions) add(granted []*authpb.Permission) {
	for _, g := range granted {
		keys := intervalOf(g.Key, g.RangeEnd)
		switch g.PermType {
		case authpb.Permission_READ:
			p.read = append(p.read, keys)
		case authpb.Permission_WRITE:
			p.write = append(p.write, keys)
		case authpb.Permission_READWRITE:
			p.read = append(p.read, keys)
			p.write = append(p.write, keys)
		}
		// etcd stores a type that it does not know, and grants nothing for it.
	}
}

func (p *permissions) merge() {
	p.read.merge()
	p.write.merge()
}
