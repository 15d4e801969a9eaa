// Package adoption starts Upkeep on the data directories of real etcd servers, and etcd on those of Upkeep.
//
// # A worked example
//
// Three members of etcd 3.5 are killed in the middle of writing. Their directories are copied, and etcd itself says from
// the copies what they hold:
//
//	before := past(t, c) // users, leases, alarms, members, HashKV at every revision
//	for _, m := range c.Members {
//		m.Replace(upkeep, m.DataDir)
//		m.Launch()
//	}
//	compare(t, before, past(t, c))
//
// The end of the log is left out of the comparison where nobody was told that it was written: which of those entries
// come to be is decided by the election that follows.
package adoption
