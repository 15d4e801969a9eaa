package raftnode

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// applyJob is work for the apply goroutine: committed entries, or a snapshot to restore.
type applyJob struct {
	entries   []*raftpb.Entry
	responses []*raftpb.Message
	restore   *restoreJob
	rebuild   *rebuildJob
}

type restoreJob struct {
	metadata *raftpb.SnapshotMetadata
	install  *install
	done     chan struct{}
}

// applier is what only the apply goroutine knows.
type applier struct {
	*Node
	// term of the last applied entry.
	term uint64
	// commands is reused from entry to entry.
	commands []*pb.InternalRaftRequest
	// rebuilding waits until what its image holds is applied; nil if there is none.
	rebuilding *rebuildJob
}

var errStoppedApplying = errors.New("raftnode: stopped between two entries")

func (n *Node) runApply() {
	defer close(n.applyDone)
	a := &applier{Node: n}
	a.term, _ = n.store.Term(n.cfg.Applied)
	var jobs []applyJob
	for {
		jobs = n.queues.applies.take(jobs)
		for _, job := range jobs {
			if err := a.do(job); err != nil {
				if err != errStoppedApplying {
					n.fail(err)
				}
				return
			}
		}
		if len(jobs) > 0 {
			continue
		}
		select {
		case <-n.queues.applies.wake:
		case <-n.applyStop:
			return
		}
	}
}

func (a *applier) do(job applyJob) error {
	switch {
	case job.restore != nil:
		return a.restore(job.restore)
	case job.rebuild != nil:
		a.rebuilding = job.rebuild
		return a.rebuildIfDue()
	}
	for _, e := range job.entries {
		select {
		case <-a.applyStop:
			return errStoppedApplying
		default:
		}
		if err := a.entry(e); err != nil {
			return err
		}
		if err := a.rebuildIfDue(); err != nil {
			return err
		}
	}
	a.queues.local.put(localEvent{messages: job.responses})
	if a.cfg.Observer.Applied != nil {
		a.cfg.Observer.Applied(a.applied.Load())
	}
	return nil
}

func (a *applier) entry(e *raftpb.Entry) error {
	index, term := e.GetIndex(), e.GetTerm()
	if term > a.term {
		a.waiters.failDropped(term)
		a.term = term
	}
	switch e.GetType() {
	case raftpb.EntryNormal:
		return a.normal(e)
	case raftpb.EntryConfChange:
		return a.confChange(e)
	}
	return fmt.Errorf("raftnode: entry %d of term %d has unknown type %v", index, term, e.GetType())
}

func (a *applier) normal(e *raftpb.Entry) error {
	commands, results, err := a.run(e)
	if err != nil {
		return err
	}
	a.published(e.GetIndex(), e.GetTerm(), nil)
	for i, c := range commands {
		if results[i].Barrier {
			a.queues.calls.put(func() { a.state.barrier = max(a.state.barrier, e.GetIndex()) })
		}
		a.answer(commandID(c), results[i])
	}
	clear(commands)
	a.commands = commands[:0]
	return nil
}

// run has the state machine apply an entry of commands.
func (a *applier) run(e *raftpb.Entry) ([]*pb.InternalRaftRequest, []Result, error) {
	index, term := e.GetIndex(), e.GetTerm()
	commands, err := decodeCommands(e.GetData(), a.commands[:0])
	if err != nil {
		return nil, nil, fmt.Errorf("raftnode: entry %d of term %d cannot be decoded: %w", index, term, err)
	}
	results := a.cfg.StateMachine.Apply(Entry{Index: index, Term: term, Commands: commands})
	if len(results) != len(commands) {
		return nil, nil, fmt.Errorf("raftnode: entry %d: the state machine gave %d results for %d commands", index, len(results), len(commands))
	}
	for _, result := range results {
		if fatal := new(FatalError); result.Err != nil && errors.As(result.Err, &fatal) {
			return nil, nil, fmt.Errorf("entry %d of term %d cannot be applied: %w", index, term, fatal)
		}
	}
	return commands, results, nil
}

// commandID pairs a command with its caller. Old logs have it in another place.
func commandID(c *pb.InternalRaftRequest) uint64 {
	if id := c.GetHeader().GetID(); id != 0 {
		return id
	}
	return c.GetID()
}

// published makes the applied index known before anybody is answered, so that a caller who has seen a result finds
// every later read to include it.
func (a *applier) published(index, term uint64, conf *raftpb.ConfState) {
	a.store.publish(index, term, conf)
	a.applied.Store(index)
	a.reads.release(index)
}

func (a *applier) answer(id uint64, result Result) {
	p := a.waiters.remove(id)
	if p == nil {
		return
	}
	if p.slot {
		a.queues.local.put(localEvent{forwards: 1})
	}
	p.outcome <- outcome{result: result}
}

func (a *applier) confChange(e *raftpb.Entry) error {
	cc := &raftpb.ConfChange{}
	if err := proto.Unmarshal(e.GetData(), cc); err != nil {
		return fmt.Errorf("raftnode: entry %d: configuration change cannot be decoded: %w", e.GetIndex(), err)
	}
	index, term := e.GetIndex(), e.GetTerm()
	var conf *raftpb.ConfState
	var accepted bool
	var failed error
	result := a.cfg.StateMachine.ApplyConfChange(index, term, cc, func(accept bool) *raftpb.ConfState {
		accepted = accept
		conf, failed = a.install(index, cc, accept)
		return proto.Clone(conf).(*raftpb.ConfState)
	})
	if failed != nil {
		return failed
	}
	if conf == nil {
		return fmt.Errorf("raftnode: entry %d: the state machine did not decide on a configuration change", index)
	}
	a.published(index, term, conf)
	a.answer(cc.GetId(), result)
	if accepted && cc.GetType() == raftpb.ConfChangeRemoveNode && cc.GetNodeId() == a.cfg.ID {
		a.log.Warn("this member was removed from the cluster and will stop", zap.Uint64("index", index))
		// A leader's last messages, which tell the others that the change is committed, need a moment.
		a.queues.calls.put(func() { a.state.removedTicks = 2 })
	}
	return nil
}

// install has the loop switch raft's configuration, and returns the one now in force. Replayed entries take the same
// way as new ones.
func (n *Node) install(index uint64, cc *raftpb.ConfChange, accept bool) (conf *raftpb.ConfState, err error) {
	err = n.call(func() {
		s := &n.state
		conf = s.conf[len(s.conf)-1].conf
		if !accept {
			return
		}
		conf = raftpb.EnsureConfState(n.raw.ApplyConfChange(cc))
		s.conf = append(s.conf, confAt{index, conf})
	})
	return conf, err
}

// restore replaces the state by a file received from the leader.
func (a *applier) restore(job *restoreJob) error {
	index, term := job.metadata.GetIndex(), job.metadata.GetTerm()
	if job.install == nil {
		return fmt.Errorf("raftnode: raft accepted a snapshot at %d that no file came with", index)
	}
	if err := a.cfg.StateMachine.Restore(job.install.file, index, term); err != nil {
		err = fmt.Errorf("raftnode: install the snapshot at %d: %w", index, err)
		job.install.done <- err
		return err
	}
	conf := raftpb.EnsureConfState(proto.Clone(job.metadata.GetConfState()).(*raftpb.ConfState))
	a.store.reset(index, term, conf)
	a.term = max(a.term, term)
	a.applied.Store(index)
	a.reads.release(index)
	a.queues.calls.put(func() {
		a.state.conf = []confAt{{index, conf}}
		a.state.recordedIndex = index
	})
	job.install.done <- nil
	close(job.done)
	return nil
}
