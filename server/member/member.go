package member

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"go.etcd.io/raft/v3/raftpb"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// Member is one member as it stands, as JSON, in the `members` bucket and in configuration changes.
type Member struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// Started tells whether the member has ever published itself.
func (m Member) Started() bool { return m.Name != "" }

// Proto returns the member in the form that clients see.
func (m Member) Proto() *pb.Member {
	return &pb.Member{
		ID:         m.ID,
		Name:       m.Name,
		PeerURLs:   slices.Clone(m.PeerURLs),
		ClientURLs: slices.Clone(m.ClientURLs),
		IsLearner:  m.IsLearner,
	}
}

// Key returns the member's key in its bucket.
func (m Member) Key() []byte { return bucketKey(m.ID) }

// Value returns the member's value in its bucket.
func (m Member) Value() []byte {
	// A struct of numbers and strings always encodes.
	value, _ := json.Marshal(m)
	return value
}

func bucketKey(id uint64) []byte { return strconv.AppendUint(nil, id, 16) }

func parseBucketKey(key []byte) (uint64, error) {
	id, err := strconv.ParseUint(string(key), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("member key %q is not a hexadecimal ID", key)
	}
	return id, nil
}

// Change is a membership change as it travels in the log.
type Change struct {
	Type   raftpb.ConfChangeType
	Member Member
	// Promote marks an AddNode that turns an existing learner into a voter.
	Promote bool
}

// context is the JSON inside a configuration change. Source: storage.md, "raftpb".
type context struct {
	Member
	IsPromote bool `json:"isPromote,omitempty"`
}

// ConfChange returns c in the form that raft replicates.
func (c Change) ConfChange() *raftpb.ConfChange {
	cc := &raftpb.ConfChange{Type: c.Type.Enum(), NodeId: &c.Member.ID}
	if c.Type != raftpb.ConfChangeRemoveNode {
		cc.Context, _ = json.Marshal(context{Member: c.Member, IsPromote: c.Promote})
	}
	return cc
}

// ParseChange reads a configuration change; ErrMalformed where its context does not fit it.
func ParseChange(cc *raftpb.ConfChange) (Change, error) {
	c := Change{Type: cc.GetType(), Member: Member{ID: cc.GetNodeId()}}
	if c.Type == raftpb.ConfChangeRemoveNode {
		return c, nil
	}
	var ctx context
	if err := json.Unmarshal(cc.GetContext(), &ctx); err != nil {
		return c, fmt.Errorf("%w: context of member %x: %v", ErrMalformed, cc.GetNodeId(), err)
	}
	if ctx.ID != cc.GetNodeId() {
		return c, fmt.Errorf("%w: for member %x with the context of %x", ErrMalformed, cc.GetNodeId(), ctx.ID)
	}
	c.Member, c.Promote = ctx.Member, ctx.IsPromote
	c.Member.IsLearner = c.Type == raftpb.ConfChangeAddLearnerNode
	return c, nil
}
