package maintenance

import (
	"fmt"
	"time"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
)

// Parameters of REBUILD.
const (
	// ParamFrom is the member whose database is taken, in hexadecimal; without it, one of the majority.
	ParamFrom = "from"
	// ParamDisarm: "true" lowers the rebuilt member's CORRUPT alarm once it equals the majority.
	ParamDisarm = "disarm"
)

// CheckPlanner has the leader compare the histories of all members once in an interval.
type CheckPlanner struct{}

// Plan implements Planner.
func (CheckPlanner) Plan(in PlanInput) []Proposal {
	leader := leaderOf(in.Members)
	if leader == nil {
		return nil
	}
	p := Proposal{Kind: schedulepb.Kind_CHECK, Member: leader.Member}
	if in.Run != nil {
		if inRun(in.Run, schedulepb.Kind_CHECK) {
			return nil
		}
		in.Run = &schedulepb.Run{Members: []uint64{leader.Member}, Outcomes: in.Run.Outcomes}
		if _, fail := runTargets(in, schedulepb.Kind_CHECK); fail != "" {
			return []Proposal{{Kind: schedulepb.Kind_CHECK, Fail: fail}}
		}
		p.Reason = "on demand"
		return []Proposal{p}
	}
	policy := in.Policy.GetIntegrity()
	if !policy.GetEnabled() || policy.Interval <= 0 || len(in.Members) < 2 {
		return nil
	}
	last := newestOutcome(in.State, schedulepb.Kind_CHECK)
	if last != nil && in.Now.Sub(time.Unix(0, last.Ended)) < time.Duration(policy.Interval) {
		return nil
	}
	p.Reason = "the members' histories were never compared"
	if last != nil {
		p.Reason = fmt.Sprintf("the members' histories were last compared at %s", time.Unix(0, last.Ended).UTC().Format(time.RFC3339))
	}
	p.Blocked = Gate(in)
	if p.Blocked == "" {
		p.NextAt, p.Blocked = backOff(in, schedulepb.Kind_CHECK, leader.Member)
	}
	return []Proposal{p}
}

// RebuildPlanner plans what is only ever done on demand: to give a member another one's database.
type RebuildPlanner struct{}

// Plan implements Planner.
func (RebuildPlanner) Plan(in PlanInput) []Proposal {
	if in.Run == nil {
		return nil
	}
	refuse := func(why string) []Proposal { return []Proposal{{Kind: schedulepb.Kind_REBUILD, Fail: why}} }
	switch {
	case len(in.Run.Members) != 1:
		return refuse("name the one member that is to be rebuilt")
	case len(in.Members) == 1:
		return refuse("a cluster of one member has nobody to rebuild it from: restore a backup with `upkeepctl restore`")
	}
	left, fail := runTargets(in, schedulepb.Kind_REBUILD)
	if fail != "" {
		return refuse(fail)
	}
	if len(left) == 0 {
		return nil
	}
	p := Proposal{Kind: schedulepb.Kind_REBUILD, Member: left[0].Member, Parameters: in.Run.Parameters, Reason: "on demand"}
	if left[0].Corrupt {
		p.Reason = "on demand; it has raised CORRUPT"
	}
	p.Blocked = rebuildGate(in)
	if p.Blocked == "" && left[0].DiskFree < left[0].InUse+copyMargin {
		p.Blocked = room(left[0])
	}
	return []Proposal{p}
}

// rebuildGate is Gate for the one kind of maintenance that a corrupt member is no reason against.
func rebuildGate(in PlanInput) string {
	if in.Run == nil {
		return Gate(in)
	}
	calm := in
	calm.Members = nil
	for _, f := range in.Members {
		calm.Members = append(calm.Members, &schedulepb.Figures{
			Member: f.Member, Name: f.Name, IsLeader: f.IsLeader, Unhealthy: f.Unhealthy, Busy: f.Busy, NotStarted: f.NotStarted,
		})
	}
	return Gate(calm)
}
