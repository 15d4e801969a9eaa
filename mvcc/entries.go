package mvcc

import (
	"context"
	"fmt"

	"github.com/upkeep-kv/upkeep/mvcc/revision"
)

// entriesBytes is about how much Entries copies before it lets go of the view.
const entriesBytes = 1 << 20

// Entries calls fn for the entries of bucket `key` with revisions in (after, to], as they are stored and in ascending
// order. It reads in pieces and keeps nothing pinned while fn runs, which may be slow; the bytes are valid during the
// call. Errors: ErrCompacted if a compaction above after has, or may have, taken away some of what is still to come;
// ErrFutureRevision; those of fn and ctx.
func (s *Store) Entries(ctx context.Context, after, to int64, fn func(k, v []byte) error) error {
	if to > s.Revision() {
		return ErrFutureRevision
	}
	p := entriesPiece{
		next: revision.AppendKey(nil, revision.Revision{Main: max(after, 0) + 1}, false),
		end:  revision.AppendKey(nil, revision.Revision{Main: to + 1}, false),
	}
	for done := false; !done; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		var err error
		if done, err = p.read(s); err != nil {
			return err
		}
		at := 0
		for i := 0; i < len(p.lengths); i += 2 {
			k := p.bytes[at : at+p.lengths[i]]
			at += len(k)
			v := p.bytes[at : at+p.lengths[i+1]]
			at += len(v)
			if err := fn(k, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// entriesPiece is a copy of some entries.
type entriesPiece struct {
	next, end []byte
	bytes     []byte
	lengths   []int // of key, value, key, value ...
}

func (p *entriesPiece) read(s *Store) (done bool, err error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	// With the view taken first, what is above the floor now is in the view.
	view := s.backend.View()
	defer view.Close()
	first, _, err := revision.ParseKey(p.next[:revision.Len])
	if err != nil {
		return false, err
	}
	if first.Main <= s.CompactRevision() {
		return false, ErrCompacted
	}
	p.bytes, p.lengths = p.bytes[:0], p.lengths[:0]
	err = view.Scan(p.next, p.end, func(k, v []byte) error {
		if len(p.bytes) >= entriesBytes {
			p.next = append(p.next[:0], k...)
			return errStop
		}
		p.bytes = append(append(p.bytes, k...), v...)
		p.lengths = append(p.lengths, len(k), len(v))
		return nil
	})
	switch err {
	case errStop:
		return false, nil
	case nil:
		return true, nil
	}
	return false, fmt.Errorf("reading entries: %w", err)
}
