package command

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/server/maintenance/rule"
	"github.com/upkeep-kv/upkeep/server/maintenance/window"
)

func newMaintenancePolicy(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Shows and changes what the cluster does by itself"}
	cmd.AddCommand(
		&cobra.Command{
			Use: "get", Short: "Shows the policy in force, and where it comes from", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return a.maintainBy(cmd, func(ctx context.Context, c *maintenanceCall) error {
					r, err := c.GetPolicy(ctx, &upkeeppb.GetPolicyRequest{})
					if err != nil {
						return err
					}
					return c.out.Policy(r)
				})
			},
		},
		newPolicySet(a),
		&cobra.Command{
			Use: "reset", Short: "Lets the flags of the members count again", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return a.maintainBy(cmd, func(ctx context.Context, c *maintenanceCall) error {
					r, err := c.SetPolicy(ctx, &upkeeppb.SetPolicyRequest{})
					if err != nil {
						return err
					}
					return c.out.PolicySet(r)
				})
			},
		},
	)
	return cmd
}

// policyFlags are the fields of a policy; only those that were given change anything.
type policyFlags struct {
	defrag, moveLeader, compactFirst, recover bool
	rule, window                              string
	minInterval, settle                       time.Duration
	keepRevisions                             int64
}

func newPolicySet(a *app) *cobra.Command {
	var f policyFlags
	cmd := &cobra.Command{
		Use:   "set",
		Short: "Changes the policy of the whole cluster",
		Long: `Changes the policy of the whole cluster: what is not given stays as it is. The
policy is replicated and counts in place of the members' flags until "policy reset".
Rules are tried against the members as they are before they are accepted.`,
		Example: `  upkeepctl maintenance policy set --rule 'free > 1GiB || quota_used > 80%'
  upkeepctl maintenance policy set --window 'Mon-Fri 01:00-05:00 UTC; Sat,Sun 00:00-24:00'`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.defrag, "defrag", false, "defragment members when the rule says so")
	flags.StringVar(&f.rule, "rule", "", "when to defragment a member")
	flags.DurationVar(&f.minInterval, "min-interval", 0, "time between two defragmentations of a member")
	flags.StringVar(&f.window, "window", "", "when members may be defragmented, empty for any time")
	flags.BoolVar(&f.moveLeader, "move-leader", false, "hand leadership over before the leader's turn")
	flags.BoolVar(&f.compactFirst, "compact-first", false, "compact to what retention allows before")
	flags.DurationVar(&f.settle, "settle", 0, "rest between two pieces of maintenance")
	flags.BoolVar(&f.recover, "auto-recover-nospace", false, "get out of NOSPACE by itself")
	flags.Int64Var(&f.keepRevisions, "recover-keep-revisions", 0, "history that recovery leaves where no retention is configured")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		given := false
		cmd.LocalFlags().VisitAll(func(flag *pflag.Flag) { given = given || flag.Changed })
		if !given {
			return badArgs("nothing to change: give at least one flag, see upkeepctl maintenance policy set --help")
		}
		if err := f.check(cmd); err != nil {
			return err
		}
		return a.maintainBy(cmd, func(ctx context.Context, c *maintenanceCall) error {
			now, err := c.GetPolicy(ctx, &upkeeppb.GetPolicyRequest{})
			if err != nil {
				return err
			}
			r, err := c.SetPolicy(ctx, &upkeeppb.SetPolicyRequest{Policy: f.change(cmd, now.Policy)})
			if err != nil {
				return err
			}
			return c.out.PolicySet(r)
		})
	}
	return cmd
}

// check shows the place of a mistake below the text, which the server can only name.
func (f *policyFlags) check(cmd *cobra.Command) error {
	var place interface{ Pointed() string }
	_, err := rule.Parse(f.rule)
	if cmd.Flags().Changed("rule") && errors.As(err, &place) {
		return badArgs("the rule makes no sense\n%s", place.Pointed())
	}
	if _, err := window.Parse(f.window); errors.As(err, &place) {
		return badArgs("the window makes no sense\n%s", place.Pointed())
	}
	return nil
}

// change returns the policy with the fields that were given.
func (f *policyFlags) change(cmd *cobra.Command, p *schedulepb.Policy) *schedulepb.Policy {
	if p == nil {
		p = &schedulepb.Policy{}
	}
	if p.Defrag == nil {
		p.Defrag = &schedulepb.DefragPolicy{}
	}
	if p.Recover == nil {
		p.Recover = &schedulepb.RecoverPolicy{}
	}
	for name, set := range map[string]func(){
		"defrag":                 func() { p.Defrag.Enabled = f.defrag },
		"rule":                   func() { p.Defrag.Rule = f.rule },
		"min-interval":           func() { p.Defrag.MinInterval = int64(f.minInterval) },
		"window":                 func() { p.Defrag.Window = f.window },
		"move-leader":            func() { p.Defrag.MoveLeader = f.moveLeader },
		"compact-first":          func() { p.Defrag.CompactFirst = f.compactFirst },
		"settle":                 func() { p.Settle = int64(f.settle) },
		"auto-recover-nospace":   func() { p.Recover.AutoRecoverNospace = f.recover },
		"recover-keep-revisions": func() { p.Recover.KeepRevisions = f.keepRevisions },
	} {
		if cmd.Flags().Changed(name) {
			set()
		}
	}
	return p
}
