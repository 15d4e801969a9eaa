// Package member keeps the cluster's members and its version: who may vote, who only learns, where each is reached.
//
// The truth is replicated. A membership change is a raft configuration change whose context carries the member as JSON;
// when it is applied, [Cluster.Check] decides from replicated state whether it makes sense, raft switches its
// configuration, and one of the verbs here records it in the `members` and `members_removed` buckets:
//
//	change, err := member.ParseChange(cc)            // {"id":…,"peerURLs":["http://b:2380"]}
//	err = cluster.Check(change)                      // ErrIDExists, ErrPeerURLExists, ErrIDRemoved, …
//	cluster.Apply(batch, change)
//
// A removed member's ID never comes back, so that a member that slept through its removal cannot vote.
package member
