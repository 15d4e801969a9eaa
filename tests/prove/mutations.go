package main

import "slices"

// mutations lists the ways to break the product, from the log upwards.
func mutations() []mutation {
	return slices.Concat(logMutations(), storeMutations(), securityMutations(), authMutations(), queueMutations())
}

func logMutations() []mutation {
	return []mutation{{
		what:    "the log skips its fsync",
		file:    "raftnode/wal/wal.go",
		old:     "if err := w.file.Datasync(); err != nil {",
		mutated: "if err := error(nil); err != nil {",
		tests:   []suite{{"tests/crash", "TestLog"}, {"raftnode/wal", "TestPowerCuts"}, {"raftnode", "TestPowerCutOfAll"}},
	}, {
		what:    "a new log segment is named before its head is synced",
		file:    "raftnode/wal/wal.go",
		old:     "err = file.Datasync()",
		mutated: "err = nil",
		tests:   []suite{{"tests/crash", "TestLog"}},
	}, {
		what:    "a new vote is not synced",
		file:    "raftnode/wal/wal.go",
		old:     "|| hs.GetTerm() != w.state.GetTerm() || hs.GetVote() != w.state.GetVote()",
		mutated: "",
		tests:   []suite{{"tests/crash", "TestLog"}},
	}, {
		what:    "the log releases a segment that it needs",
		file:    "raftnode/wal/wal.go",
		old:     "w.segments[n+1].first <= index {",
		mutated: "w.segments[n+1].first <= index+20 {",
		tests:   []suite{{"tests/crash", "TestLog"}},
	}, {
		what:    "synced writes are not marked, so lost ones look like a torn tail",
		file:    "raftnode/wal/wal.go",
		old:     "	w.mark()\n",
		mutated: "",
		tests:   []suite{{"raftnode/wal", "TestLostSectors"}},
	}, {
		what:    "a client's value that looks like a log is believed",
		file:    "raftnode/wal/recover.go",
		old:     "!ok || d.nonce != 0 && nonce != d.nonce {",
		mutated: "nonce == 1 && ok {",
		tests:   []suite{{"raftnode/wal", "TestValueThatLooksLikeALog"}, {"tests/crash", "TestLog"}},
	}, {
		what:    "a torn tail is taken for corruption",
		file:    "raftnode/wal/recover.go",
		old:     "case hasZeroSector(d.seg, at, f.record):",
		mutated: "case false:",
		tests:   []suite{{"tests/crash", "TestLog"}, {"raftnode/wal", "TestLostSectors"}},
	}, {
		what:    "the rest of a log that is being replaced hides the new one",
		file:    "raftnode/wal/recover.go",
		old:     "index == c.start().GetIndex()+1:",
		mutated: "index == 0:",
		tests:   []suite{{"raftnode/wal", "TestRebase"}},
	}, {
		what:    "raft is answered before the log is synced",
		file:    "raftnode/append.go",
		old:     "	if err := n.cfg.WAL.Sync(); err != nil {\n		return err\n	}\n	if release > 0 {",
		mutated: "	if err := n.cfg.WAL.Flush(); err != nil {\n		return err\n	}\n	if release > 0 {",
		tests:   []suite{{"raftnode", "TestPowerCutOfAll"}, {"tests/cluster", "TestAllAreKilled"}, {"tests/simulation", ""}},
	}, {
		what:    "an acknowledged write is dropped: the last command of a shared entry",
		file:    "raftnode/propose.go",
		old:     "	for _, p := range group {\n		b = binary",
		mutated: "	for _, p := range group[:len(group)-1] {\n		b = binary",
		tests:   []suite{{"raftnode", "TestCoalescing|TestCommandsGatherDuringSync"}},
	}, {
		what:    "a stale read: raft is not asked",
		file:    "server/kv.go",
		old:     "{ return k.node.LinearizableRead(ctx) }",
		mutated: "{ return nil }",
		tests:   []suite{{"tests/cluster", "TestNoStaleReads"}, {"tests/linearizability", "TestVirtualCluster"}},
	}, {
		what:    "a stale read: it does not wait until the member has applied enough",
		file:    "raftnode/read.go",
		old:     "r.mu.applying[i].index <= applied; i++",
		mutated: "r.mu.applying[i].index <= applied+1; i++",
		tests:   []suite{{"raftnode", "TestReadsShareRoundsAndSeeWrites|TestReadWaitsForApply"}},
	}, {
		what:    "a received database gets its name before it is synced",
		file:    "raftnode/transport/snapshot_receive.go",
		old:     "	if err := t.file.Sync(); err != nil {",
		mutated: "	if err := error(nil); err != nil {",
		tests:   []suite{{"tests/crash", "TestStateTransfer"}},
	}, {
		what:    "the directory is not synced after a state transfer",
		file:    "raftnode/transport/snapshot_receive.go",
		old:     "		err = r.fs.SyncDir(r.dir)",
		mutated: "		err = nil",
		tests:   []suite{{"tests/crash", "TestStateTransfer"}},
	}, {
		what:    "a damaged state transfer is accepted",
		file:    "raftnode/transport/snapshot_receive.go",
		old:     "|| !bytes.Equal(t.hash.Sum(nil), sum)",
		mutated: "|| bytes.Equal(nil, sum)",
		tests:   []suite{{"raftnode/transport", ""}},
	}, {
		what:    "a .snap file gets its name before it is synced",
		file:    "raftnode/snapfile/snapfile.go",
		old:     "errors.Join(f.Sync(), f.Close())",
		mutated: "errors.Join(f.Close())",
		tests:   []suite{{"tests/crash", "TestSnapFiles"}},
	}, {
		what:    "a backup is not synced",
		file:    "snapshot/save.go",
		old:     "		err = f.Sync()",
		mutated: "		err = nil",
		tests:   []suite{{"tests/crash", "TestSnapshotSave"}},
	}, {
		what:    "a removed member is not told",
		file:    "raftnode/transport/service.go",
		old:     "	if err := s.admit(from); err != nil {\n		return err\n	}\n",
		mutated: "",
		tests:   []suite{{"raftnode/transport", "TestRemovedWhileConnected"}, {"tests/simulation", ""}},
	}}
}

