// Package clients runs programs that were written for etcd, unmodified, against three members: the packages of etcd's Go
// client that are protocols of their own (sessions, locks, elections, software transactions, leasing, ordering, mirrors),
// the npm client etcd3, and a session of curl over JSON. What each expects of its server is what counts; so each is also
// run against etcd where that is quick, to see that the expectation is right.
//
// etcd's package go.etcd.io/etcd/cache/v3 is not among them: its versions are not on the Go module proxy.
package clients
