package index

import (
	"runtime"
	"strings"
	"sync"

	"github.com/google/btree"

	"github.com/upkeep-kv/upkeep/mvcc/revision"
)

const (
	// treeDegree is google/btree's degree: nodes of 31 to 63 items of 24 bytes.
	treeDegree = 32
	// visitsPerHold bounds how many keys a reader visits in one hold of the lock
	// (tens of microseconds), so that the writer never waits long.
	visitsPerHold = 1000
)

// item is what the tree stores. The key stands beside the pointer so that a
// search stays inside the tree's nodes.
type item struct {
	key   string
	entry *entry
}

func less(a, b item) bool { return a.key < b.key }

// Index maps keys to their revisions. See the package comment for who may call what.
type Index struct {
	mu   sync.RWMutex // guards the tree and every entry in it; a leaf lock
	tree *btree.BTreeG[item]
}

// Found is the change of a key that a read at some revision sees.
type Found struct {
	Key string // owned by the index, immutable
	Rev revision.Revision
	// Created, Version and Lease are those of the value if Rev is the newest
	// change of the key. Otherwise they are 0 and only the backend knows them.
	Created, Version, Lease int64
}

// New returns an empty index.
func New() *Index { return &Index{tree: btree.NewG(treeDegree, less)} }

// Len is the number of keys that have any revision left, deleted ones included.
func (x *Index) Len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.tree.Len()
}

// Put records that key was put at rev, which must be newer than every revision
// of the key, with a lease (0: none). It returns what the new value's fields are,
// and the lease the key had until now. It does not keep key.
func (x *Index) Put(key []byte, rev revision.Revision, lease int64) (created, version, prevLease int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	it, ok := x.tree.Get(item{key: alias(key)})
	if !ok {
		it = item{key: string(key), entry: new(entry)}
		x.tree.ReplaceOrInsert(it)
	}
	prevLease = it.entry.put(rev, lease)
	return it.entry.created, it.entry.version, prevLease
}

// Delete records that key was deleted at rev. It returns false, and records
// nothing, if the key does not exist.
func (x *Index) Delete(key string, rev revision.Revision) (prevLease int64, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	it, ok := x.tree.Get(item{key: key})
	if !ok || it.entry.deleted() {
		return 0, false
	}
	return it.entry.delete(rev), true
}

// Get returns what a read of key at revision main sees; false if nothing.
func (x *Index) Get(key []byte, main int64) (f Found, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	it, ok := x.tree.Get(item{key: alias(key)})
	if !ok {
		return f, false
	}
	f.Key = it.key
	return f, it.entry.find(main, &f)
}

// Collect appends to dst what a read of the span at revision main sees, in key
// order, at most limit keys more. It visits a bounded number of keys and moves
// the span behind them: call it again until the span is Done or there is enough.
func (x *Index) Collect(dst []Found, span *Span, main int64, limit int) []Found {
	want := len(dst) + limit
	x.visit(span, func(it item) bool {
		if len(dst) == want {
			return false
		}
		f := Found{Key: it.key}
		if it.entry.find(main, &f) {
			dst = append(dst, f)
		}
		return true
	})
	return dst
}

// Count returns how many keys of the span exist at revision main.
func (x *Index) Count(span Span, main int64) (n int64) {
	for !span.Done() {
		x.visit(&span, func(it item) bool {
			if it.entry.existsAt(main) {
				n++
			}
			return true
		})
	}
	return n
}

// visit calls fn for keys of the span in one hold of the lock, until fn refuses
// a key (which then is the span's next) or visitsPerHold have been visited.
func (x *Index) visit(span *Span, fn func(item) bool) {
	if span.done {
		return
	}
	visits, next, more := 0, "", false
	x.mu.RLock()
	x.tree.AscendGreaterOrEqual(item{key: span.next}, func(it item) bool {
		if span.past(it.key) {
			return false
		}
		if visits == visitsPerHold || !fn(it) {
			next, more = it.key, true
			return false
		}
		visits++
		return true
	})
	x.mu.RUnlock()
	span.next, span.done = next, !more
}

// Leases calls fn for every existing key that has a lease attached. It is meant
// for a store that is not being written.
func (x *Index) Leases(fn func(key string, lease int64)) {
	span := Span{unbounded: true}
	for !span.Done() {
		x.visit(&span, func(it item) bool {
			if it.entry.lease != 0 {
				fn(strings.Clone(it.key), it.entry.lease)
			}
			return true
		})
	}
}

// yield lets whoever waits for the lock have it before the next hold of a long walk.
func yield() { runtime.Gosched() }
