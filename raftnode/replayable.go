package raftnode

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// Why an entry that another program left in the log cannot be applied.
var (
	// ErrUnknownRequest: a later version has written it.
	ErrUnknownRequest = errors.New("it holds a request of a kind that this version does not know")
	// ErrJointConsensus: neither etcd nor this program changes the configuration that way, or could apply it.
	ErrJointConsensus = errors.New("it changes the membership by joint consensus, which no version of etcd does")
	// ErrV2Keys: the v2 store is gone since etcd 3.6.
	ErrV2Keys = errors.New("it changes keys of the v2 API, which are not kept any more: they would be lost")
)

// Replayable tells why an entry of a log cannot be applied, nil if it can. Entries that the state machine has applied
// already need not be: of those, only requests to the v2 store count, because the database does not hold their effect.
func Replayable(e *raftpb.Entry, applied bool) error {
	err := replayable(e, applied)
	if err != nil {
		return fmt.Errorf("entry %d of term %d cannot be applied: %w", e.GetIndex(), e.GetTerm(), err)
	}
	return nil
}

func replayable(e *raftpb.Entry, applied bool) error {
	switch e.GetType() {
	case raftpb.EntryNormal:
		return replayableCommands(e.GetData(), applied)
	case raftpb.EntryConfChange:
		if applied {
			return nil
		}
		return proto.Unmarshal(e.GetData(), &raftpb.ConfChange{})
	case raftpb.EntryConfChangeV2:
		return ErrJointConsensus
	}
	return fmt.Errorf("it is of unknown type %v", e.GetType())
}

func replayableCommands(data []byte, applied bool) error {
	var req pb.InternalRaftRequest
	if len(data) == 0 || req.UnmarshalVT(data) != nil {
		if r, err := parseV2(data); err == nil && r.changesKeys() {
			return ErrV2Keys
		}
	}
	if applied {
		return nil
	}
	commands, err := decodeCommands(data, nil)
	if err != nil {
		return err
	}
	for _, c := range commands {
		if len(c.ProtoReflect().GetUnknown()) > 0 {
			return ErrUnknownRequest
		}
	}
	return nil
}

// Role is what a configuration change makes a member.
type Role struct {
	ID      uint64
	Learner bool
}

// RoleChange reads the role that an entry gives a member; false if it gives none.
func RoleChange(e *raftpb.Entry) (Role, bool) {
	var cc raftpb.ConfChange
	if e.GetType() != raftpb.EntryConfChange || proto.Unmarshal(e.GetData(), &cc) != nil {
		return Role{}, false
	}
	switch cc.GetType() {
	case raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode:
		return Role{ID: cc.GetNodeId(), Learner: cc.GetType() == raftpb.ConfChangeAddLearnerNode}, true
	}
	return Role{}, false
}
