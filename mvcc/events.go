package mvcc

import (
	"bytes"
	"fmt"

	"github.com/upkeep-kv/upkeep/mvcc/revision"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// eventsBytes bounds, loosely, how much history Events holds in memory.
const eventsBytes = 8 << 20

// Events calls fn for each revision of the history from revision from on that
// has changes, oldest first and always whole: at most maxRevs of them, fewer if
// they are large. It returns the first revision it did not get to, which is above
// the store's revision when there is no more. It stops at an error of fn, and
// then returns the revision that fn refused.
//
// A put event carries the whole KV, a deletion key and mod revision; the events
// are the callee's to keep. fn may use the store. Errors: ErrCompacted if from is
// below the compact revision.
func (s *Store) Events(from int64, maxRevs int, fn func(rev int64, events []*mvccpb.Event) error) (next int64, err error) {
	revs, next, err := s.history(max(from, 0), maxRevs)
	if err != nil {
		return from, err
	}
	for _, r := range revs {
		if err := fn(r.rev, r.events); err != nil {
			return r.rev, err
		}
	}
	return next, nil
}

// revisionEvents are the changes of one revision.
type revisionEvents struct {
	rev    int64
	events []*mvccpb.Event
}

func (s *Store) history(from int64, maxRevs int) (revs []revisionEvents, next int64, err error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	next = s.Revision() + 1
	if from >= next {
		return nil, from, nil
	}
	// With the view taken first, what is above the floor now is in the view.
	view := s.backend.View()
	defer view.Close()
	if from < s.CompactRevision() {
		return nil, from, ErrCompacted
	}
	size := 0
	start := revision.AppendKey(nil, revision.Revision{Main: from}, false)
	end := revision.AppendKey(nil, revision.Revision{Main: next}, false)
	err = view.Scan(start, end, func(k, v []byte) error {
		rev, deletion, err := revision.ParseKey(k)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if len(v) == 0 {
			return nil // a bumped revision: no change
		}
		if n := len(revs); n == 0 || revs[n-1].rev != rev.Main {
			if n == maxRevs || size > eventsBytes {
				next = rev.Main
				return errStop
			}
			revs = append(revs, revisionEvents{rev: rev.Main})
		}
		size += len(v)
		event, err := makeEvent(rev, deletion, bytes.Clone(v))
		last := &revs[len(revs)-1]
		last.events = append(last.events, event)
		return err
	})
	if err != nil && err != errStop {
		return nil, from, err
	}
	return revs, next, nil
}

func makeEvent(rev revision.Revision, deletion bool, v []byte) (*mvccpb.Event, error) {
	kv := &mvccpb.KeyValue{}
	if err := kv.UnmarshalVTUnsafe(v); err != nil {
		return nil, fmt.Errorf("%w: revision %v: %w", ErrCorrupt, rev, err)
	}
	if deletion {
		kv.ModRevision = rev.Main
		return &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: kv}, nil
	}
	return &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv}, nil
}
