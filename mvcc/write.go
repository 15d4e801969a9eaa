package mvcc

import (
	"context"
	"slices"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/index"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// Change is one change of a transaction.
type Change struct {
	Type mvccpb.Event_EventType
	// KV is as a watcher gets it: whole for a put, key and mod revision for a
	// deletion. Shared, not to be modified.
	KV *mvccpb.KeyValue
	// PrevLease is the lease that the key had before, 0 for none. For a put that
	// keeps the lease it equals KV.Lease.
	PrevLease int64
}

// WriteTxn is one transaction: its changes share a main revision and are
// numbered from 0 in the order of the calls. Readers see none of them before
// End, and there is no way back: check before writing. Apply goroutine only.
type WriteTxn struct {
	store   *Store
	batch   *backend.Batch
	main    int64 // the revision that the transaction makes, if it changes anything
	changes []Change
}

// Begin starts a transaction that writes into batch. End it before beginning
// another; several may share a batch.
func (s *Store) Begin(batch *backend.Batch) *WriteTxn {
	clear(s.txn.changes) // they belong to the watchers now
	if cap(s.txn.changes) > chunk {
		s.txn.changes = nil // one large deletion shall not keep its memory forever
	}
	s.txn = WriteTxn{store: s, batch: batch, main: s.Revision() + 1, changes: s.txn.changes[:0]}
	return &s.txn
}

// Revision is what the store's revision would be if the transaction ended now.
func (w *WriteTxn) Revision() int64 {
	if len(w.changes) == 0 {
		return w.main - 1
	}
	return w.main
}

// Range is Store.Range, seeing what the transaction has written.
func (w *WriteTxn) Range(key, end []byte, opt RangeOptions) (*RangeResult, error) {
	current := w.Revision()
	rev, err := opt.revision(current, w.store.CompactRevision())
	if err != nil {
		return nil, err
	}
	var res *RangeResult
	if len(end) == 0 {
		res, err = w.store.getAt(key, rev, opt)
	} else {
		res, err = w.store.rangeAt(context.Background(), key, end, rev, opt)
	}
	if err != nil {
		return nil, err
	}
	res.Rev = current
	return res, nil
}

// Put sets key to value, with lease attached (0: none). It takes ownership of
// key and value. It returns the lease that was attached before and the revision
// of the change.
func (w *WriteTxn) Put(key, value []byte, lease int64) (prevLease, rev int64) {
	at := revision.Revision{Main: w.main, Sub: int64(len(w.changes))}
	created, version, prevLease := w.store.index.Put(key, at, lease)
	kv := &mvccpb.KeyValue{
		Key:            key,
		CreateRevision: created,
		ModRevision:    w.main,
		Version:        version,
		Value:          value,
		Lease:          lease,
	}
	size := kv.SizeVT()
	buf := revision.AppendKey(make([]byte, 0, revision.Len+size), at, false)[:revision.Len+size]
	w.batch.Append(buf[:revision.Len:revision.Len], marshal(kv, buf[revision.Len:]))
	w.changes = append(w.changes, Change{Type: mvccpb.Event_PUT, KV: kv, PrevLease: prevLease})
	return prevLease, w.main
}

// DeleteRange deletes the keys that exist in the range (see Range for key and
// end) in key order. It returns how many, and the transaction's revision then.
func (w *WriteTxn) DeleteRange(key, end []byte) (deleted, rev int64) {
	before := len(w.changes)
	if len(end) == 0 {
		if f, ok := w.store.index.Get(key, w.main); ok {
			w.delete(f)
		}
		return int64(len(w.changes) - before), w.Revision()
	}
	buf := w.store.buffer()
	defer w.store.release(buf)
	for span := index.NewSpan(key, end); !span.Done(); {
		buf.found = w.store.index.Collect(buf.found[:0], &span, w.main, chunk)
		w.changes = slices.Grow(w.changes, len(buf.found))
		for _, f := range buf.found {
			w.delete(f)
		}
	}
	return int64(len(w.changes) - before), w.Revision()
}

// delete deletes a key that exists.
func (w *WriteTxn) delete(f index.Found) {
	at := revision.Revision{Main: w.main, Sub: int64(len(w.changes))}
	prevLease, ok := w.store.index.Delete(f.Key, at)
	if !ok {
		panic("mvcc: a key vanished under its writer: " + f.Key)
	}
	filed := mvccpb.KeyValue{Key: []byte(f.Key)}
	size := filed.SizeVT()
	buf := revision.AppendKey(make([]byte, 0, revision.TombstoneLen+size), at, true)[:revision.TombstoneLen+size]
	w.batch.Append(buf[:revision.TombstoneLen:revision.TombstoneLen], marshal(&filed, buf[revision.TombstoneLen:]))
	kv := &mvccpb.KeyValue{Key: filed.Key, ModRevision: w.main}
	w.changes = append(w.changes, Change{Type: mvccpb.Event_DELETE, KV: kv, PrevLease: prevLease})
}

// marshal encodes kv into buf, which is exactly large enough. The encoding is
// the canonical one, fields in order and zero ones left out: hashes of stores
// are compared byte for byte.
func marshal(kv *mvccpb.KeyValue, buf []byte) []byte {
	if _, err := kv.MarshalToSizedBufferVT(buf); err != nil {
		panic("mvcc: encoding into a buffer of the right size: " + err.Error())
	}
	return buf
}

// Changes are the changes so far, in order. The slice is reused by the next
// Begin; what it points to is not.
func (w *WriteTxn) Changes() []Change { return w.changes }

// End makes the changes visible and returns the store's revision, which a
// transaction without changes leaves as it was.
func (w *WriteTxn) End() int64 {
	rev := w.Revision()
	w.store.revision.Store(rev)
	return rev
}
