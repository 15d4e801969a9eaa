package server

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/upkeep-kv/upkeep/mvcc"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/quota"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/server/maintenance"
	"github.com/upkeep-kv/upkeep/server/rpc"
)

// upkeepJob is one kind of maintenance: who does it on a member, and who plans it on the leader.
type upkeepJob struct {
	kind   schedulepb.Kind
	worker maintenance.WorkerFunc
	// planner is nil for what is only ever a step of another kind's plan.
	planner maintenance.Planner
}

// upkeepJobs lists every kind of maintenance there is. The planners are asked in this order.
func (s *Server) upkeepJobs() []upkeepJob {
	return []upkeepJob{
		{kind: schedulepb.Kind_RECOVER, worker: s.workRecover, planner: maintenance.RecoverPlanner{}},
		{kind: schedulepb.Kind_DEFRAG, worker: s.workDefrag, planner: maintenance.DefragPlanner{}},
		{kind: schedulepb.Kind_CHECK, worker: s.workCheck, planner: maintenance.CheckPlanner{}},
		{kind: schedulepb.Kind_REBUILD, worker: s.workRebuild, planner: maintenance.RebuildPlanner{}},
		{kind: schedulepb.Kind_BACKUP, worker: s.backups.Run, planner: maintenance.BackupPlanner{}},
		{kind: schedulepb.Kind_COMPACT, worker: s.workCompact},
		{kind: schedulepb.Kind_MOVE_LEADER, worker: s.workMoveLeader},
	}
}

func (s *Server) upkeepPlanners() []maintenance.NamedPlanner {
	var out []maintenance.NamedPlanner
	for _, job := range s.upkeepJobs() {
		if job.planner != nil {
			out = append(out, maintenance.NamedPlanner{Kind: job.kind, Planner: job.planner})
		}
	}
	return out
}

// startAgent lets this member do what the schedule says.
func (s *Server) startAgent() {
	workers := map[schedulepb.Kind]maintenance.Worker{}
	for _, job := range s.upkeepJobs() {
		workers[job.kind] = job.worker
	}
	s.agent = maintenance.StartAgent(maintenance.AgentConfig{
		Member: s.id, Incarnation: rand.Uint64() | 1, Schedule: agreed{s}, Workers: workers,
		Timing: maintenance.DefaultTiming(s.cfg.ElectionTimeout), Logger: s.logger,
		Observer: maintenance.Observer{
			TaskStarted:  func(kind string) { s.metrics.TaskStarted(kind); s.working(kind, true) },
			TaskProgress: s.metrics.TaskProgress,
			TaskEnded: func(kind, result string, took time.Duration) {
				s.metrics.TaskEnded(kind, result, took)
				s.working("", false)
			},
		},
	})
}

// startCoordinator lets this member decide what the schedule says, while it leads.
func (s *Server) startCoordinator() {
	s.coordinator = maintenance.StartCoordinator(maintenance.CoordinatorConfig{
		Fleet: fleet{s}, Schedule: agreed{s}, Planners: s.upkeepPlanners(), Poked: s.alarmed,
		Timing: maintenance.DefaultTiming(s.cfg.ElectionTimeout), Logger: s.logger,
	})
}

// workDefrag rewrites this member's database without its holes, once a compaction that was to come first is through.
func (s *Server) workDefrag(ctx context.Context, task *schedulepb.Task, report func(string, int64, int64)) (*schedulepb.Outcome, error) {
	if rev := maintenance.Parameter(task.Parameters, maintenance.ParamRevision); rev != "" && rev != "0" {
		report("waiting for the compaction", 0, 0)
		if err := s.compactAndWait(ctx, min(mustRevision(rev), s.store.CompactRevision())); err != nil {
			return nil, err
		}
	}
	resp, err := upkeep{s}.defragment(ctx, report)
	if err != nil {
		return nil, err
	}
	return &schedulepb.Outcome{
		SizeBefore: resp.SizeBefore, SizeAfter: resp.SizeAfter, Bytes: resp.BytesCopied, LongestPause: resp.LongestPauseNanos,
		Hash: resp.HashKv, Details: []*schedulepb.Parameter{{Name: hashRevision, Value: strconv.FormatInt(resp.HashRevision, 10)}},
	}, nil
}

// mustRevision reads a number that a planner wrote; 0 if it is none.
func mustRevision(text string) int64 {
	rev, _ := strconv.ParseInt(text, 10, 64)
	return rev
}

// workCompact moves the floor of the cluster's history, and waits until what is below it is deleted here.
func (s *Server) workCompact(ctx context.Context, task *schedulepb.Task, report func(string, int64, int64)) (*schedulepb.Outcome, error) {
	rev := mustRevision(maintenance.Parameter(task.Parameters, maintenance.ParamRevision))
	before := s.store.CompactRevision()
	report("deleting", 0, 0)
	if err := s.compactAndWait(ctx, rev); err != nil {
		return nil, err
	}
	return &schedulepb.Outcome{Message: fmt.Sprintf("the history begins at revision %d, it began at %d", rev, max(before, 0))}, nil
}

// compactAndWait compacts at rev, and waits for what this member has to delete: also that of an earlier compaction, if
// somebody was faster.
func (s *Server) compactAndWait(ctx context.Context, rev int64) error {
	if rev <= 0 {
		return nil
	}
	value, err := proposer{s}.Propose(ctx, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: rev}})
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) {
		return err
	}
	result, ok := value.(rpc.CompactResult)
	if !ok || result.Done() == nil {
		return nil
	}
	select {
	case <-result.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// workMoveLeader hands leadership over. It may have been somebody else's already: then all is well.
func (s *Server) workMoveLeader(ctx context.Context, task *schedulepb.Task, _ func(string, int64, int64)) (*schedulepb.Outcome, error) {
	target, err := strconv.ParseUint(maintenance.Parameter(task.Parameters, maintenance.ParamTarget), 16, 64)
	if err != nil {
		return nil, fmt.Errorf("leadership cannot move to %q: %w", maintenance.Parameter(task.Parameters, maintenance.ParamTarget), err)
	}
	err = upkeep{s}.MoveLeader(ctx, target)
	if errors.Is(err, raftnode.ErrNotLeader) {
		return &schedulepb.Outcome{Message: "this member did not lead any more"}, nil
	}
	return nil, err
}

// workRecover lowers the NOSPACE alarms of all members.
func (s *Server) workRecover(ctx context.Context, _ *schedulepb.Task, _ func(string, int64, int64)) (*schedulepb.Outcome, error) {
	lowered := 0
	for _, alarm := range s.alarms.List(pb.AlarmType_NOSPACE) {
		if err := s.lower(ctx, alarm); err != nil {
			return nil, err
		}
		lowered++
	}
	return &schedulepb.Outcome{Message: fmt.Sprintf("%d NOSPACE alarms were lowered; writes are accepted again", lowered)}, nil
}

func (s *Server) lower(ctx context.Context, alarm quota.Alarm) error {
	return s.propose(ctx, &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
		Action: pb.AlarmRequest_DEACTIVATE, MemberID: alarm.Member, Alarm: alarm.Type,
	}})
}

// hashRevision names, among the details of an outcome, the revision that its hash is of.
const hashRevision = "hash-revision"

// hashRevisionOf is 0 if the outcome does not say.
func hashRevisionOf(o *schedulepb.Outcome) int64 {
	return mustRevision(maintenance.Parameter(o.Details, hashRevision))
}
