package mvcc

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/upkeep-kv/upkeep/mvcc/index"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// RangeOptions says what a read returns.
type RangeOptions struct {
	// Limit is how many KVs to return, from the lowest key up; 0: all.
	Limit int64
	// Rev is the revision to read at; 0 or less: the current one.
	Rev int64
	// CountOnly leaves KVs empty.
	CountOnly bool
	// NoCount leaves out Count, which otherwise takes a visit to every key of the
	// range, whatever Limit says.
	NoCount bool
	// KeysOnly leaves out value and lease, which usually spares the backend.
	KeysOnly bool
}

// revision returns the revision to read at.
func (o *RangeOptions) revision(current, floor int64) (int64, error) {
	switch {
	case o.Rev <= 0:
		return current, nil
	case o.Rev > current:
		return 0, ErrFutureRevision
	case o.Rev < floor:
		return 0, ErrCompacted
	}
	return o.Rev, nil
}

// RangeResult is the answer to a read. It belongs to the caller, bytes included.
type RangeResult struct {
	KVs   []*mvccpb.KeyValue
	Count int64 // keys in the range, whatever the limit
	Rev   int64 // the store's revision when it was read
}

// Range returns the keys that existed in [key, end) at a revision, in key order.
// An empty end means key alone, a single zero byte everything from key on.
// Errors: ErrCompacted, ErrFutureRevision, the context's.
func (s *Store) Range(ctx context.Context, key, end []byte, opt RangeOptions) (*RangeResult, error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if len(end) == 0 {
		return s.get(key, opt)
	}
	current := s.Revision()
	rev, err := s.pin(&current, opt)
	if err != nil {
		return nil, err
	}
	defer s.pins.unpin(rev)
	res, err := s.rangeAt(ctx, key, end, rev, opt)
	if err != nil {
		return nil, err
	}
	res.Rev = current
	return res, nil
}

// pin pins the revision that opt asks for. If that is the current one, current
// is moved on as far as it takes to find one that is not compacted.
func (s *Store) pin(current *int64, opt RangeOptions) (int64, error) {
	for {
		rev, err := opt.revision(*current, s.CompactRevision())
		if err != nil {
			return 0, err
		}
		if _, err = s.pins.pin(rev); err == nil {
			return rev, nil
		}
		if opt.Rev > 0 {
			return 0, err
		}
		*current = s.Revision()
	}
}

// get reads one key without pinning. Every repetition takes another compaction
// at a newer revision, so there are not many.
func (s *Store) get(key []byte, opt RangeOptions) (*RangeResult, error) {
	for {
		current := s.Revision()
		rev, err := opt.revision(current, s.CompactRevision())
		if err != nil {
			return nil, err
		}
		res, err := s.tryGet(key, rev, opt)
		switch {
		case err == ErrCompacted && opt.Rev <= 0:
			continue
		case err != nil:
			return nil, err
		}
		res.Rev = current
		return res, nil
	}
}

// tryGet reads one key. An answer during which the floor passed its revision
// does not count, be it an error.
func (s *Store) tryGet(key []byte, rev int64, opt RangeOptions) (*RangeResult, error) {
	res, err := s.getAt(key, rev, opt)
	if s.CompactRevision() > rev {
		return nil, ErrCompacted
	}
	return res, err
}

// PrevKV returns the value of key at rev, nil if there was none or the revision
// is compacted or not there yet.
func (s *Store) PrevKV(key []byte, rev int64) *mvccpb.KeyValue {
	if rev <= 0 {
		return nil
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	res, err := s.get(key, RangeOptions{Rev: rev})
	if err != nil || len(res.KVs) == 0 {
		return nil
	}
	return res.KVs[0]
}

// ReadTxn is several reads of the same state of the store. Safe for concurrent use.
type ReadTxn struct {
	store  *Store
	rev    int64
	closed atomic.Bool
}

// Read pins rev, or the current revision if rev is 0 or less. Close the
// transaction soon: until then no later compaction deletes anything.
func (s *Store) Read(rev int64) (*ReadTxn, error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	current := s.Revision()
	rev, err := s.pin(&current, RangeOptions{Rev: rev})
	if err != nil {
		return nil, err
	}
	return &ReadTxn{store: s, rev: rev}, nil
}

// Rev is the pinned revision.
func (r *ReadTxn) Rev() int64 { return r.rev }

// Range is Store.Range on the pinned state: opt.Rev may name an earlier
// revision, and Rev of the result is the pinned one.
func (r *ReadTxn) Range(ctx context.Context, key, end []byte, opt RangeOptions) (*RangeResult, error) {
	s := r.store
	s.gate.RLock()
	defer s.gate.RUnlock()
	if opt.Rev > r.rev {
		return nil, ErrFutureRevision
	}
	rev := opt.Rev
	if rev <= 0 || rev == r.rev {
		rev = r.rev
		// A floor above the pin bars only new pins, but the store may have been
		// replaced by one that no longer has this revision.
		if !s.pins.holds(rev) {
			return nil, ErrCompacted
		}
	} else {
		if _, err := s.pins.pin(rev); err != nil {
			return nil, err
		}
		defer s.pins.unpin(rev)
	}
	res, err := s.readAt(ctx, key, end, rev, opt)
	if err != nil {
		return nil, err
	}
	res.Rev = r.rev
	return res, nil
}

// Close releases the pin. It may be called more than once.
func (r *ReadTxn) Close() {
	if r.closed.CompareAndSwap(false, true) {
		r.store.pins.unpin(r.rev)
	}
}

// readAt is rangeAt for one key or many. The caller holds gate and a pin.
func (s *Store) readAt(ctx context.Context, key, end []byte, rev int64, opt RangeOptions) (*RangeResult, error) {
	if len(end) == 0 {
		return s.getAt(key, rev, opt)
	}
	return s.rangeAt(ctx, key, end, rev, opt)
}

// rangeAt reads a range. The caller sees to it that rev is not compacted, and
// fills in Rev.
func (s *Store) rangeAt(ctx context.Context, key, end []byte, rev int64, opt RangeOptions) (*RangeResult, error) {
	res := &RangeResult{}
	span := index.NewSpan(key, end)
	if opt.CountOnly {
		res.Count = s.index.Count(span, rev)
		return res, nil
	}
	buf := s.buffer()
	defer s.release(buf)
	for !span.Done() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		want := chunk
		if opt.Limit > 0 {
			if want = int(min(chunk, opt.Limit-int64(len(res.KVs)))); want == 0 {
				break
			}
		}
		buf.found = s.index.Collect(buf.found[:0], &span, rev, want)
		res.KVs = slices.Grow(res.KVs, len(buf.found))
		var err error
		if res.KVs, err = s.load(res.KVs, buf, opt.KeysOnly); err != nil {
			return nil, err
		}
	}
	if !opt.NoCount {
		res.Count = int64(len(res.KVs)) + s.index.Count(span, rev)
	}
	return res, nil
}
