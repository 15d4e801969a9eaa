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
	defrag, moveLeader, compactFirst, recover                    bool
	backup, backupCompress, backupVerify                         bool
	rule, window, backupTo, backupWindow                         string
	minInterval, settle, checkInterval                           time.Duration
	backupFullInterval, backupIncrementalInterval, backupKeepAge time.Duration
	keepRevisions, backupKeepBytes                               int64
	backupKeepCount                                              int32
}

// register adds the flags, in the order of the policy's parts.
func (f *policyFlags) register(flags *pflag.FlagSet) {
	flags.SortFlags = false
	flags.BoolVar(&f.defrag, "defrag", false, "defragment members when the rule says so")
	flags.StringVar(&f.rule, "rule", "", "when to defragment a member")
	flags.DurationVar(&f.minInterval, "min-interval", 0, "time between two defragmentations of a member")
	flags.StringVar(&f.window, "window", "", "when members may be defragmented, empty for any time")
	flags.BoolVar(&f.moveLeader, "move-leader", false, "hand leadership over before the leader's turn")
	flags.BoolVar(&f.compactFirst, "compact-first", false, "compact to what retention allows before")
	flags.BoolVar(&f.backup, "backup", false, "take backups by itself")
	flags.StringVar(&f.backupTo, "backup-to", "", "directory or s3:// location of the backups, empty for none")
	flags.DurationVar(&f.backupFullInterval, "backup-full-interval", 0, "time between two full backups")
	flags.DurationVar(&f.backupIncrementalInterval, "backup-incremental-interval", 0, "time between two backups of whatever kind")
	flags.StringVar(&f.backupWindow, "backup-window", "", "when backups may be taken, empty for any time")
	flags.Int32Var(&f.backupKeepCount, "backup-keep-count", 0, "how many full backups are kept, 0 for all")
	flags.DurationVar(&f.backupKeepAge, "backup-keep-age", 0, "how far back one can go, 0 for ever")
	flags.Int64Var(&f.backupKeepBytes, "backup-keep-bytes", 0, "how large all backups together may be, 0 for no limit")
	flags.BoolVar(&f.backupCompress, "backup-compress", false, "compress backups")
	flags.BoolVar(&f.backupVerify, "backup-verify", false, "restore a full backup before it counts")
	flags.DurationVar(&f.checkInterval, "check-interval", 0, "time between two comparisons of the members, 0 for never")
	flags.BoolVar(&f.recover, "auto-recover-nospace", false, "get out of NOSPACE by itself")
	flags.Int64Var(&f.keepRevisions, "recover-keep-revisions", 0, "history that recovery leaves where no retention is configured")
	flags.DurationVar(&f.settle, "settle", 0, "rest between two pieces of maintenance")
}

func newPolicySet(a *app) *cobra.Command {
	var f policyFlags
	cmd := &cobra.Command{
		Use:   "set",
		Short: "Changes the policy of the whole cluster",
		Long: `Changes the policy of the whole cluster: what is not given stays as it is. The
policy is replicated. A part of it (defrag, backup, check, recover, settle) of
which something was set counts in place of the members' flags until "policy
reset"; for the other parts the flags go on to count. Rules are tried against the
members as they are before they are accepted.`,
		Example: `  upkeepctl maintenance policy set --rule 'free > 1GiB || quota_used > 80%'
  upkeepctl maintenance policy set --window 'Mon-Fri 01:00-05:00 UTC; Sat,Sun 00:00-24:00'
  upkeepctl maintenance policy set --backup-to /srv/backups --backup-incremental-interval 1m`,
		Args: cobra.NoArgs,
	}
	f.register(cmd.Flags())
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
			r, err := c.SetPolicy(ctx, &upkeeppb.SetPolicyRequest{Policy: f.change(cmd, now)})
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
	for _, text := range []string{f.window, f.backupWindow} {
		if _, err := window.Parse(text); errors.As(err, &place) {
			return badArgs("the window makes no sense\n%s", place.Pointed())
		}
	}
	return nil
}

// change returns what was set, with the fields that were given. A part of which nothing was set before begins with what is
// in force.
func (f *policyFlags) change(cmd *cobra.Command, now *upkeeppb.GetPolicyResponse) *schedulepb.Policy {
	set := now.Set
	if set == nil {
		set = &schedulepb.Policy{}
	}
	given := cmd.Flags().Changed
	touch(&set.Defrag, now.Policy.GetDefrag(), given, map[string]func(*schedulepb.DefragPolicy){
		"defrag":        func(p *schedulepb.DefragPolicy) { p.Enabled = f.defrag },
		"rule":          func(p *schedulepb.DefragPolicy) { p.Rule = f.rule },
		"min-interval":  func(p *schedulepb.DefragPolicy) { p.MinInterval = int64(f.minInterval) },
		"window":        func(p *schedulepb.DefragPolicy) { p.Window = f.window },
		"move-leader":   func(p *schedulepb.DefragPolicy) { p.MoveLeader = f.moveLeader },
		"compact-first": func(p *schedulepb.DefragPolicy) { p.CompactFirst = f.compactFirst },
	})
	touch(&set.Backup, now.Policy.GetBackup(), given, map[string]func(*schedulepb.BackupPolicy){
		"backup": func(p *schedulepb.BackupPolicy) { p.Enabled = f.backup },
		"backup-to": func(p *schedulepb.BackupPolicy) {
			p.Destination = f.backupTo
			if !given("backup") {
				p.Enabled = f.backupTo != ""
			}
		},
		"backup-full-interval":        func(p *schedulepb.BackupPolicy) { p.FullInterval = int64(f.backupFullInterval) },
		"backup-incremental-interval": func(p *schedulepb.BackupPolicy) { p.IncrementalInterval = int64(f.backupIncrementalInterval) },
		"backup-window":               func(p *schedulepb.BackupPolicy) { p.Window = f.backupWindow },
		"backup-keep-count":           func(p *schedulepb.BackupPolicy) { p.KeepCount = f.backupKeepCount },
		"backup-keep-age":             func(p *schedulepb.BackupPolicy) { p.KeepAge = int64(f.backupKeepAge) },
		"backup-keep-bytes":           func(p *schedulepb.BackupPolicy) { p.KeepBytes = f.backupKeepBytes },
		"backup-compress":             func(p *schedulepb.BackupPolicy) { p.Compress = f.backupCompress },
		"backup-verify":               func(p *schedulepb.BackupPolicy) { p.SkipVerify = !f.backupVerify },
	})
	touch(&set.Integrity, now.Policy.GetIntegrity(), given, map[string]func(*schedulepb.IntegrityPolicy){
		"check-interval": func(p *schedulepb.IntegrityPolicy) {
			p.Interval, p.Enabled = int64(f.checkInterval), f.checkInterval != 0
		},
	})
	touch(&set.Recover, now.Policy.GetRecover(), given, map[string]func(*schedulepb.RecoverPolicy){
		"auto-recover-nospace":   func(p *schedulepb.RecoverPolicy) { p.AutoRecoverNospace = f.recover },
		"recover-keep-revisions": func(p *schedulepb.RecoverPolicy) { p.KeepRevisions = f.keepRevisions },
	})
	if given("settle") {
		set.Settle = new(int64(f.settle))
	}
	return set
}

// touch applies the changes whose flags were given to one part of a policy.
func touch[P any](part **P, inForce *P, given func(flag string) bool, changes map[string]func(*P)) {
	for flag, change := range changes {
		if !given(flag) {
			continue
		}
		if *part == nil {
			if *part = inForce; inForce == nil {
				*part = new(P)
			}
		}
		change(*part)
	}
}
