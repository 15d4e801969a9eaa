package index

import (
	"slices"
	"strings"
	"sync"

	"github.com/google/btree"

	"github.com/upkeep-kv/upkeep/mvcc/revision"
)

const (
	// Entries and key bytes of a loaded index are laid out in key order in blocks
	// of these sizes, so that a walk over the keys is a walk through memory, and
	// the collector has fewer objects to look at. A block lives as long as one of
	// its keys does: the loss is bounded by what the index took when it was loaded.
	entryBlock = 128
	keyBlock   = 4096
)

// Loader gathers the history of some keys, fed in revision order. Each belongs
// to one goroutine; Build joins them.
type Loader struct {
	entries map[string]*entry
	free    []entry
}

// NewLoader returns an empty loader.
func NewLoader() *Loader { return &Loader{entries: make(map[string]*entry)} }

// Put adds a put. The loader keeps key until Build.
func (l *Loader) Put(key []byte, rev revision.Revision, created, version, lease int64) {
	e := l.entry(key)
	e.push(rev)
	e.created, e.version, e.lease = created, version, lease
}

// Delete adds a deletion, which may be all that a compaction left of the key.
// The loader keeps key until Build.
func (l *Loader) Delete(key []byte, rev revision.Revision) {
	l.entry(key).delete(rev)
}

func (l *Loader) entry(key []byte) *entry {
	if e, ok := l.entries[string(key)]; ok {
		return e
	}
	if len(l.free) == 0 {
		l.free = make([]entry, entryBlock)
	}
	e := &l.free[0]
	l.free = l.free[1:]
	l.entries[alias(key)] = e
	return e
}

// sorted returns the keys with their entries, in key order, both copied.
func (l *Loader) sorted() []item {
	items := make([]item, 0, len(l.entries))
	for key, e := range l.entries {
		items = append(items, item{key, e})
	}
	l.entries, l.free = nil, nil
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.key, b.key) })
	var entries []entry
	var keys []byte
	for i := range items {
		it := &items[i]
		if len(entries) == 0 {
			entries = make([]entry, min(entryBlock, len(items)-i))
		}
		entries[0] = *it.entry
		it.entry, entries = &entries[0], entries[1:]
		if cap(keys)-len(keys) < len(it.key) {
			keys = make([]byte, 0, max(keyBlock, len(it.key)))
		}
		from := len(keys)
		keys = append(keys, it.key...)
		it.key = alias(keys[from:])
	}
	return items
}

// Build makes an index of what the loaders gathered. No two may hold the same
// key, and none may be used afterwards; neither is what they were fed.
func Build(loaders ...*Loader) *Index {
	parts := make([][]item, len(loaders))
	var sorting sync.WaitGroup
	for i, l := range loaders {
		sorting.Go(func() { parts[i] = l.sorted() })
	}
	sorting.Wait()
	tree := btree.NewG(treeDegree, less)
	for {
		first := -1
		for i, part := range parts {
			if len(part) > 0 && (first < 0 || part[0].key < parts[first][0].key) {
				first = i
			}
		}
		if first < 0 {
			return &Index{tree: tree}
		}
		tree.ReplaceOrInsert(parts[first][0])
		parts[first] = parts[first][1:]
	}
}
