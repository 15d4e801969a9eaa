package index

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/upkeep-kv/upkeep/mvcc/revision"
)

// entry is the history of one key. Guarded by Index.mu.
//
// Invariants (see valid): older is strictly increasing and older than newest;
// version is 0 exactly if newest is a deletion, and then so are created and lease.
type entry struct {
	newest  revision.Revision
	created int64 // main revision of the put that began the live generation
	version int64 // puts in the live generation up to newest; 0: the key is deleted
	lease   int64 // attached by newest; 0: none
	older   *[]change
}

// change is one revision of a key, in 16 bytes.
type change struct {
	main        int64
	subDeletion int64 // sub<<1 | 1 if it is a deletion
}

func makeChange(rev revision.Revision, deletion bool) change {
	c := change{main: rev.Main, subDeletion: rev.Sub << 1}
	if deletion {
		c.subDeletion |= 1
	}
	return c
}

func (c change) deletion() bool { return c.subDeletion&1 != 0 }

func (c change) revision() revision.Revision {
	return revision.Revision{Main: c.main, Sub: c.subDeletion >> 1}
}

func (e *entry) deleted() bool { return e.version == 0 }

// put makes rev the newest change and returns the lease attached before.
func (e *entry) put(rev revision.Revision, lease int64) (prevLease int64) {
	prevLease = e.lease
	e.push(rev)
	if e.version == 0 {
		e.created = rev.Main
	}
	e.version++
	e.lease = lease
	return prevLease
}

// delete makes rev, a deletion, the newest change.
func (e *entry) delete(rev revision.Revision) (prevLease int64) {
	prevLease = e.lease
	e.push(rev)
	e.created, e.version, e.lease = 0, 0, 0
	return prevLease
}

// push files the present newest change among the older ones.
func (e *entry) push(rev revision.Revision) {
	if e.newest != (revision.Revision{}) {
		if e.older == nil {
			e.older = new([]change)
		}
		*e.older = append(*e.older, makeChange(e.newest, e.deleted()))
	}
	e.newest = rev
}

// history is older, possibly empty.
func (e *entry) history() []change {
	if e.older == nil {
		return nil
	}
	return *e.older
}

// at returns the position in history of the newest change whose main revision
// is at most main: len(history) stands for e.newest, -1 for no such change.
func (e *entry) at(main int64) int {
	older := e.history()
	if e.newest.Main <= main {
		return len(older)
	}
	return sort.Search(len(older), func(i int) bool { return older[i].main > main }) - 1
}

// find fills in what a read at revision main sees. It returns false if the key
// does not exist then.
func (e *entry) find(main int64, f *Found) bool {
	if e.newest.Main <= main { // by far the usual case
		f.Rev, f.Created, f.Version, f.Lease = e.newest, e.created, e.version, e.lease
		return e.version != 0
	}
	i := e.at(main)
	if i < 0 || e.history()[i].deletion() {
		return false
	}
	f.Rev = e.history()[i].revision()
	f.Created, f.Version, f.Lease = 0, 0, 0
	return true
}

// existsAt is find without the details.
func (e *entry) existsAt(main int64) bool {
	if e.newest.Main <= main {
		return e.version != 0
	}
	i := e.at(main)
	return i >= 0 && !e.history()[i].deletion()
}

// compact drops what a compaction at revision main deletes. It returns the one
// change at or below main that stays, if any, and whether nothing of the key is
// left, above main neither.
func (e *entry) compact(main int64) (kept revision.Revision, stays, gone bool) {
	i := e.at(main)
	if i < 0 {
		return kept, false, false
	}
	older := e.history()
	kept, deletion := e.newest, e.deleted()
	if i < len(older) {
		kept, deletion = older[i].revision(), older[i].deletion()
	}
	if stays = !deletion || kept.Main == main; !stays {
		if i == len(older) {
			return kept, false, true
		}
		i++ // the deletion goes too
	}
	switch {
	case i == len(older):
		e.older = nil
	case i > 0:
		rest := slices.Clone(older[i:]) // a fresh array, so that the memory comes back
		e.older = &rest
	}
	return kept, stays, false
}

// valid returns what is wrong with the entry, nil if nothing; for tests.
func (e *entry) valid() error {
	last := revision.Revision{Main: -1}
	for _, c := range e.history() {
		if !c.revision().GreaterThan(last) {
			return fmt.Errorf("%v follows %v", c.revision(), last)
		}
		last = c.revision()
	}
	switch {
	case !e.newest.GreaterThan(last):
		return fmt.Errorf("newest %v is not after %v", e.newest, last)
	case e.older != nil && len(*e.older) == 0:
		return errors.New("an empty list of older changes")
	case e.deleted() && (e.created != 0 || e.lease != 0):
		return fmt.Errorf("deleted, but created %d and lease %d", e.created, e.lease)
	case !e.deleted() && (e.created <= 0 || e.created > e.newest.Main):
		return fmt.Errorf("created %d, newest %v", e.created, e.newest)
	}
	return nil
}
