// Package identity derives the 64-bit names that members and clusters are known by.
//
// An identity is never chosen, it is computed from what the operator wrote, so that members that boot from the same
// configuration agree on every identity without having talked to each other. For one member at
// http://127.0.0.1:42380 and the token "etcd-cluster":
//
//	member  = first 8 bytes of SHA-1("http://127.0.0.1:42380" + "etcd-cluster") = 667880157b8812c8
//	cluster = first 8 bytes of SHA-1(member as 8 big-endian bytes)              = dc50b8daae93b3e0
//
// A member that is added while the cluster runs takes the time of the request in place of the token. Whoever was
// removed and comes back at the same address is therefore somebody else.
//
// The definitions are etcd's: a data directory or a snapshot that moves between the two keeps its identities.
package identity
