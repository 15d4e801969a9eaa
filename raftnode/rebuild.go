package raftnode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// A member whose state is damaged, while its log is not, gets another member's state in the place of its own without
// leaving the cluster. Raft is not told: its log, its term and vote and how far it is committed stay. The image that was
// received holds the log up to some index; this member has applied up to a later one when it puts the image in place, and
// applies the entries between the two once more, this time to the right state:
//
//	hold            image                applied = b
//	  │ a             │ i                    │
//	──┴───────────────┴──────────────────────┴────►  log
//	  nothing of the log       these entries are
//	  behind a is dropped      applied again
//
// The log from a on is kept, in memory and on the disk, until the rebuild ends, so a crash after the swap replays from i.

var (
	// ErrLogTrimmed: the rebuild took so long that the log could not be kept for it.
	ErrLogTrimmed = errors.New("raftnode: too much was written while the image was on its way, and the log could not be kept for it; try again")
	// ErrImageMismatch: the image is not one of this cluster's states.
	ErrImageMismatch = errors.New("raftnode: the received image does not fit this member's log")
)

// hold keeps the log for a rebuild.
type hold struct {
	index uint64 // nothing behind it is dropped
	lost  bool   // that became too much
}

// HoldLog keeps everything behind the applied index, which it returns, in the log until release. One at a time.
func (n *Node) HoldLog() (applied uint64, release func(), err error) {
	h := &hold{}
	busy := false
	err = n.call(func() {
		if busy = n.state.hold != nil; !busy {
			h.index = n.applied.Load()
			n.state.hold = h
		}
	})
	switch {
	case err != nil:
		return 0, nil, err
	case busy:
		return 0, nil, errors.New("raftnode: a rebuild is under way already")
	}
	return h.index, func() { n.queues.calls.put(func() { n.state.hold = nil }) }, nil
}

// held lowers the index up to which the log may be dropped, unless the log has become too large to be kept.
func (n *Node) held(limit uint64) uint64 {
	h := n.state.hold
	if h == nil || h.lost {
		return limit
	}
	if n.store.size() > keepForPeersBytes {
		h.lost = true
		return limit
	}
	return min(limit, h.index)
}

// rebuildJob is an image on its way into the state machine.
type rebuildJob struct {
	file        string
	index, term uint64
	confState   *raftpb.ConfState
	// taken is set by whoever decides: the apply goroutine that begins, or the caller who gives up.
	taken atomic.Bool
	done  chan error // capacity 1
}

// Rebuild replaces the state by a database file of another member that holds the log up to index, once this member has
// applied that far, and applies what came later again. The log must be held since before the file was made. The file is
// taken by rename. An error that is a FatalError ends the node; after any other, the state is what it was.
func (n *Node) Rebuild(ctx context.Context, file string, index, term uint64, confState *raftpb.ConfState) error {
	job := &rebuildJob{file: file, index: index, term: term, confState: confState, done: make(chan error, 1)}
	n.queues.applies.put(applyJob{rebuild: job})
	select {
	case err := <-job.done:
		return err
	case <-ctx.Done():
		if job.taken.CompareAndSwap(false, true) {
			return context.Cause(ctx)
		}
	case <-n.applyDone:
	}
	select {
	case err := <-job.done:
		return err
	case <-n.applyDone:
		select {
		case err := <-job.done:
			return err
		default:
			return n.stopped()
		}
	}
}

// rebuildIfDue begins with the rebuild that waits, once what its image holds is applied here too.
func (a *applier) rebuildIfDue() error {
	job := a.rebuilding
	if job == nil || a.applied.Load() < job.index {
		return nil
	}
	a.rebuilding = nil
	if !job.taken.CompareAndSwap(false, true) {
		return nil
	}
	err := a.rebuild(job)
	job.done <- err
	if fatal := new(FatalError); errors.As(err, &fatal) {
		return fatal
	}
	return nil
}

func (a *applier) rebuild(job *rebuildJob) error {
	var confs []confAt
	lost := true
	if err := a.call(func() {
		confs = slices.Clone(a.state.conf)
		lost = a.state.hold == nil || a.state.hold.lost || a.state.hold.index > job.index || a.state.barrier > job.index
	}); err != nil {
		return err
	}
	if lost {
		return ErrLogTrimmed
	}
	if term, err := a.store.Term(job.index); err != nil || term != job.term {
		return fmt.Errorf("%w: it is of term %d at index %d, the log of term %d", ErrImageMismatch, job.term, job.index, term)
	}
	if conf := confUpTo(confs, job.index); !sameMembers(job.confState, conf) {
		return fmt.Errorf("%w: its members at index %d are %v, here they are %v; remove this member from the cluster, move its "+
			"data directory away and add it again", ErrImageMismatch, job.index, job.confState, conf)
	}
	return a.cfg.StateMachine.Rebuild(job.file, job.index, func() error {
		return a.again(job.index+1, a.applied.Load(), confs)
	})
}

// confUpTo is the configuration in force at an index.
func confUpTo(confs []confAt, index uint64) *raftpb.ConfState {
	conf := confs[0].conf
	for _, c := range confs {
		if c.index <= index {
			conf = c.conf
		}
	}
	return conf
}

func sameMembers(a, b *raftpb.ConfState) bool {
	equal := func(x, y []uint64) bool {
		return slices.Equal(slices.Sorted(slices.Values(x)), slices.Sorted(slices.Values(y)))
	}
	return equal(a.GetVoters(), b.GetVoters()) && equal(a.GetLearners(), b.GetLearners())
}

// againBytes of entries are read from the log at a time.
const againBytes = 4 << 20

// again applies the entries from one index to another, which were applied to the damaged state before. Nobody waits for
// their results any more, and raft has switched its configuration then.
func (a *applier) again(from, to uint64, confs []confAt) error {
	for from <= to {
		entries, err := a.store.Entries(from, to+1, againBytes)
		if err != nil {
			return fmt.Errorf("raftnode: read the log again from %d on: %w", from, err)
		}
		for _, e := range entries {
			if err := a.entryAgain(e, confs); err != nil {
				return err
			}
		}
		from += uint64(len(entries))
	}
	return nil
}

func (a *applier) entryAgain(e *raftpb.Entry, confs []confAt) error {
	if e.GetType() == raftpb.EntryNormal {
		_, _, err := a.run(e)
		return err
	}
	cc := &raftpb.ConfChange{}
	if err := proto.Unmarshal(e.GetData(), cc); err != nil {
		return fmt.Errorf("raftnode: entry %d: configuration change cannot be decoded: %w", e.GetIndex(), err)
	}
	at := slices.IndexFunc(confs, func(c confAt) bool { return c.index == e.GetIndex() })
	contradicts := false
	a.cfg.StateMachine.ApplyConfChange(e.GetIndex(), e.GetTerm(), cc, func(accept bool) *raftpb.ConfState {
		contradicts = accept != (at >= 0)
		return proto.Clone(confUpTo(confs, e.GetIndex())).(*raftpb.ConfState)
	})
	if contradicts {
		return fmt.Errorf("%w: the membership change at index %d was decided differently by the damaged state; remove this "+
			"member from the cluster, move its data directory away and add it again", ErrImageMismatch, e.GetIndex())
	}
	return nil
}
