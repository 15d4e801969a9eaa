// Package integrity compares what the members of a cluster hold.
//
// Members that applied the same log have the same history, and so the same HashKV at every revision. A member whose disk
// has turned a bit over does not. Suppose the leader asks all three members for the hash up to revision 70:
//
//	m0  revision 70  compacted at 20  hash 4f1c22d0
//	m1  revision 70  compacted at 20  hash 4f1c22d0
//	m2  revision 70  compacted at 20  hash 91ab0e37
//
// Only answers with the same compact revision can be compared. Two of three agree, so m2 is the one that differs, and a
// CORRUPT alarm is raised in its name. With m1 out of reach nobody could say who is right: that is a tie, and the alarm is
// raised in the name of member 0. Halving the revisions between 20 and 70 then finds the first one at which the two
// histories differ (Search).
//
// Hashing reads a pinned view, pages at a time, and holds no lock that a request needs.
package integrity
