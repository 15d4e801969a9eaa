// Package cluster runs a whole Upkeep cluster inside a test: members in this process, an in-memory network between
// them, an ordinary etcd client for each.
//
// Inside a testing/synctest bubble time is virtual, so that hours of maintenance pass in milliseconds:
//
//	synctest.Test(t, func(t *testing.T) {
//		c := cluster.Start(t, cluster.Members(3), cluster.Retention(time.Hour))
//		c.Put("k", "old")
//		time.Sleep(2 * time.Hour)                    // takes no time
//		_, err := c.Client().Get(ctx, "k", clientv3.WithRev(2))
//		// err: etcdserver: mvcc: required revision has been compacted
//	})
//
// When the test ends, the members' histories are compared by HashKV, and all members are stopped.
package cluster
