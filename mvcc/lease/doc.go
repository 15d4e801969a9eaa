// Package lease keeps leases: promises to delete the keys attached to them unless a client renews them in time.
//
// There are two halves. What every member must agree on changes only when a log entry is applied: which leases there
// are, their time to live, the keys attached to each, and how much time was left at the last checkpoint. What only the
// leader needs follows its clock: when each lease runs out. The clock never changes the first half; it makes the leader
// propose commands that do.
//
// # A worked example
//
// A client is granted a lease of 60 seconds, on all members by applying the same entry:
//
//	granted, err := lessor.Grant(batch, 7, 60) // {ID: 7, TTL: 60}; bucket lease: 7 -> {ID: 7, TTL: 60}
//	lessor.Attach("lock", 7)                   // by the put that names the lease
//
// On the leader the lease is also put on the schedule for 60 seconds from now. Forty seconds later the client renews:
//
//	ttl, err := lessor.Renew(ctx, 7) // 60; no log entry: the deadline moves to 60 seconds from now
//
// Thirty seconds after that the leader is lost. The new leader does not know what its predecessor's clock said, so it
// starts all leases anew, plus the time that clients needed to find it:
//
//	lessor.Promote(electionTimeout) // 7 runs out in 60 s + election timeout
//
// The client is gone for good. When the time has come, the new leader's server finds 7 in
//
//	ids := <-lessor.Expired() // [7]
//
// and proposes to revoke it. Applying that deletes the keys, all in one revision, and forgets the lease:
//
//	keys, err := lessor.Keys(7) // [lock]; the store deletes them, which detaches each
//	lessor.Remove(batch, 7)
//
// Should the proposal be lost, 7 is offered again a few seconds later.
//
// # Checkpoints
//
// A lease of a day that starts anew with every leader would never run out if leaders changed daily. So the leader has
// the remaining time of long leases written to the log every five minutes (DueCheckpoints, Checkpoint), and a new leader
// starts from there. When such a lease is renewed, what the log says is too little: Renew answers only when the
// checkpoint is taken back, or a leader that comes next might let the lease run out early.
//
// # Many at once
//
// Ten thousand leases that run out in one moment are ten thousand log entries. They are offered a hundred at a time, a
// thousand a second, and no call here waits for that.
package lease
