package server

import (
	"context"
	"time"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/server/maintenance"
	"github.com/upkeep-kv/upkeep/server/maintenance/rule"
	"github.com/upkeep-kv/upkeep/server/maintenance/window"
)

// SetPolicy refuses a policy that cannot be understood before it is replicated.
func (o operations) SetPolicy(ctx context.Context, r *upkeeppb.SetPolicyRequest) (*upkeeppb.SetPolicyResponse, error) {
	if err := o.node.LinearizableRead(ctx); err != nil {
		return nil, err // else what was before may be older than it
	}
	resp := &upkeeppb.SetPolicyResponse{Policy: maintenance.WithFlags(r.Policy, fleet(o).Flags()), Source: "flags"}
	resp.Before, _ = o.policy()
	summary := "the flags count again"
	if r.Policy != nil {
		var err error
		if resp.Trials, err = o.tryPolicy(resp.Policy, fleet(o).Figures(ctx)); err != nil {
			return nil, err
		}
		resp.Source, summary = "set", policySummary(resp.Policy)
	}
	_, err := agreed(o).Propose(ctx, &schedulepb.Command{Time: time.Now().UnixNano(), Action: &schedulepb.Command_SetPolicy{
		SetPolicy: &schedulepb.SetPolicy{Policy: r.Policy, Summary: summary},
	}})
	return resp, err
}

func policySummary(p *schedulepb.Policy) string {
	summary := "defrag off"
	if d := p.GetDefrag(); d.GetEnabled() {
		summary = "defrag when " + d.Rule
		if d.Window != "" {
			summary += ", " + d.Window
		}
	}
	if b := p.GetBackup(); b.GetEnabled() {
		summary += "; backups to " + b.Destination
	}
	if i := p.GetIntegrity(); i.GetEnabled() && i.Interval > 0 {
		summary += "; members compared every " + time.Duration(i.Interval).String()
	}
	if p.GetRecover().GetAutoRecoverNospace() {
		summary += "; recover from NOSPACE"
	}
	return summary
}

// tryPolicy checks a policy, and tries its rule against the members' figures.
func (o operations) tryPolicy(p *schedulepb.Policy, members []*schedulepb.Figures) ([]*upkeeppb.RuleTrial, error) {
	d := p.GetDefrag()
	condition, err := rule.Parse(d.GetRule())
	if err != nil && (d.GetEnabled() || d.GetRule() != "") {
		return nil, bad("%s", err)
	}
	if _, err := window.Parse(d.GetWindow()); err != nil {
		return nil, bad("%s", err)
	}
	if err := checkBackupPolicy(p.GetBackup()); err != nil {
		return nil, err
	}
	switch {
	case d.GetMinInterval() < 0:
		return nil, bad("the minimum interval between two defragmentations must not be negative")
	case p.GetIntegrity().GetInterval() < 0:
		return nil, bad("the interval between two comparisons of the members must not be negative")
	case p.GetIntegrity().GetEnabled() && p.GetIntegrity().GetInterval() == 0:
		return nil, bad("comparing the members is enabled, but its interval is not set")
	case p.GetSettle() < 0:
		return nil, bad("the rest between two tasks must not be negative")
	case p.GetRecover().GetKeepRevisions() < 0:
		return nil, bad("the number of revisions that recovery keeps must not be negative")
	}
	var trials []*upkeeppb.RuleTrial
	for _, f := range members {
		trial := &upkeeppb.RuleTrial{Member: f.Member, Name: f.Name, Figures: f.Unhealthy}
		if f.Unhealthy == "" {
			trial.Matches = d.GetEnabled() && condition.Matches(maintenance.RuleFigures(f))
			trial.Figures = maintenance.FreeText(f)
		}
		trials = append(trials, trial)
	}
	return trials, nil
}
