package server

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/raftnode/identity"
	"github.com/upkeep-kv/upkeep/server/member"
)

// connectedLongEnough is how long a peer must have been reachable to count as healthy. Source: etcd.
const connectedLongEnough = 5 * time.Second

// promoteShare is how much of the leader's log a learner must hold to become a voter. Source: etcd.
const promoteShare = 0.9

// members changes the membership.
type members struct{ *Server }

func (m members) Members() []*pb.Member {
	all := m.cluster.Members()
	out := make([]*pb.Member, len(all))
	for i, one := range all {
		out[i] = one.Proto()
	}
	return out
}

func (m members) Add(ctx context.Context, peerURLs []string, learner bool) (*pb.Member, []*pb.Member, error) {
	urls, err := identity.ParseURLs(peerURLs)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %v", member.ErrInvalidURLs, err)
	}
	change := member.Change{Type: raftpb.ConfChangeAddNode, Member: member.Member{
		ID:        identity.MemberID(urls, "", time.Now().Unix()),
		PeerURLs:  urls,
		IsLearner: learner,
	}}
	if err := m.strictAdd(learner); err != nil {
		return nil, nil, err
	}
	if learner {
		change.Type = raftpb.ConfChangeAddLearnerNode
		// A member that is there already is refused as that, before learners are counted.
		check := func() error { return cmp.Or(m.cluster.Check(change), m.cluster.CheckLearners()) }
		if err := m.upToDate(ctx, check); err != nil {
			return nil, nil, err
		}
	}
	if err := m.change(ctx, change); err != nil {
		return nil, nil, err
	}
	return change.Member.Proto(), m.Members(), nil
}

func (m members) Remove(ctx context.Context, id uint64) ([]*pb.Member, error) {
	if err := m.strictRemove(id); err != nil {
		return nil, err
	}
	err := m.change(ctx, member.Change{Type: raftpb.ConfChangeRemoveNode, Member: member.Member{ID: id}})
	return m.Members(), err
}

func (m members) Update(ctx context.Context, id uint64, peerURLs []string) ([]*pb.Member, error) {
	err := m.change(ctx, member.Change{
		Type:   raftpb.ConfChangeUpdateNode,
		Member: member.Member{ID: id, PeerURLs: peerURLs, IsLearner: m.cluster.IsLearner(id)},
	})
	return m.Members(), err
}

func (m members) Promote(ctx context.Context, id uint64) ([]*pb.Member, error) {
	resp, err := onLeader(ctx, m.Server, func() (*pb.MemberPromoteResponse, error) {
		return m.promoteHere(ctx, id)
	}, func(ctx context.Context, peer peerpb.PeerClient) (*pb.MemberPromoteResponse, error) {
		return peer.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: id})
	})
	if err != nil {
		return nil, err
	}
	return resp.Members, nil
}

// promoteHere promotes as leader, who knows how far the learner has come, and counts it.
func (m members) promoteHere(ctx context.Context, id uint64) (*pb.MemberPromoteResponse, error) {
	resp, err := m.promote(ctx, id)
	if err != nil {
		m.metrics.LearnerPromoted(err.Error())
	} else {
		m.metrics.LearnerPromoted("")
	}
	return resp, err
}

func (m members) promote(ctx context.Context, id uint64) (*pb.MemberPromoteResponse, error) {
	var learner member.Member
	if err := m.upToDate(ctx, func() (err error) { learner, err = m.learnerCalled(id); return err }); err != nil {
		return nil, err
	}
	progress := m.node.Status().Progress
	if float64(progress[id].Match) < promoteShare*float64(progress[m.id].Match) {
		return nil, member.ErrLearnerNotReady
	}
	if m.cfg.StrictReconfigCheck {
		voters, started := m.voters()
		if learner.Started() {
			started++
		}
		if started < quorum(voters+1) {
			return nil, member.ErrNotEnoughStarted
		}
	}
	err := m.change(ctx, member.Change{Type: raftpb.ConfChangeAddNode, Promote: true, Member: member.Member{
		ID: id, PeerURLs: learner.PeerURLs, Name: learner.Name, ClientURLs: learner.ClientURLs,
	}})
	return &pb.MemberPromoteResponse{Members: m.Members()}, err
}

func (m members) learnerCalled(id uint64) (member.Member, error) {
	learner, ok := m.cluster.Member(id)
	switch {
	case !ok:
		return learner, member.ErrMemberNotFound
	case !learner.IsLearner:
		return learner, member.ErrNotLearner
	}
	return learner, nil
}

// change puts a membership change through the log and returns once it is applied here. What apply would refuse is
// refused at once.
func (m members) change(ctx context.Context, change member.Change) error {
	if err := m.upToDate(ctx, func() error { return m.cluster.Check(change) }); err != nil {
		return err
	}
	result, err := m.node.ProposeConfChange(ctx, change.ConfChange())
	if err != nil {
		return err
	}
	return result.Err
}

// upToDate lets check refuse only what it refuses once everything is applied here that was committed when it was called:
// the client may have made the change before this one on another member.
func (m members) upToDate(ctx context.Context, check func() error) error {
	if check() == nil {
		return nil
	}
	if err := m.node.LinearizableRead(ctx); err != nil {
		return err
	}
	return check()
}

// strictAdd refuses a new member that could cost the cluster its quorum: too few members are reachable, or, for a voter, too
// few have ever started. Nothing is asked of the only member, which is its own quorum.
func (m members) strictAdd(learner bool) error {
	if !m.cfg.StrictReconfigCheck {
		return nil
	}
	voters, started := m.voters()
	if voters == 1 && started == 1 {
		return nil
	}
	if !learner && started < quorum(voters+1) {
		return member.ErrNotEnoughStarted
	}
	if m.connected(0) < quorum(voters+1) {
		return member.ErrUnhealthy
	}
	return nil
}

// strictRemove refuses the removal of a voter that would leave too few started or reachable ones. A member that is
// down anyway may go.
func (m members) strictRemove(id uint64) error {
	target, ok := m.cluster.Member(id)
	if !m.cfg.StrictReconfigCheck || !ok || target.IsLearner {
		return nil
	}
	voters, started := m.voters()
	if target.Started() {
		started--
	}
	if started < quorum(voters-1) {
		return member.ErrNotEnoughStarted
	}
	if id != m.id && m.transport.ActiveSince(id).IsZero() {
		return nil
	}
	if m.connected(id) < quorum(voters-1) {
		return member.ErrUnhealthy
	}
	return nil
}

// voters counts the voting members and those of them that have ever started.
func (m members) voters() (voters, started int) {
	for _, one := range m.cluster.Members() {
		if one.IsLearner {
			continue
		}
		voters++
		if one.Started() {
			started++
		}
	}
	return voters, started
}

// connected counts the voters other than without that have been reachable from here for long enough, this member
// included.
func (m members) connected(without uint64) int {
	count := 0
	for _, one := range m.cluster.Members() {
		if one.IsLearner || one.ID == without {
			continue
		}
		since := m.transport.ActiveSince(one.ID)
		if one.ID == m.id || (!since.IsZero() && time.Since(since) >= connectedLongEnough) {
			count++
		}
	}
	return count
}

func quorum(voters int) int { return voters/2 + 1 }
