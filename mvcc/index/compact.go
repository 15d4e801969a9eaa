package index

import (
	"context"
	"slices"
	"time"

	"github.com/upkeep-kv/upkeep/mvcc/revision"
)

// compactionsPerHold bounds the keys compacted in one hold of the write lock.
// It is lower than visitsPerHold because each may have to leave the tree.
const compactionsPerHold = 200

// Kept is what a compaction leaves at or below its revision.
type Kept struct {
	Revisions []revision.Revision // ascending
	Keys      int                 // keys in the index afterwards
	Removed   int                 // keys of which nothing was left
	// LongestHold is the longest time that the index was locked in one go.
	LongestHold time.Duration
}

// Contains reports whether rev is among the kept revisions. Asked in ascending
// order with the same cursor, starting at 0, it takes amortized constant time.
func (k *Kept) Contains(rev revision.Revision, cursor *int) bool {
	for *cursor < len(k.Revisions) && rev.GreaterThan(k.Revisions[*cursor]) {
		*cursor++
	}
	return *cursor < len(k.Revisions) && k.Revisions[*cursor] == rev
}

// Compact drops the revisions that a compaction at revision main deletes. Of
// each key's changes
//
//	above main                                       stay
//	newest at or below main, a put                   stays
//	newest at or below main, a deletion in main      stays
//	newest at or below main, a deletion before main  goes
//	any older one                                    goes
//
// No reader may be reading below main. A cancelled compaction has compacted some
// keys and not others, and can be repeated.
func (x *Index) Compact(ctx context.Context, main int64) (*Kept, error) {
	kept := &Kept{}
	span := Span{unbounded: true}
	for !span.Done() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		x.compactSome(&span, main, kept)
		yield()
	}
	kept.Keys = x.Len()
	slices.SortFunc(kept.Revisions, revision.Revision.Compare)
	return kept, nil
}

func (x *Index) compactSome(span *Span, main int64, kept *Kept) {
	var removed [compactionsPerHold]string
	visits, removals, next, more := 0, 0, "", false
	x.mu.Lock()
	held := time.Now()
	defer func() {
		kept.LongestHold = max(kept.LongestHold, time.Since(held))
		x.mu.Unlock()
	}()
	x.tree.AscendGreaterOrEqual(item{key: span.next}, func(it item) bool {
		if visits == compactionsPerHold {
			next, more = it.key, true
			return false
		}
		visits++
		rev, stays, gone := it.entry.compact(main)
		if stays {
			kept.Revisions = append(kept.Revisions, rev)
		}
		if gone {
			removed[removals] = it.key
			removals++
		}
		return true
	})
	for _, key := range removed[:removals] {
		x.tree.Delete(item{key: key})
	}
	kept.Removed += removals
	span.next, span.done = next, !more
}

// Live returns the revisions, ascending, that a read of all keys at revision
// main sees and that are not above upTo, and whether it sees any key at all.
func (x *Index) Live(ctx context.Context, main, upTo int64) (live *Kept, any bool, err error) {
	live = &Kept{}
	span := Span{unbounded: true}
	for !span.Done() {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		x.visit(&span, func(it item) bool {
			var f Found
			if it.entry.find(main, &f) {
				any = true
				if f.Rev.Main <= upTo {
					live.Revisions = append(live.Revisions, f.Rev)
				}
			}
			return true
		})
	}
	slices.SortFunc(live.Revisions, revision.Revision.Compare)
	return live, any, nil
}
