package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
)

func TestSingleMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := newCluster(t, 1, nil)
		m := c.members[1]
		m.mustPut("a", "b")
		if took := time.Since(start); took > 200*time.Millisecond {
			t.Errorf("a lone voter took %v to elect itself", took)
		}
		if err := m.node.LinearizableRead(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(c.sent); n != 0 {
			t.Errorf("a lone member sent messages: %v", c.sent)
		}
		// Nothing is durable in the state machine: everything must come back from the log.
		c.crash(1, 1)
		c.start(1)
		if err := m.node.LinearizableRead(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := m.sm.log(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("after a crash: %v", got)
		}
	})
}

// TestStateAheadOfCommitIndex: the commit index is not synced for its own sake, so after a power cut the state machine
// may be ahead of it.
func TestStateAheadOfCommitIndex(t *testing.T) {
	for seed := range int64(10) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 1, nil)
			m := c.members[1]
			m.mustPut("a")
			m.sm.persist()
			c.crash(1, seed)
			c.start(1)
			m.mustPut("b")
			if got := m.sm.log(); !slices.Equal(got, []string{"a", "b"}) {
				t.Errorf("seed %d: %v", seed, got)
			}
		})
	}
}

// slowDisk takes its time over every sync.
type slowDisk struct {
	vfs.FS
	sync time.Duration
}

type slowFile struct {
	vfs.File
	sync time.Duration
}

func (d slowDisk) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	f, err := d.FS.OpenFile(name, flag, perm)
	return slowFile{f, d.sync}, err
}

func (f slowFile) Datasync() error {
	time.Sleep(f.sync)
	return f.File.Datasync()
}

// TestCommandsGatherDuringSync: while the leader's disk syncs, what arrives becomes one entry; the first does not wait.
func TestCommandsGatherDuringSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, func(cfg *Config) {
			w, rec, err := wal.Open(slowDisk{cfg.StateMachine.(*machine).disk, 10 * time.Millisecond}, "data/wal")
			if err != nil {
				t.Fatal(err)
			}
			cfg.WAL.Close()
			cfg.WAL, cfg.Recovered = w, rec
		})
		m := c.members[1]
		m.mustPut("warm")
		m.sm.entries = nil
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() { m.mustPut(fmt.Sprint("k", i)) })
			synctest.Wait()
		}
		wg.Wait()
		if want := [][]string{{"k0"}, {"k1", "k2", "k3", "k4"}}; fmt.Sprint(m.sm.entries) != fmt.Sprint(want) {
			t.Errorf("applied %v", m.sm.entries)
		}
		if took := time.Since(start); took != 20*time.Millisecond {
			t.Errorf("the last command took %v, two syncs take 20ms", took)
		}
	})
}

func TestReplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		c.leader().mustPut("a")
		c.follower().mustPut("b", "c")
		c.converge("a", "b", "c")
		old := c.leader()
		c.halt(old.id)
		c.leader().mustPut("d")
		c.start(old.id)
		old.mustPut("e")
		c.converge("a", "b", "c", "d", "e")
	})
}

// TestCrashes kills members in turn, with state that is durable up to some point only, under load.
func TestCrashes(t *testing.T) {
	for seed := range int64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3, func(cfg *Config) { cfg.SnapshotEntries, cfg.CatchUpEntries = 10, 5 })
				var acknowledged []string
				for round := range 8 {
					for i := range 12 {
						key := fmt.Sprintf("%d-%d", round, i)
						from := c.members[uint64(i%3)+1]
						if _, err := from.put(key); err == nil {
							acknowledged = append(acknowledged, key)
						}
					}
					id := uint64(round+int(seed))%3 + 1
					if round%2 == 0 {
						c.members[id].sm.persist()
						time.Sleep(time.Second)
					}
					c.crash(id, seed*100+int64(round))
					if round%3 == 0 {
						c.leader().mustPut(fmt.Sprintf("%d-without", round))
					}
					c.start(id)
				}
				if len(acknowledged) < 90 {
					t.Errorf("only %d of 96 were acknowledged", len(acknowledged))
				}
				c.converge(acknowledged...)
				for _, m := range c.members {
					log := m.sm.log()
					slices.Sort(log)
					if n := len(slices.Compact(log)); n != len(m.sm.log()) {
						t.Errorf("member %d applied something twice", m.id)
					}
				}
			})
		})
	}
}

func TestPowerCutOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		c.leader().mustPut("a", "b", "c")
		for id := uint64(1); id <= 3; id++ {
			c.crash(id, int64(id))
		}
		for id := uint64(1); id <= 3; id++ {
			c.start(id)
		}
		c.leader().mustPut("d")
		c.converge("a", "b", "c", "d")
	})
}

func TestLaggingFollowerGetsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, func(cfg *Config) { cfg.SnapshotEntries, cfg.CatchUpEntries = 20, 10 })
		lagging := c.follower()
		c.leader().mustPut("first")
		c.converge("first")
		c.isolate(lagging.id)
		var keys []string
		for i := range 60 {
			keys = append(keys, fmt.Sprint("k", i))
		}
		c.leader().mustPut(keys...)
		for _, m := range c.members {
			m.sm.persist()
		}
		time.Sleep(2 * time.Second) // ticks trim the logs
		c.setDrop(nil)
		c.converge(keys...)
		if c.count(raftpb.MsgSnap) == 0 {
			t.Error("no snapshot was sent")
		}
		c.leader().mustPut("after")
		c.converge("after")
		// The log of the member that was restored begins behind the snapshot, and it starts from there.
		c.crash(lagging.id, 7)
		c.start(lagging.id)
		c.converge("after")
	})
}

func TestSegmentsAreReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var saved []uint64
		var mu sync.Mutex
		c := newCluster(t, 1, func(cfg *Config) {
			cfg.SnapshotEntries, cfg.CatchUpEntries = 50, 10
			cfg.SaveSnap = func(index, term uint64, conf *raftpb.ConfState) error {
				mu.Lock()
				defer mu.Unlock()
				saved = append(saved, index)
				if term == 0 || !slices.Equal(conf.GetVoters(), []uint64{1}) {
					t.Errorf("snapshot of %d/%d %v", index, term, conf)
				}
				return nil
			}
		})
		m := c.members[1]
		for i := range 300 {
			req := put(fmt.Sprint(i))
			req.Put.Value = make([]byte, 2000)
			if _, err := m.node.Propose(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			if i == 150 {
				time.Sleep(time.Second)
				if n := m.segments(); n < 4 {
					t.Errorf("%d segments although nothing is durable", n)
				}
			}
		}
		m.sm.persist()
		time.Sleep(time.Second)
		if n := m.segments(); n > 2 {
			t.Errorf("%d segments are left", n)
		}
		mu.Lock()
		n := len(saved)
		mu.Unlock()
		if n != 1 {
			t.Errorf("saved %v", saved)
		}
		if first, _ := m.node.store.FirstIndex(); first < 280 {
			t.Errorf("the log in memory starts at %d", first)
		}
		c.crash(1, 3)
		c.start(1)
		m.mustPut("x")
		if got := len(m.sm.log()); got != 301 {
			t.Errorf("%d commands after restart", got)
		}
	})
}

