package main

// queueMutations give two callers the same lock, or none.
func queueMutations() []mutation {
	tests := []suite{{"tests/cluster", "TestLockIsHeldInOrder|TestLockOfThoseWhoAreGone|TestElection|TestQueuesOfUsers"}}
	return []mutation{{
		what:    "locks: nobody waits for those who came before",
		file:    "server/rpc/queue.go",
		old:     "if len(earlier) == 0 {",
		mutated: "if len(earlier) >= 0 {",
		tests:   tests,
	}, {
		what:    "locks: who goes away while it waits stays in the queue",
		file:    "server/rpc/queue.go",
		old:     "context.WithoutCancel(ctx), leaveTimeout",
		mutated: "ctx, leaveTimeout",
		tests:   tests,
	}, {
		what:    "locks: whose lease has ended gets the lock all the same",
		file:    "server/rpc/queue.go",
		old:     "if len(mine) == 0 || mine[0].CreateRevision != p.rev {",
		mutated: "if len(mine) == 0 && p.rev < 0 {",
		tests:   tests,
	}, {
		what:    "downgrade: the cluster's version stays",
		file:    "server/follow_version.go",
		old:     "case downgrading && olderVersion(target, version):",
		mutated: "case false:",
		tests:   []suite{{"tests/cluster", "TestDowngrade"}},
	}, {
		what:    "certificates: one without a name is taken for none",
		file:    "server/rpc/access.go",
		old:     "return chain[0].Subject.CommonName, true",
		mutated: `return chain[0].Subject.CommonName, chain[0].Subject.CommonName != ""`,
		tests:   []suite{{"server/rpc", "TestCertificateUsers"}},
	}}
}
