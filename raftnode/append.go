package raftnode

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/proto/walpb"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
)

// appendJob is work for the append goroutine: a message of raft's, or a snapshot record.
type appendJob struct {
	message *raftpb.Message
	// install is the received file that message.Snapshot stands for.
	install *install
	// record marks a point that the state machine has durably reached. What lies before it may be released.
	record *walpb.Snapshot
}

// runAppend makes what raft hands out durable. Everything that is queued when a sync ends shares the next one.
func (n *Node) runAppend() {
	defer close(n.appendDone)
	var jobs []appendJob
	for {
		jobs = n.queues.appends.take(jobs)
		if len(jobs) > 0 {
			if err := n.appendAll(jobs); err != nil {
				n.fail(err)
				// Without a log nothing may be promised any more: wait for the end.
				<-n.appendStop
				return
			}
			continue
		}
		select {
		case <-n.queues.appends.wake:
		case <-n.appendStop:
			return
		}
	}
}

// appendAll works through the jobs in order, in groups that end with a snapshot from the leader.
func (n *Node) appendAll(jobs []appendJob) error {
	from := 0
	for i, job := range jobs {
		if job.message == nil || raft.IsEmptySnap(job.message.GetSnapshot()) {
			continue
		}
		if err := n.appendGroup(jobs[from:i]); err != nil {
			return err
		}
		if err := n.appendSnapshot(job); err != nil {
			return err
		}
		from = i + 1
	}
	return n.appendGroup(jobs[from:])
}

// appendGroup writes the entries of all jobs and the last hard state, syncs once, and delivers all answers.
func (n *Node) appendGroup(jobs []appendJob) error {
	if len(jobs) == 0 {
		return nil
	}
	var hs *raftpb.HardState
	var release uint64
	for _, job := range jobs {
		if job.record != nil {
			if err := n.cfg.WAL.Append(nil, nil, job.record); err != nil {
				return err
			}
			release = job.record.GetIndex()
			continue
		}
		if err := n.cfg.WAL.Append(nil, job.message.Entries, nil); err != nil {
			return err
		}
		if job.message.Term != nil {
			hs = hardStateOf(job.message)
		}
	}
	if hs != nil {
		if err := n.cfg.WAL.Append(hs, nil, nil); err != nil {
			return err
		}
	}
	if err := n.cfg.WAL.Sync(); err != nil {
		return err
	}
	if release > 0 {
		if err := n.cfg.WAL.Release(release); err != nil {
			n.log.Warn("cannot remove an old segment of the log", zap.Error(err))
		}
	}
	var ev localEvent
	var outgoing []*raftpb.Message
	for _, job := range jobs {
		if job.message == nil {
			continue
		}
		if len(job.message.Entries) > 0 {
			if err := n.store.append(job.message.Entries); err != nil {
				return err
			}
			ev.appends++
		}
		outgoing = n.sortResponses(job.message.Responses, &ev, outgoing)
	}
	n.deliver(ev, outgoing)
	return nil
}

func hardStateOf(m *raftpb.Message) *raftpb.HardState {
	return &raftpb.HardState{Term: new(m.GetTerm()), Vote: new(m.GetVote()), Commit: new(m.GetCommit())}
}

// sortResponses tells answers to this member's own raft from those to peers.
func (n *Node) sortResponses(responses []*raftpb.Message, ev *localEvent, outgoing []*raftpb.Message) []*raftpb.Message {
	for _, m := range responses {
		if m.GetTo() == n.cfg.ID {
			ev.messages = append(ev.messages, m)
		} else {
			outgoing = append(outgoing, m)
		}
	}
	return outgoing
}

func (n *Node) deliver(ev localEvent, outgoing []*raftpb.Message) {
	if len(outgoing) > 0 {
		n.cfg.Transport.Send(outgoing)
	}
	if ev.appends > 0 || len(ev.messages) > 0 {
		n.queues.local.put(ev)
	}
}

// appendSnapshot makes a snapshot from the leader the new beginning of the log: first the record is durable, then the
// apply goroutine puts the received file in place of the state. A crash in between finds the record ahead of the state
// and the file still there, and whoever opens the member puts it in place then.
func (n *Node) appendSnapshot(job appendJob) error {
	m := job.message
	md := m.GetSnapshot().GetMetadata()
	record := &walpb.Snapshot{
		Index: new(md.GetIndex()), Term: new(md.GetTerm()), ConfState: wal.FromConfState(md.GetConfState()),
	}
	var hs *raftpb.HardState
	if m.Term != nil {
		hs = hardStateOf(m)
	}
	if err := n.cfg.WAL.Append(hs, m.Entries, record); err != nil {
		return err
	}
	if err := n.cfg.WAL.Sync(); err != nil {
		return err
	}
	restored := make(chan struct{})
	n.queues.applies.put(applyJob{restore: &restoreJob{metadata: md, install: job.install, done: restored}})
	select {
	case <-restored:
	case <-n.applyDone:
		return nil // stopping: nothing may be answered, since the state is not in place
	}
	if err := n.cfg.WAL.Release(md.GetIndex()); err != nil {
		n.log.Warn("cannot remove an old segment of the log", zap.Error(err))
	}
	var ev localEvent
	if len(m.Entries) > 0 {
		if err := n.store.append(m.Entries); err != nil {
			return err
		}
		ev.appends++
	}
	n.deliver(ev, n.sortResponses(m.Responses, &ev, nil))
	return nil
}
