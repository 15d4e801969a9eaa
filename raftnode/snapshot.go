package raftnode

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/proto/walpb"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
)

// install is a received database file on its way into the state machine.
type install struct {
	file string
	done chan error // capacity 1
}

// InstallSnapshot implements Handler.
func (n *Node) InstallSnapshot(m *raftpb.Message, file string) error {
	if m.GetType() != raftpb.MsgSnap || raft.IsEmptySnap(m.GetSnapshot()) {
		return fmt.Errorf("raftnode: a snapshot came with a message of type %v", m.GetType())
	}
	if m.GetTo() != n.cfg.ID {
		return fmt.Errorf("raftnode: a snapshot for member %x came to member %x", m.GetTo(), n.cfg.ID)
	}
	in := &install{file: file, done: make(chan error, 1)}
	err := n.call(func() {
		index := m.GetSnapshot().GetMetadata().GetIndex()
		if _, busy := n.state.installs[index]; busy {
			in.done <- ErrSnapshotIgnored
			return
		}
		n.state.installs[index] = in
		n.step(m)
	})
	if err != nil {
		return err
	}
	select {
	case err := <-in.done:
		return err
	case <-n.done:
		select {
		case err := <-in.done:
			return err
		default:
			return n.stopped()
		}
	}
}

// refuseInstalls answers for files whose message raft did not turn into a snapshot to store.
func (n *Node) refuseInstalls() {
	for index, in := range n.state.installs {
		in.done <- ErrSnapshotIgnored
		delete(n.state.installs, index)
	}
}

// sendSnapshot has the state machine pinned and handed to the transport. The message is sent with the metadata of what
// was pinned, which may be ahead of what raft has asked for.
func (n *Node) sendSnapshot(m *raftpb.Message) {
	to := m.GetTo()
	n.senders.Add(1)
	go func() {
		defer n.senders.Done()
		snap, err := n.cfg.StateMachine.Snapshot(n.sendersContext)
		if err != nil {
			n.log.Warn("cannot take a snapshot for a member that lags behind", zap.Uint64("to", to), zap.Error(err))
			n.ReportSnapshot(to, false)
			return
		}
		n.log.Info("sending database snapshot", zap.Uint64("to", to), zap.Uint64("snapshot-index", snap.Index),
			zap.Int64("bytes", snap.Size))
		n.cfg.Transport.SendSnapshot(&raftpb.Message{
			Type: raftpb.MsgSnap.Enum(), To: new(to), From: new(m.GetFrom()), Term: new(m.GetTerm()),
			Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
				Index: new(snap.Index), Term: new(snap.Term), ConfState: snap.ConfState,
			}},
		}, snap)
	}()
}

// compactLog trims the log in memory, and in longer intervals marks in the WAL how far the state machine is durable and
// releases what lies before. Called at every tick.
func (n *Node) compactLog() {
	s := &n.state
	durable := n.held(min(n.cfg.StateMachine.Durable(), n.applied.Load()))
	n.store.trim(n.keepForPeers(min(durable, s.raftApplied)), n.cfg.CatchUpEntries, keepLogBytes)
	appended := n.store.appended()
	due := durable >= s.recordedIndex+n.cfg.SnapshotEntries ||
		(durable > s.recordedIndex && appended-s.recordedBytes >= snapshotBytes) ||
		(durable >= s.barrier && s.barrier > s.recordedIndex)
	if s.recording || !due {
		return
	}
	term, err := n.store.Term(durable)
	if err != nil {
		return // a snapshot from the leader has just replaced the log
	}
	// The last configuration at or before the durable index.
	at := 0
	for at+1 < len(s.conf) && s.conf[at+1].index <= durable {
		at++
	}
	s.conf = s.conf[at:]
	s.recording = true
	s.recordedBytes = appended
	n.recordSnapshot(durable, term, s.conf[0].conf)
}

// cutLog drops the log up to the barrier from memory, so that no member is given it any more.
func (n *Node) cutLog() {
	if b := n.state.barrier; b > 0 && n.state.raftApplied >= b {
		n.store.cut(b)
	}
}

// keepForPeers lowers limit to what the slowest member that can be heard still needs, so that one that has just been
// sent the state finds the log that goes on from there. One that falls too far behind is not waited for.
func (n *Node) keepForPeers(limit uint64) uint64 {
	if n.state.role != raft.StateLeader || n.store.size() > keepForPeersBytes {
		return limit
	}
	n.raw.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id != n.cfg.ID && pr.RecentActive {
			limit = min(limit, max(pr.Match, pr.PendingSnapshot))
		}
	})
	return limit
}

func (n *Node) recordSnapshot(index, term uint64, conf *raftpb.ConfState) {
	n.senders.Add(1)
	go func() {
		defer n.senders.Done()
		var err error
		if n.cfg.SaveSnap != nil {
			err = n.cfg.SaveSnap(index, term, conf)
		}
		if err != nil {
			n.log.Warn("cannot write the snapshot file; the log is kept until it can be written", zap.Error(err))
		} else {
			n.log.Info("saved snapshot", zap.Uint64("snapshot-index", index))
			n.queues.appends.put(appendJob{record: &walpb.Snapshot{
				Index: new(index), Term: new(term), ConfState: wal.FromConfState(conf),
			}})
		}
		n.queues.calls.put(func() {
			n.state.recording = false
			if err == nil {
				n.state.recordedIndex = max(n.state.recordedIndex, index)
			}
		})
	}()
}