func storeMutations() []mutation {
	return []mutation{{
		what:    "a commit leaves out its newest revision",
		file:    "backend/commit.go",
		old:     "for i := range j.batch.sealedRows {",
		mutated: "for i := range j.batch.sealedRows - min(1, j.batch.sealedRows) {",
		tests:   []suite{{"backend", "TestReopen|TestCrashEndsAtAnEntry"}, {"tests/simulation", ""}},
	}, {
		what:    "the applied index is committed ahead of its effects",
		file:    "backend/commit.go",
		old:     "Value: bigEndian(j.batch.index)}",
		mutated: "Value: bigEndian(j.batch.index + 1)}",
		tests:   []suite{{"backend", "TestCrashEndsAtAnEntry|TestReopen"}, {"tests/crash", "TestKilledMember"}},
	}, {
		what:    "a defragmentation forgets its journal",
		file:    "backend/commit.go",
		old:     "jr.record(small, j)",
		mutated: "_ = jr",
		tests:   []suite{{"backend", "TestMaintenanceUnderLoad|TestKilledDuringDefrag"}},
	}, {
		what:    "a defragmentation drops the last keys of a piece",
		file:    "backend/copy.go",
		old:     "			c.lastKey = append(c.lastKey[:0], k...)\n",
		mutated: "			c.lastKey = append(append(c.lastKey[:0], k...), 0xff)\n			if moved%97 == 96 {\n				_ = to.Delete(k)\n			}\n",
		tests:   []suite{{"backend", "TestMaintenanceUnderLoad|TestDefragShrinks"}, {"tests/crash", "TestKilledMember"}},
	}, {
		what:    "a compaction removes a live revision",
		file:    "mvcc/index/compact.go",
		old:     "		if stays {\n			kept.Revisions = append(kept.Revisions, rev)\n		}\n		if gone {",
		mutated: "		if stays && visits%5 != 4 {\n			kept.Revisions = append(kept.Revisions, rev)\n		}\n		if gone {",
		tests:   []suite{{"mvcc", "TestAgainstModel"}, {"tests/simulation", ""}},
	}, {
		what:    "a lost watch event: a slow client's overflow is forgotten",
		file:    "mvcc/watch/dispatch.go",
		old:     "			h.becomeCatchingUpLocked(w, rev)\n",
		mutated: "",
		tests:   []suite{{"mvcc/watch", "TestRandomConsistency|TestSlowClients"}},
	}, {
		what:    "a lost watch event: catching up begins one revision late",
		file:    "mvcc/watch/dispatch.go",
		old:     "			h.becomeCatchingUpLocked(w, rev)\n",
		mutated: "			h.becomeCatchingUpLocked(w, rev+1)\n",
		tests:   []suite{{"mvcc/watch", "TestRandomConsistency|TestSlowClients"}},
	}, {
		what:    "a watch event comes twice",
		file:    "mvcc/watch/dispatch.go",
		old:     "if rev < w.next || !b.wanted(w) {",
		mutated: "if !b.wanted(w) {",
		tests:   []suite{{"mvcc/watch", "TestRandomConsistency|TestOnStore|TestFarBehindHoldsNobodyUp"}},
	}, {
		what:    "an alarm is not kept over a restart",
		file:    "quota/alarms.go",
		old:     "	batch.Put(backend.Alarm, encodeAlarm(alarm), []byte{})\n",
		mutated: "	_ = batch\n",
		tests:   []suite{{"quota", ""}},
	}}
}
