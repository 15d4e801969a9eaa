package server

import (
	"context"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/quota"
	"github.com/upkeep-kv/upkeep/server/maintenance"
)

// agreed is the replicated schedule of maintenance.
type agreed struct{ *Server }

func (s agreed) Now() *schedulepb.State   { return s.Server.schedule.Now() }
func (s agreed) Changed() <-chan struct{} { return s.Server.schedule.Changed() }

func (s agreed) Propose(ctx context.Context, c *schedulepb.Command) (any, error) {
	return proposer(s).Propose(ctx, &pb.InternalRaftRequest{Maintenance: c})
}

// openRuns counts the runs on demand that are not over.
func (s *Server) openRuns() int64 {
	open := int64(0)
	for _, run := range s.schedule.Now().Runs {
		if run.State == schedulepb.Run_OPEN {
			open++
		}
	}
	return open
}

// figures are what this member says of itself.
func (s *Server) figures() *schedulepb.Figures {
	sizes, raft := s.backend.Sizes(), s.node.Status()
	free, err := s.disk.freeBytes(s.dir.snap)
	f := &schedulepb.Figures{
		Member: s.id, Name: s.cfg.Name, IsLeader: raft.Lead == s.id, IsLearner: s.learner.Load(),
		File: sizes.File, InUse: sizes.InUse - sizes.Freed, Quota: s.limit.Bytes(), DiskFree: free,
		Applied: raft.Applied, Commit: raft.Commit,
		Revision: s.store.Revision(), CompactRevision: s.store.CompactRevision(),
		NoSpace: s.alarms.Raised(quota.Alarm{Member: s.id, Type: pb.AlarmType_NOSPACE}),
		Corrupt: s.alarms.Raised(quota.Alarm{Member: s.id, Type: pb.AlarmType_CORRUPT}),
	}
	if err != nil {
		f.Unhealthy = "its disk does not say how much room it has: " + err.Error()
	}
	if p, _ := s.agent.Progress(); p.Task != nil {
		f.Busy = p.Phase
	} else if s.defragmenting.Load() > 0 {
		f.Busy = "defragmentation outside of the schedule"
	}
	f.Jobs = s.jobs()
	return f
}

// jobs is all that is under way on this member: what is on the board, and the task of the schedule if that is not.
func (s *Server) jobs() []*schedulepb.Job {
	var out []*schedulepb.Job
	for _, j := range s.progress.list() {
		out = append(out, &schedulepb.Job{Job: j.Job, Phase: j.Phase, Done: j.Done, Total: j.Total, Since: j.Since.UnixNano()})
	}
	p, _ := s.agent.Progress()
	if p.Task == nil || p.Task.Kind == schedulepb.Kind_DEFRAG && s.defragmenting.Load() > 0 {
		return out
	}
	return append(out, &schedulepb.Job{
		Job: maintenance.KindName(p.Task.Kind), Phase: p.Phase, Done: p.Done, Total: p.Total, Since: p.Task.Begun,
	})
}

func (p peerService) Figures(context.Context, *schedulepb.FiguresRequest) (*schedulepb.Figures, error) {
	return p.figures(), nil
}
