// Package membership compares what clusters of Upkeep and of etcd say of their members: identities, and which changes they
// accept and refuse.
//
// # A worked example
//
// One script runs on three members of each program, and each step leaves a line:
//
//	add a voter with the URL of another    etcdserver: Peer URLs already exists
//	promote a learner that never started   etcdserver: can only promote a learner member which is in sync with leader
//	put on a learner                       etcdserver: rpc not supported for learner
//
// The two lists of lines must be equal. Identities are read from the logs that both write when they are started with the
// same flags.
package membership
