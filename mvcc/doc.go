// Package mvcc is the multi-version store: every change gets a revision, and
// reads name the revision they want.
//
// Starting from an empty store, which is at revision 1,
//
//	txn := store.Begin(batch)
//	txn.Put("a", "1", 0)
//	txn.End()                       // the store is at revision 2
//
//	txn = store.Begin(batch)
//	txn.DeleteRange("a", nil)
//	txn.Put("b", "1", 0)
//	txn.End()                       // one transaction, one revision: 3
//
//	store.Range(ctx, "a", nil, RangeOptions{})       // nothing
//	store.Range(ctx, "a", nil, RangeOptions{Rev: 2}) // a = 1
//	store.Compact(batch, 3)                          // revision 2 is history no more
//	store.Range(ctx, "a", nil, RangeOptions{Rev: 2}) // ErrCompacted
//
// The index (in memory) knows in which revisions a key changed, the backend
// holds what it changed to, filed by revision in bucket `key`, byte for byte as
// etcd files it.
//
// # Who may do what
//
// One goroutine, the one that applies the log, calls Begin, the methods of
// WriteTxn, Compact and Replace. Everything else may be called by anyone at any
// time, and does not wait for that goroutine.
//
// # How readers stay safe without holding up anyone
//
// A transaction's changes are in the index and the backend before the store's
// revision says so, and a reader looks no further than the revision it began
// with. So only compaction takes anything away from under a reader. It first
// raises the floor, the lowest revision that may be read, and much later, in the
// background, deletes what is below. A reader of one key does not announce
// itself: it reads, then looks whether the floor has passed it meanwhile, and if
// so its answer does not count. A reader of many keys pins its revision, and the
// background deletion waits for pins below the floor.
//
// Lock order: Store.gate, then one of the leaf locks (pins.mu, compactor.mu,
// hashCache.mu, the index's). No leaf lock is held while taking another lock.
package mvcc
