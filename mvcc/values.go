package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/index"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

const (
	// chunk is how many keys a long read takes from index and backend at a time:
	// one hold of the index lock, one view, one allocation for the bytes.
	chunk = 1000
	// Revisions that lie closer together than this, on average, are read by
	// walking the file rather than by searching each.
	denseSpacing = 4
)

// buffer is the scratch space of one read, kept between reads.
type buffer struct {
	found []index.Found
	order []int32  // positions in found, by revision
	raw   [][]byte // encoded values, as found; alias a view's memory
}

func (s *Store) buffer() *buffer { return s.buffers.Get().(*buffer) }

func (s *Store) release(b *buffer) {
	clear(b.found) // no key is kept alive by the pool
	clear(b.raw)
	s.buffers.Put(b)
}

// single is the answer with one key in one allocation.
type single struct {
	res RangeResult
	kv  mvccpb.KeyValue
	kvs [1]*mvccpb.KeyValue
}

// getAt reads one key. The caller sees to it that rev is not compacted, or
// checks afterwards that it was not, and fills in Rev.
func (s *Store) getAt(key []byte, rev int64, opt RangeOptions) (*RangeResult, error) {
	f, ok := s.index.Get(key, rev)
	if !ok {
		return &RangeResult{}, nil
	}
	if opt.CountOnly {
		return &RangeResult{Count: 1}, nil
	}
	one := &single{}
	one.kvs[0] = &one.kv
	one.res.KVs, one.res.Count = one.kvs[:], 1
	if opt.KeysOnly && f.Version != 0 {
		withoutValue(&one.kv, &f, []byte(f.Key))
		return &one.res, nil
	}
	view := s.backend.View()
	defer view.Close()
	var at [revision.Len]byte
	raw := view.Get(revision.AppendKey(at[:0], f.Rev, false))
	if err := decode(&one.kv, &f, bytes.Clone(raw), opt.KeysOnly); err != nil {
		return nil, cause(view, err)
	}
	return &one.res, nil
}

// withoutValue fills in a KV that the index knows all about but value and lease.
func withoutValue(kv *mvccpb.KeyValue, f *index.Found, key []byte) {
	kv.Key, kv.CreateRevision, kv.ModRevision, kv.Version = key, f.Created, f.Rev.Main, f.Version
}

// decode fills in a KV from its encoding, whose bytes it keeps.
func decode(kv *mvccpb.KeyValue, f *index.Found, raw []byte, keysOnly bool) error {
	if len(raw) == 0 {
		return fmt.Errorf("%w: revision %v of key %q is in the index but not in the backend", ErrCorrupt, f.Rev, f.Key)
	}
	if err := kv.UnmarshalVTUnsafe(raw); err != nil {
		return fmt.Errorf("%w: revision %v of key %q: %w", ErrCorrupt, f.Rev, f.Key, err)
	}
	if keysOnly {
		kv.Key, kv.Value, kv.Lease = []byte(f.Key), nil, 0
	}
	return nil
}

// cause tells corruption from a backend that was closed: its views find nothing.
func cause(view *backend.View, err error) error {
	if view.Err() != nil {
		return ErrClosed
	}
	return err
}

// load appends to dst the KVs that were found.
func (s *Store) load(dst []*mvccpb.KeyValue, buf *buffer, keysOnly bool) ([]*mvccpb.KeyValue, error) {
	kvs := make([]mvccpb.KeyValue, len(buf.found))
	for i := range kvs {
		dst = append(dst, &kvs[i])
	}
	buf.order = buf.order[:0]
	if keysOnly {
		buf.loadKeys(kvs)
	} else {
		for i := range kvs {
			buf.order = append(buf.order, int32(i))
		}
	}
	if len(buf.order) == 0 {
		return dst, nil
	}
	view := s.backend.View()
	defer view.Close()
	if err := buf.fetch(view); err != nil {
		return nil, err
	}
	size := 0
	for _, i := range buf.order {
		size += len(buf.raw[i])
	}
	if keysOnly {
		size = 0 // decode copies the keys alone
	}
	arena := make([]byte, 0, size)
	for _, i := range buf.order {
		raw := buf.raw[i]
		if !keysOnly {
			from := len(arena)
			arena = append(arena, raw...)
			raw = arena[from:len(arena):len(arena)]
		}
		if err := decode(&kvs[i], &buf.found[i], raw, keysOnly); err != nil {
			return nil, cause(view, err)
		}
	}
	return dst, nil
}

// loadKeys fills in the KVs without values, as far as the index knows them, and
// puts the others in order.
func (b *buffer) loadKeys(kvs []mvccpb.KeyValue) {
	size := 0
	for i := range b.found {
		size += len(b.found[i].Key)
	}
	arena := make([]byte, 0, size)
	for i := range b.found {
		f := &b.found[i]
		if f.Version == 0 {
			b.order = append(b.order, int32(i))
			continue
		}
		from := len(arena)
		arena = append(arena, f.Key...)
		withoutValue(&kvs[i], f, arena[from:len(arena):len(arena)])
	}
}

// errStop ends a scan early.
var errStop = errors.New("stop")

// fetch fills raw for the positions in order. It asks in revision order, so that
// neighbours in the file are read one after the other, and walks instead of
// searching where they are dense.
func (b *buffer) fetch(view *backend.View) error {
	b.raw = slices.Grow(b.raw[:0], len(b.found))[:len(b.found)]
	byRevision := func(i, j int32) int { return b.found[i].Rev.Compare(b.found[j].Rev) }
	if !slices.IsSortedFunc(b.order, byRevision) {
		slices.SortFunc(b.order, byRevision)
	}
	next := 0 // position in order of the first value not fetched
	rev := func(n int) revision.Revision { return b.found[b.order[n]].Rev }
	last := len(b.order) - 1
	if last > 8 && rev(last).Main-rev(0).Main < int64(denseSpacing*last) {
		var from, to [revision.TombstoneLen]byte
		steps := 0
		err := view.Scan(revision.AppendKey(from[:0], rev(0), false), revision.AppendKey(to[:0], rev(last), true),
			func(k, v []byte) error {
				if at, _, err := revision.ParseKey(k); err != nil {
					return fmt.Errorf("%w: %w", ErrCorrupt, err)
				} else if at == rev(next) {
					b.raw[b.order[next]] = v
					next++
				}
				// A large transaction may hide many changes in one revision.
				if steps++; next > last || steps > 2*denseSpacing*last {
					return errStop
				}
				return nil
			})
		if err != nil && err != errStop {
			return err
		}
	}
	var at [revision.Len]byte
	for ; next <= last; next++ {
		b.raw[b.order[next]] = view.Get(revision.AppendKey(at[:0], rev(next), false))
	}
	return nil
}
