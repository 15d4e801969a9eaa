package raftnode

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// Few entries with much in them are marked, and leave memory, like many small ones.
func TestLogIsCompactedByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var saved atomic.Int64
		c := newCluster(t, 1, func(cfg *Config) {
			cfg.SnapshotEntries, cfg.CatchUpEntries = 1<<40, 1<<40
			cfg.SaveSnap = func(uint64, uint64, *raftpb.ConfState) error { saved.Add(1); return nil }
		})
		m := c.members[1]
		const valueBytes = 1 << 20
		for range snapshotBytes/valueBytes + 10 {
			req := put("k")
			req.Put.Value = make([]byte, valueBytes)
			if _, err := m.node.Propose(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		m.sm.persist()
		time.Sleep(time.Second)
		if n := saved.Load(); n != 1 {
			t.Errorf("%d snapshot records", n)
		}
		m.node.store.mu.Lock()
		defer m.node.store.mu.Unlock()
		if held := m.node.store.bytes; held > keepLogBytes+keepLogBytes/4 {
			t.Errorf("%d bytes of the log are in memory", held)
		}
	})
}
