package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/mvcc"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/quota"
	"github.com/upkeep-kv/upkeep/server/integrity"
)

const (
	// hashTimeout bounds one HashKV of a peer: a large database takes its time.
	hashTimeout = 10 * time.Minute
	// reachTimeout is how long the check before serving tries to reach a peer. Members that start together do not answer
	// each other yet, and must not wait for each other for long.
	reachTimeout = 2 * time.Second
)

func (s *Server) integrityConfig() integrity.Config {
	c := integrity.Config{Interval: s.cfg.CorruptCheckTime, Logger: s.logger}
	if s.cfg.Gates.CompactHashCheck {
		c.CompactionInterval = s.cfg.CompactHashCheckTime
	}
	return c
}

// histories is what comparing members needs of the server.
type histories struct{ *Server }

func (h histories) IsLeader() bool                 { return h.node.IsLeader() }
func (h histories) LeaderChanged() <-chan struct{} { return h.node.LeaderChanged() }

func (h histories) Current(ctx context.Context) (int64, error) {
	if err := h.node.LinearizableRead(ctx); err != nil {
		return 0, err
	}
	return h.store.Revision(), nil
}

func (h histories) Members() []integrity.Member {
	var out []integrity.Member
	for _, m := range h.cluster.Members() {
		if !m.Started() && m.ID != h.id {
			continue // it has no history yet
		}
		out = append(out, integrity.Member{ID: m.ID, Name: m.Name})
	}
	return out
}

func (h histories) Hash(ctx context.Context, m integrity.Member, rev int64) integrity.Answer {
	ctx, cancel := context.WithTimeout(ctx, hashTimeout)
	defer cancel()
	a := integrity.Answer{Member: m, Hash: integrity.Hash{Revision: rev}}
	var resp *pb.HashKVResponse
	if m.ID == h.id {
		resp, a.Err = upkeep(h).HashKV(ctx, rev)
	} else {
		resp, a.Err = h.hashOfPeer(ctx, m.ID, rev)
	}
	switch {
	case a.Err == nil:
		a.Sum, a.CompactRevision = resp.Hash, resp.CompactRevision
	case isFutureRevision(a.Err):
		a.Err, a.Short = nil, true
	}
	return a
}

func (h histories) hashOfPeer(ctx context.Context, id uint64, rev int64) (*pb.HashKVResponse, error) {
	conn, err := h.transport.Conn(id)
	if err != nil {
		return nil, err
	}
	return peerpb.NewPeerClient(conn).HashKV(ctx, &pb.HashKVRequest{Revision: rev})
}

// isFutureRevision recognizes that refusal, also as a peer puts it.
func isFutureRevision(err error) bool {
	return err == mvcc.ErrFutureRevision ||
		status.Code(err) == codes.OutOfRange && strings.Contains(err.Error(), "future revision")
}

func (h histories) CompactionHashes() []integrity.Hash {
	var out []integrity.Hash
	for _, c := range h.store.CompactionHashes() {
		out = append(out, integrity.Hash{Sum: c.Hash, Revision: c.HashRevision, CompactRevision: c.CompactRevision})
	}
	return out
}

func (h histories) RaiseCorrupt(ctx context.Context, member uint64) error {
	if h.alarms.Raised(quota.Alarm{Member: member, Type: pb.AlarmType_CORRUPT}) {
		return nil
	}
	return h.propose(ctx, &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
		Action: pb.AlarmRequest_ACTIVATE, MemberID: member, Alarm: pb.AlarmType_CORRUPT,
	}})
}

// checkBeforeServing compares this member's history with that of every peer that can be reached, if the gate
// InitialCorruptCheck is on and the member has run before. It runs before the node takes part in anything.
func (s *Server) checkBeforeServing() error {
	if !s.cfg.Gates.InitialCorruptCheck || !s.restarted || s.backendApplied() == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	h := histories{s}
	rev := s.store.Revision()
	own := h.Hash(ctx, integrity.Member{ID: s.id, Name: s.cfg.Name}, rev)
	if own.Err != nil {
		return s.unusable(own.Err)
	}
	peers := slices.DeleteFunc(h.Members(), func(m integrity.Member) bool { return m.ID == s.id })
	answers := make([]integrity.Answer, len(peers))
	var asked sync.WaitGroup
	for i, m := range peers {
		asked.Go(func() {
			if err := s.reach(ctx, m.ID); err != nil {
				answers[i] = integrity.Answer{Member: m, Err: err}
				return
			}
			answers[i] = h.Hash(ctx, m, rev)
		})
	}
	asked.Wait()
	return s.judgeBeforeServing(own, answers)
}

func (s *Server) judgeBeforeServing(own integrity.Answer, answers []integrity.Answer) error {
	var differing []string
	compared := 0
	for _, a := range answers {
		switch {
		case a.Err != nil, a.Short, a.CompactRevision != own.CompactRevision:
			s.logger.Warn("initial corruption check: a peer's history could not be compared", zap.Stringer("answer", a))
			continue
		case a.Sum != own.Sum:
			differing = append(differing, a.String())
		}
		compared++
	}
	if len(differing) == 0 {
		s.logger.Info("initial corruption check passed; no corruption", zap.Int64("revision", own.Revision),
			zap.Uint32("hash", own.Sum), zap.Int("peers-compared", compared), zap.Int("peers", len(answers)))
		return nil
	}
	return fmt.Errorf("corrupt data found: this member has %s, but %s; if this member is the one that is wrong, %s",
		own, strings.Join(differing, ", "), remedyDiffering(s.id))
}

// remedyDiffering is what can be done about a member whose history is not that of the others.
func remedyDiffering(id uint64) string {
	return fmt.Sprintf("start it without the feature gate InitialCorruptCheck and run `upkeepctl maintenance rebuild %s`, or "+
		"remove it from the cluster, move its data directory away and add it again", hexID(id))
}

// reach tells whether a peer answers at all.
func (s *Server) reach(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	conn, err := s.transport.Conn(id)
	if err != nil {
		return err
	}
	_, err = peerpb.NewPeerClient(conn).Members(ctx, &peerpb.MembersRequest{})
	return err
}
