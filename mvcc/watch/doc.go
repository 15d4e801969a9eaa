// Package watch tells watchers of every change of the store: each watcher gets all events of its keys from its start
// revision on, in revision order, once, and never half of a revision.
//
// # A worked example
//
// The store is at revision 7. A client opens a stream and creates watcher 0 on the keys [a, c) from revision 5:
//
//	hub := watch.NewHub(store, watch.Config{Logger: lg})
//	s := hub.NewStream()
//	id, rev, err := s.Create(watch.CreateOptions{Key: []byte("a"), End: []byte("c"), StartRev: 5}) // 0, 7, nil
//
// Revisions 5 to 7 are history, so the watcher starts as catching up: a goroutine of the hub reads them from the store
// and puts one entry with all their events on the stream's queue. The next revision is 8, which nobody was told of yet,
// so the watcher becomes synced: it now stands in the index by its keys.
//
// A put of b commits as revision 8. The apply goroutine calls hub.Notify(8, events), which does no more than append to
// a list. The dispatcher, another goroutine of the hub, finds the watchers of b in the index and appends an entry to
// each one's stream. The goroutine that serves the client sees, one Next after the other:
//
//	{WatchID: 0, Created: true, Rev: 7}
//	{WatchID: 0, Rev: 7, Events: [put a @5, put b @6, delete a @7]}
//	{WatchID: 0, Rev: 8, Events: [put b @8]}
//
// If the client stops reading, its queue fills. The next event that does not fit makes the watcher catching up again,
// which takes it out of the index, and it costs nothing until the client reads on: then history feeds it from where it
// stopped. If a compaction overtakes it meanwhile, it is cancelled with the revision that it could resume from.
//
// # Who waits for whom
//
// Nobody for a client. Notify appends to the feed under a lock that is held for an append or a swap of two slices. The
// dispatcher and the catch-up goroutine append to stream queues, which are bounded: where there is no room, the watcher
// lags. A feed that grows too long is thrown away, and those who were to get it read it from history.
//
// Events are shared: all watchers of a key hold the same slice, whatever their number.
//
// # Order of what a stream says
//
// All that a stream says travels through the one queue that Next reads: created, events, progress, canceled. So a
// created comes before its watcher's events, and a progress at revision R comes after all events up to R and before
// all later ones, which clients that resume from it rely on.
package watch
