// Package maintenance tests what maintenance means, by scripts that can be read as a description of it: testdata holds
// one for each subject, with its prose, what an operator does, and what must be seen.
//
//	# Compaction forgets what was before a revision, and only that.
//
//	compact 4
//	----
//	compacted
//
//	get k rev=3
//	----
//	error: etcdserver: mvcc: required revision has been compacted
//
// Every script runs on a cluster in virtual time (TestUpkeep) and against real processes of etcd (TestEtcd), which must
// show the same. Where the two differ, the command says `differs`, its second line says why, and both outcomes stand
// there:
//
//	put k v on=m0 differs
//	etcd renews the alarm at once, because ...
//	----
//	upkeep: revision 7
//	etcd: error: etcdserver: mvcc: database space exceeded
//
// A script whose first command says `upkeep-only` is about something that cannot be done to etcd; its second line says
// what. `eventually` repeats a command until it shows what is expected, and `any-revision` leaves revisions out of it where
// they depend on timing. `go test ./tests/maintenance -run TestUpkeep
// -rewrite` writes what was seen into the scripts; the same with TestEtcd changes the lines of etcd only.
//
// The commands and their arguments are in the table in commands_test.go. A command that is not there is refused with its
// line and with what was expected.
package maintenance
