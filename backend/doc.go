// Package backend keeps the state of one member in a bbolt file with etcd's
// schema, behind a write pipeline in which no request ever waits for bbolt.
//
// # A worked example
//
// The raft log is durable before an entry is applied, so the file is only a
// checkpoint of it. The apply goroutine hands the backend the effects of one log
// entry at a time:
//
//	t := b.Begin()
//	t.Append(revision(7), kv)              // bucket "key"
//	t.Put(backend.Lease, leaseID, lease)   // a small bucket
//	t.Commit(41, 3)                        // sealed: entry 41 of term 3
//
// Nothing has touched the disk. The effects are in the open batch: revision 7
// at the end of the batch's run, where every View taken from now on finds it,
// and the lease in a list (owners of small buckets keep their truth in memory
// and read the file only when they start). After 100 ms, 10000 operations or
// 32 MiB, whatever comes first, the committer takes the batch and apply goes on
// in a second one:
//
//	    apply                committer
//	      |                      |
//	[ open batch ] --freeze--> [ committing batch ] --one tx--> file
//	      ^                      ^                               ^
//	      +---------- a View reads all three --------------------+
//
// The bbolt transaction holds everything up to entry 41 together with
// consistent_index = 41, so that after a crash the log is replayed from exactly
// there. A batch is only ever frozen between entries. When the transaction is
// durable the committer opens a read transaction on the new state, and with one
// pointer swap readers move from the run to the file; Durable() is now 41.
//
// There are never more than two batches. If the disk cannot keep up both fill,
// and only then Begin waits.
//
// # Readers
//
// A View is a reference to a generation (one read transaction of bbolt, shared
// by all views between two commits) and the lengths of the two runs when it was
// taken. Taking one is a compare-and-swap and an allocation; no lock is shared
// with the committer. The last View of an old generation does not even close the
// transaction itself: a reaper does, because closing takes bbolt's locks.
//
// # Maintenance
//
// Defrag copies the file in pieces, each on a fresh short read transaction,
// while a journal notes which keys behind the copy were touched. The end of the
// copy chases the tail. Then the copy is proved: its pages are walked, and every
// key and value in it is compared with the original, again in pieces on fresh
// transactions, before each of which the copy is brought level. The last bit is
// done between two commits, followed by fsync, rename, fsync of the directory and
// a swap of the handle. Old views keep the old file until they are closed.
//
// How long the committer is held at the end does not depend on the file's size,
// because what does was done before or is done after:
//
//	before  the copy is written back as it grows, so the last fsync finds little
//	        the map is 128 GiB of address space from the start, never made anew
//	        the comparison has read all pages through that map
//	        nothing is opened: the copy's handle becomes the backend's
//	after   the old file is unmapped by the reaper, and shortened bit by bit
//	        before it is closed, since freeing gigabytes at once would hold up the
//	        file system's journal and with it the raft log's syncs
//
// A Snapshot is read from the pinned file for as long as its reader keeps up, and
// from a private copy of those pages when it is still open after five seconds. So
// a fast reader gets its first byte at once and costs no disk, and a slow one does
// not make the file grow. A CompactSnapshot is a copy like Defrag's: on a store
// of 1 GiB with 300 MiB in use it sends 300 MiB instead of 1 GiB, but the first
// byte comes only when the copy is made, and it needs the room for that. That is
// why it has to be asked for.
//
// All of it, and Hash, works in pieces that package pace measures out, and none
// of it holds a lock that a request needs. Census reads a private transaction.
// Background commits compaction's deletions.
//
// # Lock order
//
// pipeline.mu, then journal.mu, then reaper.mu. No lock is held while bbolt or
// the disk works.
package backend
