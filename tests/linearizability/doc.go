// Package linearizability records what concurrent clients of a cluster ask and see, and says whether one correct store
// could have answered so.
//
// A test makes a Recorder, lets Clients and Watchers work on a cluster while a nemesis breaks it, ends them, and checks:
//
//	rec := linearizability.NewRecorder(seed)
//	run := linearizability.StartLoad(rec, members, linearizability.Load{Clients: 8, Keys: 6})
//	// … kill, pause, partition, compact …
//	history, err := run.Finish(ctx)
//	report := linearizability.Check(history)
//	for _, v := range report.Violations { t.Error(v) } // such as: stale read: get k1 at revision 17, but 19 was acknowledged before
//
// The check has three parts, which need each other:
//
//   - The events that the watchers saw make up the log: one transaction for each revision, without a gap. Every watcher
//     must have seen exactly its part of the log, in order, once, no revision torn apart (watch.go).
//   - Every answer must be what the log says of the revision in its header, and revisions must rise with real time: a
//     request made after an answer of revision 17 gets 17 or more, a write gets more (ops.go). This covers transactions
//     over several keys and reads of the past, in n log n.
//   - Per key, porcupine searches for an order of the operations that agrees with real time and with a model of the key
//     (model.go). It draws the picture that a failure leaves.
//
// A write that was answered with an error may have happened or not. Every value is written only once, so the log tells
// which; when it happened, it must have happened once, after it was asked for and before it was first seen.
package linearizability
