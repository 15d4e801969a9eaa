// Package soak keeps a cluster of three real processes under load for as long as it is let, and watches what a member
// must not use more of as time goes by: memory, disk, files, goroutines, file descriptors.
//
// What is held as data stays the same: the load overwrites the same keys and compacts behind itself, leases end, watchers
// and clients come and go, and members are defragmented, snapshotted and give the lead away. So two things must hold:
//
//	while the load runs:  the last quarter of the samples after the warm-up is not above the first by more than Limits
//	when it has ended:    goroutines and descriptors are back at what an idle member has
//
// The first finds what grows with time, in long runs; the second finds what a client leaves behind, in a few seconds.
package soak
