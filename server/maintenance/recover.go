package maintenance

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
)

const (
	// recoveredPercent of its quota is what every member must be below for the alarms to be lowered.
	recoveredPercent = 90
	// worthPercent of a file must be free for a defragmentation to be worth it where free pages alone do not get the member
	// below recoveredPercent: half-empty pages may do the rest.
	worthPercent = 10
)

// RecoverPlanner gets the cluster out of NOSPACE: it compacts to what retention allows, defragments the members in turn, and
// lowers the alarms once every member is below 90 % of its quota. It keeps no state of its own: each step follows from the
// figures, and from what was done since.
type RecoverPlanner struct{}

// Plan implements Planner.
func (RecoverPlanner) Plan(in PlanInput) []Proposal {
	alarmed := false
	for _, f := range in.Members {
		alarmed = alarmed || f.NoSpace
	}
	if !alarmed || in.Run == nil && !in.Policy.GetRecover().GetAutoRecoverNospace() {
		return nil
	}
	if in.Run != nil {
		if _, fail := runTargets(in, schedulepb.Kind_RECOVER); fail != "" {
			return []Proposal{{Kind: schedulepb.Kind_RECOVER, Fail: fail}}
		}
	}
	leader := leaderOf(in.Members)
	if reason := Gate(in); reason != "" || leader == nil {
		// Not on a member: which one would be first is not known before they are well.
		return []Proposal{{Kind: schedulepb.Kind_RECOVER, Reason: "NOSPACE is raised", Blocked: reason}}
	}
	plan := recoverSteps{in: in, leader: leader}
	plan.compact()
	plan.defrag()
	plan.disarm()
	return plan.steps
}

type recoverSteps struct {
	in     PlanInput
	leader *schedulepb.Figures
	steps  []Proposal
}

// target is where to compact: what retention allows, or without one what the policy lets recovery keep. 0 for nowhere.
func (r *recoverSteps) target() int64 {
	if r.in.Retention.Configured {
		return r.in.Retention.Revision
	}
	if keep := r.in.Policy.GetRecover().GetKeepRevisions(); keep > 0 {
		return r.leader.Revision - keep
	}
	return 0
}

// compact asks for a compaction if there is anything to compact.
func (r *recoverSteps) compact() {
	rev := r.target()
	if rev <= max(r.leader.CompactRevision, 1) {
		return
	}
	if _, blocked := backOff(r.in, schedulepb.Kind_COMPACT, r.leader.Member); blocked != "" {
		return // defragmentation may be enough
	}
	r.steps = append(r.steps, Proposal{
		Kind: schedulepb.Kind_COMPACT, Member: r.leader.Member,
		Reason:     fmt.Sprintf("NOSPACE is raised; compact to revision %d, which is what retention allows", rev),
		Parameters: []*schedulepb.Parameter{{Name: ParamRevision, Value: strconv.FormatInt(rev, 10)}},
	})
}

// defrag asks for the members that are too full and have something to gain.
func (r *recoverSteps) defrag() {
	for _, f := range inTurn(r.in.Members) {
		if full(f) && (f.InUse*100 < f.Quota*recoveredPercent || 100*freeShare(f) > worthPercent) {
			p := Proposal{
				Kind: schedulepb.Kind_DEFRAG, Member: f.Member, Reason: "NOSPACE is raised; " + FreeText(f),
				Parameters: []*schedulepb.Parameter{{Name: ParamRevision, Value: strconv.FormatInt(max(0, r.target()), 10)}},
			}
			if p.NextAt, p.Blocked = backOff(r.in, schedulepb.Kind_DEFRAG, f.Member); p.Blocked == "" {
				p.Blocked = room(f)
			}
			if p.Blocked == "" {
				p.NextAt, p.Blocked = r.pointless(f)
			}
			r.steps = append(r.steps, p)
		}
	}
}

// pointless holds back a member that was defragmented a moment ago and is as fragmented again.
func (r *recoverSteps) pointless(f *schedulepb.Figures) (time.Time, string) {
	o := lastOutcome(r.in.State, schedulepb.Kind_DEFRAG, f.Member)
	if o == nil || o.Result != schedulepb.Outcome_DONE {
		return time.Time{}, ""
	}
	compacted := newestOutcome(r.in.State, schedulepb.Kind_COMPACT)
	if compacted != nil && compacted.Result == schedulepb.Outcome_DONE && compacted.Ended > o.Begun {
		return time.Time{}, "" // there is more to gain since
	}
	if until := time.Unix(0, o.Ended).Add(firstBackOff); until.After(r.in.Now) {
		return until, fmt.Sprintf("%s was defragmented a moment ago; tried again at %s", NameOf(f), until.UTC().Format("15:04:05 MST"))
	}
	return time.Time{}, ""
}

// full tells whether a member is not below what recovery wants.
func full(f *schedulepb.Figures) bool {
	return f.Quota > 0 && f.File*100 >= f.Quota*recoveredPercent
}

// disarm lowers the alarms, or says why that cannot be.
func (r *recoverSteps) disarm() {
	var tooFull, hopeless []string
	for _, f := range r.in.Members {
		if !full(f) {
			continue
		}
		tooFull = append(tooFull, NameOf(f))
		if f.InUse*100 >= f.Quota*recoveredPercent {
			hopeless = append(hopeless, NameOf(f))
		}
	}
	p := Proposal{Kind: schedulepb.Kind_RECOVER, Member: r.leader.Member}
	switch {
	case len(tooFull) == 0:
		p.Reason = fmt.Sprintf("every member is below %d %% of its quota: the NOSPACE alarms are lowered", recoveredPercent)
	case len(r.steps) > 0:
		p.Reason = "the NOSPACE alarms are lowered when the steps before have made room"
		p.Blocked = fmt.Sprintf("%s must come below %d %% of the quota first", strings.Join(tooFull, ", "), recoveredPercent)
	default:
		p.Reason = "NOSPACE is raised"
		p.Blocked = r.advice(tooFull, hopeless)
		if r.in.Run != nil {
			p.Fail = p.Blocked // whoever asked is there to do something about it
		}
	}
	r.steps = append(r.steps, p)
}

// advice tells the operator why it does not go on, and what helps.
func (r *recoverSteps) advice(tooFull, hopeless []string) string {
	names := tooFull
	if len(hopeless) > 0 {
		names = hopeless
	}
	why := fmt.Sprintf("%s cannot come below %d %% of the quota by defragmentation", strings.Join(names, ", "), recoveredPercent)
	switch {
	case r.in.Retention.Configured, r.in.Policy.GetRecover().GetKeepRevisions() > 0:
		why += ", and there is no more history that may be compacted"
	default:
		why += ", and nothing may be compacted, since no retention is configured (--auto-compaction-retention, " +
			"--upkeep-recover-keep-revisions)"
	}
	return why + "; delete keys and compact, or raise --quota-backend-bytes"
}
