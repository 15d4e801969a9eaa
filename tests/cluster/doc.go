// Package cluster runs a whole Upkeep cluster inside a test: members in this process with directories of their own, an
// in-memory network between them, an ordinary etcd client for each, and verbs to maintain it and to break it.
//
// Inside a testing/synctest bubble time is virtual, so that hours of maintenance pass in a second:
//
//	synctest.Test(t, func(t *testing.T) {
//		c := cluster.Start(t, cluster.Retention(time.Hour), cluster.Heartbeat(time.Second))
//		rev := c.Put("k", "old")
//		c.Put("k", "new")
//		time.Sleep(2 * time.Hour)                    // takes no time
//		_, err := c.Client().Get(ctx, "k", clientv3.WithRev(rev))
//		// err: etcdserver: mvcc: required revision has been compacted
//	})
//
// Outside of a bubble everything works too, in real time.
//
// The verbs, of the cluster or of one member:
//
//	life         Start, Stop, Kill, Launch, Restart, TryStart, Pause, Resume
//	network      Partition, Mute, Heal, SlowLink, LoseMessages, SlowClients
//	disk         FillDisk, EmptyDisk, SlowDisk, FlipBit, Wipe
//	members      AddMember, Promote, RemoveMember, MoveLeader
//	maintenance  Compact, Defrag, Snapshot, Alarms, Disarm, SetQuota, SetRetention, Reconfigure
//	waiting      Leader, NewLeader, Follower, WaitApplied, WaitRevision, WaitAlarm, Wait
//
// Waits end when their condition holds, with no sleeping in between, and never wait for ever: after 30 s of the test's
// time the test fails with a line on each member.
//
// Kill is a power cut for one member: what it had not synced is gone, from its log by way of a layer between the log and
// the disk that can take unsynced writes back, from its database because that is left at its last commit.
//
// When the test ends, all faults are ended and the members' histories are compared by HashKV; then all members are
// stopped, their databases and logs go through the checkers, and no goroutine of theirs may be left.
//
// etcd's own Go client must not be used to watch inside a bubble: see Watcher. A member's files lie in real directories,
// so every offline tool can look at them, but no sync reaches the machine's disk.
package cluster
