package raftnode

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

func change(typ raftpb.ConfChangeType, id uint64, context string) *raftpb.ConfChange {
	return &raftpb.ConfChange{Type: typ.Enum(), NodeId: new(id), Context: []byte(context)}
}

func (m *member) mustChange(cc *raftpb.ConfChange) {
	m.c.t.Helper()
	if _, err := m.node.ProposeConfChange(m.c.t.Context(), cc); err != nil {
		m.c.t.Fatalf("%v: %v", cc, err)
	}
}

func TestLearnerIsAddedAndPromoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, func(cfg *Config) { cfg.SnapshotEntries, cfg.CatchUpEntries = 10, 5 })
		first := c.members[1]
		var keys []string
		for i := range 40 {
			keys = append(keys, fmt.Sprint(i))
		}
		first.mustPut(keys...)
		first.sm.persist()
		time.Sleep(time.Second) // so that the beginning of the log is gone, and the learner needs a snapshot
		c.add(2, nil)
		first.mustChange(change(raftpb.ConfChangeAddLearnerNode, 2, "{}"))
		c.start(2)
		c.converge(keys...)
		learner := c.members[2]
		if st := first.node.Status(); !st.Progress[2].IsLearner || !slices.Equal(st.ConfState.GetLearners(), []uint64{2}) {
			t.Errorf("status %+v", st)
		}
		if err := first.node.TransferLeadership(t.Context(), 2); !errors.Is(err, ErrBadTransferee) {
			t.Errorf("leadership to a learner: %v", err)
		}
		if err := learner.node.LinearizableRead(t.Context()); err != nil {
			t.Error(err)
		}
		learner.mustPut("from the learner")
		// The learner has no vote: the first member goes on without it.
		c.isolate(2)
		first.mustPut("alone")
		c.setDrop(nil)
		learner.mustChange(change(raftpb.ConfChangeAddNode, 2, `{"isPromote":true}`))
		if st := first.node.Status(); st.Progress[2].IsLearner || len(st.ConfState.GetVoters()) != 2 {
			t.Errorf("status after promotion %+v", st)
		}
		// Now it has: without it there is no quorum.
		c.isolate(2)
		if _, err := first.put("no quorum"); err == nil {
			t.Error("a put went through without a quorum")
		}
	})
}

func TestRemovedMemberStops(t *testing.T) {
	for _, who := range []string{"leader", "follower"} {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3, nil)
				removed := c.leader()
				if who == "follower" {
					removed = c.follower()
				}
				removed.mustPut("a")
				removed.mustChange(change(raftpb.ConfChangeRemoveNode, removed.id, ""))
				node := removed.node
				select {
				case <-node.Done():
				case <-time.After(10 * time.Second):
					t.Fatal("it does not stop")
				}
				if err := node.Err(); !errors.Is(err, ErrRemoved) {
					t.Errorf("it stopped because of %v", err)
				}
				if _, err := removed.put("b"); !errors.Is(err, ErrRemoved) {
					t.Errorf("a put on it: %v", err)
				}
				c.halt(removed.id)
				c.leader().mustPut("c")
				c.converge("a", "c")
				if st := c.leader().node.Status(); len(st.ConfState.GetVoters()) != 2 {
					t.Errorf("voters %v", st.ConfState.GetVoters())
				}
			})
		})
	}
}

func TestRefusedChangeLeavesConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, nil)
		m := c.members[1]
		res, err := m.node.ProposeConfChange(t.Context(), change(raftpb.ConfChangeAddNode, 2, "refuse"))
		if err != nil || res.Err == nil {
			t.Fatalf("%v %v", res, err)
		}
		m.mustPut("a")
		if st := m.node.Status(); !slices.Equal(st.ConfState.GetVoters(), []uint64{1}) {
			t.Errorf("voters %v", st.ConfState.GetVoters())
		}
		// The next change is not held up.
		m.mustChange(change(raftpb.ConfChangeAddLearnerNode, 3, ""))
	})
}

// TestConcurrentChanges: raft silently drops a change that is proposed while another is not applied yet; here every one
// gets its turn and its result, from whichever member it comes.
func TestConcurrentChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		c.leader().mustPut("a")
		start := time.Now()
		var wg sync.WaitGroup
		for i := range uint64(9) {
			wg.Go(func() {
				m := c.members[i%3+1]
				res, err := m.node.ProposeConfChange(t.Context(), change(raftpb.ConfChangeAddLearnerNode, 100+i, ""))
				if err != nil || res.Value != 100+i {
					t.Errorf("change %d: %v %v", i, res, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		if st := c.leader().node.Status(); len(st.ConfState.GetLearners()) != 9 {
			t.Errorf("learners %v", st.ConfState.GetLearners())
		}
	})
}

// TestConfigurationSurvives restarts members whose state machine has, or has not, persisted a change.
func TestConfigurationSurvives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		lead := c.leader()
		lead.mustChange(change(raftpb.ConfChangeAddLearnerNode, 50, ""))
		c.members[1].sm.persist()
		lead.mustChange(change(raftpb.ConfChangeAddLearnerNode, 51, ""))
		lead.mustPut("a")
		c.converge("a")
		for id := uint64(1); id <= 3; id++ {
			c.crash(id, int64(id))
			c.start(id)
		}
		c.leader().mustPut("b")
		c.converge("a", "b")
		for id := uint64(1); id <= 3; id++ {
			st := c.members[id].node.Status()
			if !slices.Equal(st.ConfState.GetLearners(), []uint64{50, 51}) || !slices.Equal(st.ConfState.GetVoters(), []uint64{1, 2, 3}) {
				t.Errorf("member %d: %v", id, st.ConfState)
			}
		}
	})
}
