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
// Defrag copies the file in paced pieces, each on a fresh short read
// transaction, while a journal notes which keys behind the copy were touched.
// The end of the copy chases the tail; the last bit is done between two commits,
// followed by fsync, rename, fsync of the directory and a swap of the handle.
// Old views keep the old file until they are closed. Hash, Snapshot and Census
// read private transactions. Background commits compaction's deletions.
//
// # Lock order
//
// pipeline.mu, then journal.mu, then reaper.mu. No lock is held while bbolt or
// the disk works.
package backend
