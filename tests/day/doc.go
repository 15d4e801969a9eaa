// Package day lives a day with a cluster of three members that maintains itself, in virtual time.
//
// Clients write, read, hold leases and watch. The members compact to an hour of history, defragment themselves inside a
// window, take full and incremental backups and compare what they hold. Meanwhile the test plays episodes, in an order of
// its seed's own: leaders move and die, a member is down for an hour or cut off, the quota runs full, a bit turns over in
// a database file. Say the test fails with
//
//	day_test.go: seed 7: 13:04:10 begun defrag m1: m2 has been down since 12:58:00
//
// then `UPKEEP_TEST_SEED=7 go test ./tests/day` lives the same day again.
//
// What is checked:
//
//   - history_test.go: what watchers are told has no gap and nothing twice, and is the same on all members; nothing that was
//     acknowledged is missing; a read at a revision gives what was there then; a restore of any moment gives that moment.
//   - scheduler_test.go: at every event of maintenance, that it was allowed to happen.
//   - at the end: equal hashes, files within bounds, and what tests/cluster checks about every cluster, among that what the
//     members say themselves of when they are at work.
package day
