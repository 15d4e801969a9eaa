package wal

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/proto/walpb"
)

// WAL is an open write-ahead log.
type WAL struct {
	metadata *walpb.Metadata
}

// Recovered is what a log held when it was opened.
type Recovered struct {
	Metadata  *walpb.Metadata
	HardState *raftpb.HardState
	// Entries behind Snapshot, in order and without gaps.
	Entries []*raftpb.Entry
	// Snapshot is the newest snapshot record that the hard state's commit index covers.
	Snapshot *walpb.Snapshot
	// Repaired says in prose what was cut off a torn tail; empty if nothing was.
	Repaired string
}
