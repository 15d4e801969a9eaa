// Package discovery finds out who founds a cluster, for members that are started without --initial-cluster.
//
// # By another cluster
//
// Three members are to find each other. The operator chooses a token and says at any running cluster, of etcd or of
// Upkeep, how many will come:
//
//	etcdctl put /_etcd/registry/my-token/_config/size 3
//
// Each of the three registers itself under its member ID, which is derived from its peer URLs and the token:
//
//	/_etcd/registry/my-token/members/e8fe4793a84ed35c   m0=http://10.0.0.1:2380
//
// and waits until three are there. The first three in order of registration are the founders, so that all of them
// arrive at the same cluster; whoever comes later is told ErrFull. A member that lost its way while it waited may come
// again: its own key is the same. Keys and values are etcd's, and so members of both programs meet at one token; they
// cannot found a cluster together, since they speak different protocols among themselves, but either program's cluster
// serves the other's members as a meeting place.
//
// # By the domain name system
//
//	_etcd-server-ssl._tcp.example.com.  SRV 0 0 2380 a.example.com.   founder at https://a.example.com:2380
//	_etcd-server._tcp.example.com.      SRV 0 0 2380 b.example.com.   founder at http://b.example.com:2380
//
// The records have no names of members. A member finds itself among them by its advertised peer URLs, compared by text
// and then by the addresses that hosts resolve to; the others are called 0, 1, 2 and so on. Names do not count for a
// cluster's identity, so that it does not matter that members call each other differently until they have met.
package discovery