// TestCoalescing holds the disk still by keeping the leader's loop from seeing its append, so that commands gather.
func TestCoalescing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		sizes := map[int]int{}
		c := newCluster(t, 1, func(cfg *Config) {
			cfg.Observer.EntryCoalesced = func(n int) {
				mu.Lock()
				defer mu.Unlock()
				sizes[n]++
			}
		})
		m := c.members[1]
		m.mustPut("warm")
		m.sm.entries = nil
		// While the loop is busy, proposals queue up.
		busy, release := make(chan struct{}), make(chan struct{})
		m.node.queues.calls.put(func() { close(busy); <-release })
		<-busy
		var wg sync.WaitGroup
		results := make([]string, 5)
		for i := range results {
			wg.Go(func() {
				res, err := m.put(fmt.Sprint("k", i))
				if err != nil {
					t.Error(err)
				}
				results[i], _ = res.Value.(string)
			})
			synctest.Wait() // order of arrival
		}
		close(release)
		wg.Wait()
		if want := [][]string{{"k0", "k1", "k2", "k3", "k4"}}; fmt.Sprint(m.sm.entries) != fmt.Sprint(want) {
			t.Errorf("applied %v", m.sm.entries)
		}
		index := m.node.AppliedIndex()
		for i, got := range results {
			if want := fmt.Sprintf("k%d@%d", i, index); got != want {
				t.Errorf("result %d is %q, want %q", i, got, want)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if sizes[1] != 1 || sizes[5] != 1 {
			t.Errorf("entries by number of commands: %v", sizes)
		}
	})
}

func TestProposalTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		f := c.follower()
		f.mustPut("a")
		c.isolate(1, 2, 3)
		start := time.Now()
		_, err := f.put("lost")
		if took := time.Since(start); !errors.Is(err, ErrTimeout) || took < 7*time.Second || took > 7200*time.Millisecond {
			t.Errorf("without a quorum: %v after %v", err, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.node.Propose(ctx, put("lost too")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a deadline: %v", err)
		}
		if n := f.node.waiters.len(); n != 0 {
			t.Errorf("%d proposals are still waited for", n)
		}
		c.setDrop(nil)
		f.mustPut("b")
		c.converge("a", "b")
		// What nobody waited for any more was not proposed later.
		if log := f.sm.log(); slices.Contains(log, "lost too") {
			t.Errorf("log %v", log)
		}
	})
}

// TestDroppedProposalFailsFast: what a deposed leader appended and nobody else has, is known to be lost as soon as the
// new leader's first entry is applied.
func TestDroppedProposalFailsFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		old := c.leader()
		old.mustPut("a")
		c.isolate(old.id)
		done := make(chan error, 1)
		go func() { _, err := old.put("dropped"); done <- err }()
		time.Sleep(3 * time.Second)
		c.setDrop(nil)
		c.converge("a")
		if err := <-done; !errors.Is(err, ErrLeaderChanged) {
			t.Errorf("got %v", err)
		}
		if slices.Contains(old.sm.log(), "dropped") {
			t.Error("it was applied after all")
		}
	})
}

func TestProposalWaitsForLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		old := c.leader()
		f := c.follower()
		c.halt(old.id)
		time.Sleep(3 * time.Second)
		f.mustPut("a")
		c.converge("a")
	})
}

func TestTransferLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		from, to := c.leader(), c.follower()
		from.mustPut("a")
		if err := to.node.TransferLeadership(t.Context(), to.id); !errors.Is(err, ErrNotLeader) {
			t.Errorf("asked of a follower: %v", err)
		}
		if err := from.node.TransferLeadership(t.Context(), 99); !errors.Is(err, ErrBadTransferee) {
			t.Errorf("to a stranger: %v", err)
		}
		changed := to.node.LeaderChanged()
		start := time.Now()
		if err := from.node.TransferLeadership(t.Context(), to.id); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 200*time.Millisecond {
			t.Errorf("took %v", took)
		}
		<-changed
		if !to.node.IsLeader() {
			t.Error("the transferee does not lead")
		}
		from.mustPut("b")
		// A transferee that does not answer: proposals wait until raft gives the transfer up.
		c.isolate(from.id)
		if err := to.node.TransferLeadership(t.Context(), from.id); !errors.Is(err, ErrTimeoutLeaderTransfer) {
			t.Errorf("to an unreachable member: %v", err)
		}
		to.mustPut("c")
	})
}

func TestStopAnswersEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		f := c.follower()
		f.mustPut("a")
		c.isolate(1, 2, 3)
		errs := make(chan error, 2)
		go func() { _, err := f.put("b"); errs <- err }()
		go func() { errs <- f.node.LinearizableRead(t.Context()) }()
		time.Sleep(time.Second)
		node := f.node
		c.halt(f.id)
		for range 2 {
			if err := <-errs; !errors.Is(err, ErrStopped) {
				t.Errorf("got %v", err)
			}
		}
		if _, err := node.Propose(t.Context(), put("c")); !errors.Is(err, ErrStopped) {
			t.Errorf("propose after stop: %v", err)
		}
		if err := node.LinearizableRead(t.Context()); !errors.Is(err, ErrStopped) {
			t.Errorf("read after stop: %v", err)
		}
		if st := node.Status(); st.ID != f.id || st.Applied == 0 {
			t.Errorf("status after stop: %+v", st)
		}
	})
}

func TestAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, func(cfg *Config) { cfg.MaxRequestBytes = 1000; cfg.Coalesce = false })
		m := c.members[1]
		big := put("big")
		big.Put.Value = make([]byte, 1000)
		if _, err := m.node.Propose(t.Context(), big); !errors.Is(err, ErrRequestTooLarge) {
			t.Errorf("got %v", err)
		}
		m.mustPut("a")
		release := m.sm.setHold()
		ctx, cancel := context.WithCancel(t.Context())
		for i := range maxUnapplied + 10 {
			go m.node.Propose(ctx, put(fmt.Sprint(i)))
		}
		time.Sleep(time.Second)
		if _, err := m.put("too many"); !errors.Is(err, ErrTooManyRequests) {
			t.Errorf("got %v", err)
		}
		release()
		time.Sleep(time.Second)
		m.mustPut("again")
		cancel()
		if n := m.node.pendingBytes.Load(); n != 0 {
			t.Errorf("%d bytes are still accounted for", n)
		}
	})
}

// TestDiskErrorStopsNode: a member that cannot write its log promises nothing any more and says why it stopped.
func TestDiskErrorStopsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var disk *vfs.Faulty
		c := newCluster(t, 1, func(cfg *Config) {
			cfg.WAL.Close()
			disk = vfs.NewFaulty(cfg.StateMachine.(*machine).disk)
			var err error
			if cfg.WAL, cfg.Recovered, err = wal.Open(disk, "data/wal"); err != nil {
				t.Fatal(err)
			}
		})
		m := c.members[1]
		m.mustPut("a")
		disk.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Err: syscall.EIO})
		if _, err := m.put("b"); !errors.Is(err, ErrStopped) {
			t.Errorf("got %v", err)
		}
		<-m.node.Done()
		if err := m.node.Err(); !errors.Is(err, syscall.EIO) {
			t.Errorf("it stopped because of %v", err)
		}
		if slices.Contains(m.sm.log(), "b") {
			t.Error("b was applied although it was never durable")
		}
	})
}

func TestUnwantedSnapshotIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		c.leader().mustPut("a")
		f := c.follower()
		snap, err := c.leader().sm.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.converge("a")
		m := &raftpb.Message{
			Type: raftpb.MsgSnap.Enum(), From: new(c.leader().id), To: new(f.id), Term: new(f.node.Term()),
			Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
				Index: new(snap.Index), Term: new(snap.Term), ConfState: snap.ConfState,
			}},
		}
		if err := f.node.InstallSnapshot(m, "data/none"); !errors.Is(err, ErrSnapshotIgnored) {
			t.Errorf("got %v", err)
		}
		if err := f.node.Step(t.Context(), m); err == nil {
			t.Error("a snapshot without a file was taken")
		}
		m.To = new(uint64(9))
		if err := f.node.InstallSnapshot(m, "data/none"); err == nil || errors.Is(err, ErrSnapshotIgnored) {
			t.Errorf("a snapshot for somebody else: %v", err)
		}
	})
}
