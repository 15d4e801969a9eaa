// Package index is the in-memory map from a key to the revisions in which it
// changed. The values live in the backend, filed by revision; the index says
// which revision to ask for.
//
// A key's history is a list of changes in revision order. A put that follows
// nothing or a deletion starts a new generation: the version counts from 1
// again. After
//
//	put a      // revision 2
//	put a      // revision 5
//	delete a   // revision 7
//	put a      // revision 9
//
// the entry of a is
//
//	older:  2/0  5/0  7/0(deletion)
//	newest: 9/0  created 9, version 1
//
// A read at revision 8 looks for the newest change at or below 8, finds the
// deletion, and so finds nothing; a read at 6 finds 5/0. Compacting at 7 leaves
//
//	older:  7/0(deletion)
//	newest: 9/0  created 9, version 1
//
// because a deletion in the very revision of the compaction is kept (see
// Index.Compact for the whole table), and compacting at 8 leaves 9/0 alone.
//
// Almost every key of a real store has one change or a few, so the newest
// change stands in the entry itself and the older ones, 16 bytes each, behind
// one pointer: a key that was put once costs one 48-byte object, its name, and
// a slot in the tree.
//
// One goroutine writes (Put, Delete), one may compact, any number read. Every
// method that walks the tree holds the lock for a bounded number of keys at a
// time, so what it sees may change between two holds; callers get a consistent
// picture by reading at a revision that is already complete and not yet
// compacted.
package index
