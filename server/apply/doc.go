// Package apply is the replicated state machine: what a committed log entry does to the store.
//
// The raft node calls [Machine.Apply] on one goroutine, in log order, on every member. A put travels like this:
//
//	entry 42 {put foo=bar, ID 7}
//	  batch := backend.Begin()                     // the effects of this one entry
//	  alarms.Check(put)                            // refused? a result, the same on every member
//	  txn := store.Begin(batch); txn.Put(foo, bar) // revision 9.0 in the index and in the batch
//	  lessor.Attach(foo, lease)                    // only if the put names a lease
//	  txn.End()                                    // revision 9 is now readable
//	  hub.Notify(9, events)                        // watchers are told
//	batch.Commit(42, term)                         // index 42 becomes durable together with the above
//	result: PutResponse{revision 9}                // wakes the caller that waits for ID 7
//
// Apply reads no clock, no file size and no local setting: given the same log, every member ends in the same state. A
// refusal (lease not found, revision compacted, no space) is a result and leaves no trace; anything else that goes
// wrong means that this member's state can no longer be trusted, and panics.
//
// There is one switch, in machine.go, and a file per kind of command.
package apply
