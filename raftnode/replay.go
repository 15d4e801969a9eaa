package raftnode

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// Replay has the state machine apply committed entries without a node, for an offline tool. It starts from the
// configuration in force before the first of them, and returns the one after the last.
func Replay(machine StateMachine, conf *raftpb.ConfState, entries []*raftpb.Entry) (*raftpb.ConfState, error) {
	a := &applier{Node: &Node{cfg: Config{StateMachine: machine}}}
	for _, e := range entries {
		switch e.GetType() {
		case raftpb.EntryNormal:
			if _, _, err := a.run(e); err != nil {
				return nil, err
			}
		case raftpb.EntryConfChange:
			cc := &raftpb.ConfChange{}
			if err := proto.Unmarshal(e.GetData(), cc); err != nil {
				return nil, fmt.Errorf("raftnode: entry %d: configuration change cannot be decoded: %w", e.GetIndex(), err)
			}
			machine.ApplyConfChange(e.GetIndex(), e.GetTerm(), cc, func(accept bool) *raftpb.ConfState {
				if accept {
					conf = changed(conf, cc)
				}
				return conf
			})
		default:
			return nil, fmt.Errorf("raftnode: entry %d has unknown type %v", e.GetIndex(), e.GetType())
		}
	}
	return conf, nil
}

// changed is the configuration after a change of one member that was accepted.
func changed(conf *raftpb.ConfState, cc *raftpb.ConfChange) *raftpb.ConfState {
	id, next := cc.GetNodeId(), &raftpb.ConfState{AutoLeave: new(false)}
	isID := func(other uint64) bool { return other == id }
	next.Voters = slices.DeleteFunc(slices.Clone(conf.GetVoters()), isID)
	next.Learners = slices.DeleteFunc(slices.Clone(conf.GetLearners()), isID)
	switch cc.GetType() {
	case raftpb.ConfChangeAddNode:
		next.Voters = append(next.Voters, id)
	case raftpb.ConfChangeAddLearnerNode:
		next.Learners = append(next.Learners, id)
	case raftpb.ConfChangeUpdateNode:
		return conf
	}
	slices.Sort(next.Voters)
	slices.Sort(next.Learners)
	return next
}

// Own tells whether an entry holds what only this program reads: several commands at once, or one of its own.
func Own(e *raftpb.Entry) bool {
	var req pb.InternalRaftRequest
	if e.GetType() != raftpb.EntryNormal || req.UnmarshalVT(e.GetData()) != nil {
		return false
	}
	return len(req.Batch) > 0 || req.RetentionSample != nil || req.Maintenance != nil || req.OnlineRestore != nil
}
