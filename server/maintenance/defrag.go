package maintenance

import (
	"fmt"
	"strconv"
	"time"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server/maintenance/rule"
	"github.com/upkeep-kv/upkeep/server/maintenance/window"
)

// Parameters of tasks and runs.
const (
	// ParamMoveLeader and ParamCompactFirst, of a run: "true" for what the policy says with fields of the same name.
	ParamMoveLeader   = "move-leader"
	ParamCompactFirst = "compact-first"
	// ParamTarget, of MOVE_LEADER: the member that is to lead, in hexadecimal.
	ParamTarget = "target"
	// ParamRevision, of COMPACT: where to compact. Of DEFRAG: wait until that compaction is through on the member.
	ParamRevision = "revision"
)

// DefragPlanner decides when which member is defragmented.
type DefragPlanner struct{}

// Plan implements Planner.
func (DefragPlanner) Plan(in PlanInput) []Proposal {
	if in.Run != nil {
		return planDefragRun(in)
	}
	policy := in.Policy.GetDefrag()
	if !policy.GetEnabled() {
		return nil
	}
	condition, err := rule.Parse(policy.Rule)
	if err != nil {
		return nil // it was checked when it was set
	}
	open, err := window.Parse(policy.Window)
	if err != nil {
		return nil
	}
	var due []*schedulepb.Figures
	for _, f := range inTurn(in.Members) {
		if f.Unhealthy == "" && condition.Matches(RuleFigures(f)) && intervalOver(in, f) {
			due = append(due, f)
		}
	}
	if len(due) == 0 {
		return nil
	}
	plan := defragSteps{in: in, moveLeader: policy.MoveLeader}
	if policy.CompactFirst && in.Retention.Revision > 0 && !recently(in, schedulepb.Kind_COMPACT, policy.MinInterval) {
		plan.compact(in.Retention.Revision)
	}
	for _, f := range due {
		plan.defrag(f, FreeText(f)+", and the rule is "+condition.String(), policy.CompactFirst)
	}
	return plan.blocked(open)
}

// intervalOver tells whether a member's last defragmentation is long enough ago.
func intervalOver(in PlanInput, f *schedulepb.Figures) bool {
	o := lastOutcome(in.State, schedulepb.Kind_DEFRAG, f.Member)
	return o == nil || o.Result != schedulepb.Outcome_DONE ||
		in.Now.Sub(time.Unix(0, o.Ended)) >= time.Duration(in.Policy.Defrag.MinInterval)
}

// recently tells whether a task of a kind was done within an interval, on any member.
func recently(in PlanInput, kind schedulepb.Kind, within int64) bool {
	o := newestOutcome(in.State, kind)
	return o != nil && o.Result == schedulepb.Outcome_DONE && in.Now.Sub(time.Unix(0, o.Ended)) < time.Duration(within)
}

// defragSteps gathers the steps of a plan in their order.
type defragSteps struct {
	in         PlanInput
	moveLeader bool
	steps      []Proposal
	// waits is who comes before the leader and cannot begin.
	waits string
}

func (d *defragSteps) compact(rev int64) {
	leader := leaderOf(d.in.Members)
	if leader == nil {
		return
	}
	until, blocked := backOff(d.in, schedulepb.Kind_COMPACT, leader.Member)
	if blocked != "" {
		return // without it there is less to gain, and no harm
	}
	d.steps = append(d.steps, Proposal{
		Kind: schedulepb.Kind_COMPACT, Member: leader.Member, NextAt: until,
		Reason:     fmt.Sprintf("compact to revision %d first, which is what retention allows", rev),
		Parameters: []*schedulepb.Parameter{{Name: ParamRevision, Value: strconv.FormatInt(rev, 10)}},
	})
}

// defrag adds the steps for one member.
func (d *defragSteps) defrag(f *schedulepb.Figures, reason string, afterCompaction bool) {
	p := Proposal{Kind: schedulepb.Kind_DEFRAG, Member: f.Member, Reason: reason}
	if afterCompaction {
		p.Parameters = []*schedulepb.Parameter{{Name: ParamRevision, Value: strconv.FormatInt(d.in.Retention.Revision, 10)}}
	}
	p.NextAt, p.Blocked = backOff(d.in, schedulepb.Kind_DEFRAG, f.Member)
	if p.Blocked == "" {
		p.Blocked = room(f)
	}
	if f.IsLeader && d.waits != "" && p.Blocked == "" {
		p.Blocked = fmt.Sprintf("the leader goes last, after %s", d.waits)
	}
	if f.IsLeader && d.moveLeader && p.Blocked == "" {
		if move, ok := d.move(f); ok {
			d.steps = append(d.steps, move)
			p.Blocked = "leadership moves first"
			if move.Blocked != "" {
				p.NextAt, p.Blocked = move.NextAt, move.Blocked
			}
		}
	}
	if p.Blocked != "" && d.waits == "" {
		d.waits = NameOf(f)
	}
	d.steps = append(d.steps, p)
}

