package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/quota"
	"github.com/upkeep-kv/upkeep/server/integrity"
)

// RebuildOptions of Rebuild.
type RebuildOptions struct {
	// From is the member whose database is taken; 0 takes one of the majority.
	From uint64
	// Disarm lowers this member's CORRUPT alarm once its history is that of the majority.
	Disarm bool
	// Report is told how far it is; may be nil.
	Report func(phase string, done, total int64)
}

// RebuildResult says what was done.
type RebuildResult struct {
	From      uint64
	Index     uint64 // of the log, that the received database held
	SizeBytes int64
	Duration  time.Duration
	// Pause is how long requests to this member waited for the swap.
	Pause time.Duration
	// Hash and Revision are what was compared afterwards.
	Hash     uint32
	Revision int64
	Disarmed bool
}

// Errors of Rebuild.
var (
	ErrRebuildAlone = errors.New("a cluster of one member has nobody to rebuild it from: restore a backup into a new " +
		"data directory with `upkeepctl snapshot restore`, or the running cluster with `upkeepctl restore --online`")
	ErrRebuildTie = errors.New("no history has a majority, so nobody can tell which member is right: name a member to take " +
		"the database from")
	ErrRebuildSource = errors.New("the member to take the database from is this one, or is not in the cluster")
)

// Rebuild replaces this member's database, which may be damaged, by that of another member. The member goes on serving
// until the swap, and requests to it wait during the swap. A leader hands over first.
func (s *Server) Rebuild(ctx context.Context, o RebuildOptions) (RebuildResult, error) {
	if o.Report == nil {
		o.Report = func(string, int64, int64) {}
	}
	start := time.Now()
	result, err := s.rebuild(ctx, o)
	result.Duration = time.Since(start)
	if err != nil {
		s.logger.Warn("rebuilding this member's database failed", zap.Error(err))
		return result, err
	}
	s.logger.Info("rebuilt this member's database", zap.String("from", hexID(result.From)), zap.Uint64("index", result.Index),
		zap.Int64("size-bytes", result.SizeBytes), zap.Duration("took", result.Duration), zap.Duration("pause", result.Pause),
		zap.Int64("revision", result.Revision), zap.Uint32("hash", result.Hash), zap.Bool("disarmed", result.Disarmed))
	return result, nil
}

func (s *Server) rebuild(ctx context.Context, o RebuildOptions) (result RebuildResult, err error) {
	o.Report("compare", 0, 0)
	if result.From, err = s.rebuildSource(ctx, o.From); err != nil {
		return result, err
	}
	if err := s.stepAside(ctx, result.From); err != nil {
		return result, err
	}
	_, release, err := s.node.HoldLog()
	if err != nil {
		return result, err
	}
	defer release()
	got, err := s.fetchImage(ctx, result.From, func(done, total int64) { o.Report("fetch", done, total) })
	if err != nil {
		return result, err
	}
	defer os.Remove(got.file) // gone already, if it was put in place
	result.Index, result.SizeBytes = got.index, got.size
	o.Report("swap", 0, 0)
	s.restorePause.Store(0)
	if err := s.node.Rebuild(ctx, got.file, got.index, got.term, got.confState); err != nil {
		return result, err
	}
	result.Pause = time.Duration(s.restorePause.Load())
	o.Report("verify", 0, 0)
	return result, s.verifyRebuilt(ctx, o, &result)
}

// rebuildSource chooses a member whose history is that of the majority: a voter before a learner, a follower before the
// leader.
func (s *Server) rebuildSource(ctx context.Context, wanted uint64) (uint64, error) {
	members := s.cluster.Members()
	if len(members) == 1 {
		return 0, ErrRebuildAlone
	}
	if wanted != 0 {
		if _, ok := s.cluster.Member(wanted); !ok || wanted == s.id {
			return 0, fmt.Errorf("%w: %s", ErrRebuildSource, hexID(wanted))
		}
		return wanted, nil
	}
	v, err := integrity.Compare(ctx, histories{s})
	if err != nil {
		return 0, err
	}
	healthy := slices.DeleteFunc(slices.Clone(v.Healthy), func(m integrity.Member) bool { return m.ID == s.id })
	if v.Tie || len(healthy) == 0 {
		return 0, fmt.Errorf("%w: %s", ErrRebuildTie, v.Detail())
	}
	rank := func(m integrity.Member) int {
		switch {
		case s.cluster.IsLearner(m.ID):
			return 2
		case m.ID == s.node.Lead():
			return 1
		}
		return 0
	}
	return slices.MinFunc(healthy, func(a, b integrity.Member) int { return rank(a) - rank(b) }).ID, nil
}

// stepAside hands leadership to a healthy member, so that the pause of the swap is nobody else's.
func (s *Server) stepAside(ctx context.Context, to uint64) error {
	if !s.node.IsLeader() {
		return nil
	}
	if s.cluster.IsLearner(to) {
		return fmt.Errorf("this member leads, and the only healthy other member %s is a learner; promote it first", hexID(to))
	}
	return s.node.TransferLeadership(ctx, to)
}

// verifyRebuilt compares with the source once more, and lowers the alarm if that was asked for.
func (s *Server) verifyRebuilt(ctx context.Context, o RebuildOptions, result *RebuildResult) error {
	v, err := integrity.Compare(ctx, histories{s})
	if err != nil {
		return fmt.Errorf("the database was replaced, but could not be compared afterwards: %w", err)
	}
	var own, source *integrity.Answer
	for i, a := range v.Answers {
		switch a.Member.ID {
		case s.id:
			own = &v.Answers[i]
		case result.From:
			source = &v.Answers[i]
		}
	}
	if own == nil || source == nil || own.Err != nil || source.Err != nil || own.Short || source.Short || own.Hash != source.Hash {
		return fmt.Errorf("the database was replaced, but this member's history still differs: %s", v.Detail())
	}
	result.Hash, result.Revision = own.Sum, own.Revision
	if !o.Disarm {
		return nil
	}
	if v.Tie || slices.ContainsFunc(v.Differing, func(m integrity.Member) bool { return m.ID == s.id }) {
		return fmt.Errorf("the alarm stays: this member now equals member %s, but not the majority: %s", hexID(result.From), v.Detail())
	}
	result.Disarmed = s.alarms.Raised(quota.Alarm{Member: s.id, Type: pb.AlarmType_CORRUPT})
	return s.propose(ctx, &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
		Action: pb.AlarmRequest_DEACTIVATE, MemberID: s.id, Alarm: pb.AlarmType_CORRUPT,
	}})
}
