package server

import (
	"context"
	"math/rand/v2"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server/maintenance"
)

// upkeepJob is one kind of maintenance: who does it on a member, and who plans it on the leader.
type upkeepJob struct {
	kind   schedulepb.Kind
	worker maintenance.Worker
	// planner is nil for what is only ever a step of another kind's plan.
	planner maintenance.Planner
}

// upkeepJobs lists every kind of maintenance there is. The planners are asked in this order.
func (s *Server) upkeepJobs() []upkeepJob {
	return []upkeepJob{
		{kind: schedulepb.Kind_DEFRAG, worker: maintenance.WorkerFunc(s.workDefrag)},
	}
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
	})
}

// workDefrag rewrites this member's database without its holes.
func (s *Server) workDefrag(ctx context.Context, _ *schedulepb.Task, report func(string, int64, int64)) (*schedulepb.Outcome, error) {
	resp, err := upkeep{s}.defragment(ctx, report)
	if err != nil {
		return nil, err
	}
	return &schedulepb.Outcome{
		SizeBefore: resp.SizeBefore, SizeAfter: resp.SizeAfter, Bytes: resp.BytesCopied, LongestPause: resp.LongestPauseNanos,
	}, nil
}
