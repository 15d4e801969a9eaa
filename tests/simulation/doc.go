// Package simulation runs whole clusters for hours of virtual time, breaks and maintains them at random, and looks after
// every step whether what must always hold still does.
//
// # A worked example
//
// One run is three members, six writers that put a value every few heartbeats, two holders of leases, two watchers of all
// keys, and every minute or so one thing done to the cluster, picked by the seed:
//
//	faults       stop, kill, kill all, start again, pause, partition, mute one direction, slow a link, break connections,
//	             slow a disk, fill a disk
//	leadership   move it
//	membership   add a member (sometimes as a learner that is promoted), remove one
//	maintenance  compact, defragment, defragment all members at once, save a snapshot, run into the quota and out again
//
// After each step:
//
//   - a term has one leader, whoever says so and whenever;
//   - no member's applied index or revision goes back while it runs;
//   - members, and one member at different times, have the same hash of the same revisions above the same floor;
//   - a linearizable read through any member sees what was acknowledged before it began;
//   - a key is there as long as its lease was promised to live;
//   - of members that are all asked to defragment, at most one is under maintenance at any moment.
//
// At the end of a run all faults end, and every acknowledged write must be found at its revision on every member, as
// far as history was not compacted, and must have been seen by every watcher, once and in order; then the logs of all members must agree on every committed entry.
//
// # What a seed repeats
//
// A seed fixes the configuration, the steps, what they are done to, and their moments in virtual time, which passes only
// when every goroutine waits. It does not fix the order in which goroutines that are ready at the same moment run, since
// the Go scheduler has no seed. Two runs of a seed are therefore alike and not the same; a failure that depends on such
// an order shows again after some repetitions:
//
//	UPKEEP_TEST_SEED=1234 go test ./tests/simulation -count=20
//
// UPKEEP_TEST_SECONDS sets how long to go on with new seeds. The sums are printed at the end.
package simulation