// move hands leadership to the voter with the least to gain, which is the one that will not have to hand it on soon. ok is
// false where there is no other voter.
func (d *defragSteps) move(leader *schedulepb.Figures) (Proposal, bool) {
	var target *schedulepb.Figures
	for _, f := range d.in.Members {
		if f.IsLearner || f.IsLeader || f.Unhealthy != "" {
			continue
		}
		if target == nil || compareShare(f, target) < 0 {
			target = f
		}
	}
	if target == nil {
		return Proposal{}, false
	}
	p := Proposal{
		Kind: schedulepb.Kind_MOVE_LEADER, Member: leader.Member,
		Reason:     fmt.Sprintf("%s leads; leadership goes to %s before its turn", NameOf(leader), NameOf(target)),
		Parameters: []*schedulepb.Parameter{{Name: ParamTarget, Value: strconv.FormatUint(target.Member, 16)}},
	}
	p.NextAt, p.Blocked = backOff(d.in, schedulepb.Kind_MOVE_LEADER, leader.Member)
	return p, true
}

// blocked applies to all steps what holds for all, and returns them.
func (d *defragSteps) blocked(open window.Window) []Proposal {
	reason, next := Gate(d.in), time.Time{}
	if reason == "" && !open.Open(d.in.Now) {
		reason, next = fmt.Sprintf("outside of the window %s", open), open.Next(d.in.Now)
	}
	for i := range d.steps {
		if reason != "" {
			d.steps[i].Blocked, d.steps[i].NextAt = reason, next
		}
	}
	return d.steps
}

// planDefragRun plans what somebody asked for: rule, interval and window do not matter, the gate does.
func planDefragRun(in PlanInput) []Proposal {
	left, fail := runTargets(in, schedulepb.Kind_DEFRAG)
	if fail != "" {
		return []Proposal{{Kind: schedulepb.Kind_DEFRAG, Fail: fail}}
	}
	if len(left) == 0 {
		return nil
	}
	plan := defragSteps{in: in, moveLeader: Parameter(in.Run.Parameters, ParamMoveLeader) == "true"}
	compactFirst := Parameter(in.Run.Parameters, ParamCompactFirst) == "true"
	if compactFirst && in.Retention.Revision > 0 && !inRun(in.Run, schedulepb.Kind_COMPACT) {
		plan.compact(in.Retention.Revision)
	}
	// What failed before somebody asked does not count.
	plan.in.State = &schedulepb.State{}
	for _, f := range inTurn(left) {
		plan.defrag(f, "on demand; "+FreeText(f), compactFirst)
	}
	return plan.blocked(window.Window{})
}

// inRun tells whether a run has had a task of a kind.
func inRun(run *schedulepb.Run, kind schedulepb.Kind) bool {
	for _, o := range run.Outcomes {
		if o.Kind == kind && o.Result == schedulepb.Outcome_DONE {
			return true
		}
	}
	return false
}

// runTargets are the members that a run has yet to see to with tasks of a kind, or why it cannot succeed any more. A task
// that failed fails the run; one whose member or leader went away is tried again.
func runTargets(in PlanInput, kind schedulepb.Kind) (left []*schedulepb.Figures, fail string) {
	byID := map[uint64]*schedulepb.Figures{}
	for _, f := range in.Members {
		byID[f.Member] = f
	}
	targets := in.Run.Members
	if len(targets) == 0 {
		for _, f := range in.Members {
			if !f.NotStarted {
				targets = append(targets, f.Member)
			}
		}
	}
	done, broken := map[uint64]bool{}, map[uint64]int{}
	for _, o := range in.Run.Outcomes {
		name := fmt.Sprintf("member %x", o.Member)
		if f := byID[o.Member]; f != nil {
			name = NameOf(f)
		}
		switch o.Result {
		case schedulepb.Outcome_DONE:
			done[o.Member] = done[o.Member] || o.Kind == kind
		case schedulepb.Outcome_INTERRUPTED, schedulepb.Outcome_ABANDONED:
			if broken[o.Member]++; broken[o.Member] >= maxAttempts {
				return nil, fmt.Sprintf("%s of %s was broken off %d times: %s", KindName(o.Kind), name, broken[o.Member], o.Message)
			}
		default:
			return nil, fmt.Sprintf("%s of %s: %s", KindName(o.Kind), name, o.Message)
		}
	}
	for _, id := range targets {
		f := byID[id]
		switch {
		case done[id]:
		case f == nil:
			return nil, fmt.Sprintf("there is no member %x in the cluster", id)
		case f.NotStarted:
			return nil, fmt.Sprintf("%s was added and has not been started yet", NameOf(f))
		default:
			left = append(left, f)
		}
	}
	return left, ""
}
