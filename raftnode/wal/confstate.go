package wal

import (
	"cmp"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/proto/peerpb"
)

// InitialEntries are the configuration changes that every member of a new cluster writes to its log alike, in order of
// member ID, and the configuration that they make.
func InitialEntries(members []BootstrapMember) ([]*raftpb.Entry, *peerpb.ConfState, error) {
	members = slices.SortedFunc(slices.Values(members), func(a, b BootstrapMember) int { return cmp.Compare(a.ID, b.ID) })
	ents := make([]*raftpb.Entry, 0, len(members))
	cs := &peerpb.ConfState{AutoLeave: new(false)}
	for i, m := range members {
		if i > 0 && members[i-1].ID == m.ID {
			return nil, nil, fmt.Errorf("wal: bootstrap: member %x stands twice in the initial cluster", m.ID)
		}
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(&raftpb.ConfChange{
			Type:    raftpb.ConfChangeAddNode.Enum(),
			NodeId:  new(m.ID),
			Context: m.Context,
		})
		if err != nil {
			return nil, nil, err
		}
		ents = append(ents, &raftpb.Entry{
			Type:  raftpb.EntryConfChange.Enum(),
			Term:  new(uint64(1)),
			Index: new(uint64(i) + 1),
			Data:  data,
		})
		cs.Voters = append(cs.Voters, m.ID)
	}
	return ents, cs, nil
}

// FromConfState converts raft's type into the one that log records embed.
func FromConfState(cs *raftpb.ConfState) *peerpb.ConfState {
	if cs == nil {
		return nil
	}
	return &peerpb.ConfState{
		Voters:         slices.Clone(cs.GetVoters()),
		Learners:       slices.Clone(cs.GetLearners()),
		VotersOutgoing: slices.Clone(cs.GetVotersOutgoing()),
		LearnersNext:   slices.Clone(cs.GetLearnersNext()),
		AutoLeave:      new(cs.GetAutoLeave()),
	}
}

// ToConfState is the inverse of FromConfState; nil yields an empty configuration.
func ToConfState(cs *peerpb.ConfState) *raftpb.ConfState {
	return &raftpb.ConfState{
		Voters:         slices.Clone(cs.GetVoters()),
		Learners:       slices.Clone(cs.GetLearners()),
		VotersOutgoing: slices.Clone(cs.GetVotersOutgoing()),
		LearnersNext:   slices.Clone(cs.GetLearnersNext()),
		AutoLeave:      new(cs.GetAutoLeave()),
	}
}
