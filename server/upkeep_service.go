package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/server/maintenance"
)

// defaultRunTimeout is how long a run on demand may take with all its waiting.
const defaultRunTimeout = time.Hour

// operations is what operators see of maintenance and how they steer it.
type operations struct{ *Server }

func bad(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

func (o operations) Status(ctx context.Context) (*upkeeppb.StatusResponse, error) {
	members := fleet(o).Figures(ctx)
	now := o.schedule.Now()
	resp := &upkeeppb.StatusResponse{
		ClusterId: o.clusterID, MemberId: o.id, Leader: o.node.Lead(),
		Open: now.Open, Paused: now.Paused, Waiting: now.Waiting, Runs: now.Runs, Outcomes: now.Outcomes,
		Members: members, Time: time.Now().UnixNano(),
	}
	resp.Policy, resp.PolicySource = o.policy()
	return resp, nil
}

// policy is the one in force and where it comes from.
func (o operations) policy() (*schedulepb.Policy, string) {
	now := o.schedule.Now()
	source := "flags"
	if now.Policy != nil {
		source = "set"
	}
	return maintenance.InForce(now, fleet(o).Flags()), source
}

// Plan tells what would happen from now on, whatever holds it up at the moment.
func (o operations) Plan(ctx context.Context, r *upkeeppb.PlanRequest) (*upkeeppb.PlanResponse, error) {
	in := maintenance.Gather(ctx, fleet(o), agreed(o))
	if r.Policy != nil {
		in.Policy = maintenance.WithFlags(r.Policy, fleet(o).Flags())
		if _, err := o.tryPolicy(in.Policy, in.Members); err != nil {
			return nil, err
		}
	}
	if r.Kind != schedulepb.Kind_ANY {
		if err := o.checkRun(r.Kind, r.Members); err != nil {
			return nil, err
		}
		in.Run = &schedulepb.Run{Kind: r.Kind, Members: r.Members, Parameters: r.Parameters}
	}
	resp := &upkeeppb.PlanResponse{Members: in.Members, Rule: in.Policy.GetDefrag().GetRule()}
	held, until := o.held(in)
	for _, planner := range o.upkeepPlanners() {
		if r.Kind != schedulepb.Kind_ANY && planner.Kind != r.Kind {
			continue
		}
		for _, p := range planner.Plan(in) {
			step := &upkeeppb.PlanStep{Kind: p.Kind, Member: p.Member, Reason: p.Reason, Blocked: p.Blocked}
			switch {
			case p.Fail != "":
				step.Blocked = p.Fail
			case held != "":
				step.Blocked, p.NextAt = held, until
			}
			if !p.NextAt.IsZero() {
				step.NextAt = p.NextAt.UnixNano()
			}
			resp.Steps = append(resp.Steps, step)
		}
	}
	return resp, nil
}

// held is what keeps the leader from planning at all.
func (o operations) held(in maintenance.PlanInput) (why string, until time.Time) {
	rest := maintenance.Settling(in.State, in.Policy, in.Now)
	switch {
	case in.State.Paused != nil:
		return "maintenance is paused", time.Time{}
	case in.State.Open != nil:
		return fmt.Sprintf("task %d is open", in.State.Open.Sequence), time.Time{}
	case rest > 0:
		return "the members settle after the last task", in.Now.Add(rest)
	}
	return "", time.Time{}
}

// checkRun refuses what no leader could do.
func (o operations) checkRun(kind schedulepb.Kind, members []uint64) error {
	if !slices.ContainsFunc(o.upkeepPlanners(), func(p maintenance.NamedPlanner) bool { return p.Kind == kind }) {
		return bad("%s cannot be asked for by itself", maintenance.KindName(kind))
	}
	for _, id := range members {
		if _, ok := o.cluster.Member(id); !ok {
			return bad("there is no member %x in the cluster", id)
		}
	}
	return nil
}

func (o operations) Run(ctx context.Context, r *upkeeppb.RunRequest) (*upkeeppb.RunResponse, error) {
	if err := o.checkRun(r.Kind, r.Members); err != nil {
		return nil, err
	}
	timeout := time.Duration(r.Timeout)
	switch {
	case timeout < 0:
		return nil, bad("the timeout of a run must not be negative")
	case timeout == 0:
		timeout = defaultRunTimeout
	}
	now := time.Now()
	value, err := agreed(o).Propose(ctx, &schedulepb.Command{Time: now.UnixNano(), Action: &schedulepb.Command_OpenRun{
		OpenRun: &schedulepb.OpenRun{Run: &schedulepb.Run{
			Kind: r.Kind, Members: r.Members, Parameters: r.Parameters, Deadline: now.Add(timeout).UnixNano(),
		}},
	}})
	if err != nil {
		return nil, err
	}
	run, ok := value.(*schedulepb.Run)
	if !ok {
		return nil, fmt.Errorf("server: apply answered a %T, want a run", value)
	}
	return &upkeeppb.RunResponse{Run: run.Id}, nil
}

// Follow sends events and the progress of the open task as they come.
func (o operations) Follow(ctx context.Context, r *upkeeppb.FollowRequest, send func(*upkeeppb.FollowResponse) error) error {
	after := r.AfterEvent
	if after == 0 && r.Run == 0 {
		after = o.schedule.Now().EventSequence
	}
	if r.Run != 0 {
		if err := o.node.LinearizableRead(ctx); err != nil {
			return err // the run may have been opened through another member
		}
	}
	reports := uint64(0)
	for {
		changed := o.schedule.Changed()
		now := o.schedule.Now()
		for _, e := range o.schedule.Events(after) {
			after = e.Sequence
			if r.Run != 0 && e.Run != r.Run && !(e.Type == schedulepb.Event_WAITING && o.concerns(now, r.Run, e)) {
				continue
			}
			if err := send(&upkeeppb.FollowResponse{Event: e}); err != nil {
				return err
			}
		}
		if open := now.Open; open != nil && open.Reports != reports && (r.Run == 0 || open.Run == r.Run) {
			reports = open.Reports
			if err := send(&upkeeppb.FollowResponse{Open: open}); err != nil {
				return err
			}
		}
		if r.Run != 0 {
			run := runOf(now, r.Run)
			if run == nil {
				return status.Errorf(codes.NotFound, "there is no run %d, or it ended long ago", r.Run)
			}
			if run.State != schedulepb.Run_OPEN {
				return send(&upkeeppb.FollowResponse{Run: run})
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-o.stopping:
			return raftnode.ErrStopped
		case <-changed:
		}
	}
}

func runOf(s *schedulepb.State, id uint64) *schedulepb.Run {
	for _, run := range s.Runs {
		if run.Id == id {
			return run
		}
	}
	return nil
}

// concerns tells whether what waits may belong to a run.
func (o operations) concerns(s *schedulepb.State, id uint64, e *schedulepb.Event) bool {
	run := runOf(s, id)
	return run != nil && run.State == schedulepb.Run_OPEN && e.Time >= run.Requested
}

func (o operations) SetPaused(ctx context.Context, paused bool, reason string) error {
	_, err := agreed(o).Propose(ctx, &schedulepb.Command{Time: time.Now().UnixNano(), Action: &schedulepb.Command_SetPause{
		SetPause: &schedulepb.SetPause{Paused: paused, Reason: reason},
	}})
	return err
}

func (o operations) History(ctx context.Context, r *upkeeppb.HistoryRequest) (*upkeeppb.HistoryResponse, error) {
	if err := o.node.LinearizableRead(ctx); err != nil {
		return nil, err
	}
	events := slices.DeleteFunc(o.schedule.Events(0), func(e *schedulepb.Event) bool {
		return r.Kind != schedulepb.Kind_ANY && e.Kind != r.Kind || r.Member != 0 && e.Member != r.Member
	})
	if r.Limit > 0 && int64(len(events)) > r.Limit {
		events = events[int64(len(events))-r.Limit:]
	}
	return &upkeeppb.HistoryResponse{Events: events}, nil
}

func (o operations) Policy(ctx context.Context) (*upkeeppb.GetPolicyResponse, error) {
	if err := o.node.LinearizableRead(ctx); err != nil {
		return nil, err
	}
	resp := &upkeeppb.GetPolicyResponse{Flags: fleet(o).Flags(), Set: o.schedule.Now().Policy}
	resp.Policy, resp.Source = o.policy()
	return resp, nil
}

// progressLook is how often what is not in the schedule is looked at.
const progressLook = 250 * time.Millisecond

// Progress sends what this member is doing until it does nothing.
func (o operations) Progress(ctx context.Context, send func(*upkeeppb.ProgressResponse) error) error {
	look := time.NewTicker(progressLook)
	defer look.Stop()
	for last := (*upkeeppb.ProgressResponse)(nil); ; {
		p, moved := o.agent.Progress()
		now := &upkeeppb.ProgressResponse{Kind: p.Task.GetKind(), Phase: p.Phase, Done: p.Done, Total: p.Total, Jobs: o.jobs()}
		if p.Task == nil && len(now.Jobs) == 0 {
			return nil
		}
		if !proto.Equal(now, last) {
			last = now
			if err := send(now); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-o.stopping:
			return raftnode.ErrStopped
		case <-look.C:
		case <-moved:
		}
	}
}
