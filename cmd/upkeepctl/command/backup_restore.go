package command

import (
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/snapshot"
	"github.com/upkeep-kv/upkeep/snapshot/backup"
)

func newRestore(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore --from {repository} [--at {time} | --to-revision {revision}] --data-dir {output dir} [options]",
		Args:  cobra.MaximumNArgs(1),
		Short: "Makes the data directory of a new member from a repository of backups, or takes a running cluster back",
		Long: `Makes the data directory of a new member as of a moment, a revision, or the newest
backup: from the newest full backup before it and the incremental ones up to it.
Keys and their history are exactly those of the revision; leases, users and
roles are those at the end of the backup that holds it.

With --online, nothing is made: the cluster that runs at --endpoints goes back to a
snapshot file, or with --to-revision alone to a revision that it still holds, on all
its members at once and without a restart. Its revisions go forward, watchers are
told that they missed something, and the state from before is saved first. Users,
roles and members stay as they are.`,
		Example: fmt.Sprintf(`  # What would be done?
  %[1]s restore --from /var/backups/upkeep --at 2026-11-20T12:00:00Z --dry-run

  %[1]s restore --from /var/backups/upkeep --at 2026-11-20T12:00:00Z --data-dir m1.upkeep --name m1 \
    --initial-cluster m1=http://10.0.0.1:2380 --initial-advertise-peer-urls http://10.0.0.1:2380

  # The running cluster, to a snapshot whose hash is fe01cf57, or to revision 4711 of its own history
  %[1]s restore --online backup.db --confirm fe01cf57
  %[1]s restore --online --to-revision 4711`, programName),
	}
	open := repositoryFlag(cmd, "from")
	restore := newRestoreFlags(cmd)
	var at, cluster string
	cmd.Flags().StringVar(&at, "at", "", "restore this moment, such as 2026-11-20T12:00:00Z (default: the newest)")
	cmd.Flags().StringVar(&cluster, "cluster-id", "", "the cluster, in hexadecimal, if the repository holds backups of several")
	dryRun := cmd.Flags().Bool("dry-run", false, "only say what would be done")
	var live onlineRestore
	online := live.register(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *online:
			return live.run(a, cmd, args, restore.given.ToRevision)
		case len(args) > 0:
			return badArgs("restore takes no file: --from names a repository of backups, `snapshot restore %s` makes a data "+
				"directory from a file, and --online takes the running cluster back to one", args[0])
		}
		options, err := restore.options(a)
		if err != nil {
			return err
		}
		target, err := parseTarget(at, options.ToRevision, cluster)
		if err != nil {
			return err
		}
		r, err := open()
		if err != nil {
			return err
		}
		plan, err := r.PlanRestore(cmd.Context(), target)
		if err != nil {
			return err
		}
		describePlan(a.out, plan, target)
		if *dryRun {
			return snapshot.Check(options)
		}
		shown := a.startProgress("restoring into "+options.DataDir, false)
		defer shown.end()
		result, err := plan.Run(cmd.Context(), options)
		if err != nil {
			return err
		}
		if result.LostLeases > 0 {
			options.Logger.Warn("some keys were attached to leases that no backup knows: they will not expire",
				zap.Int("keys", result.LostLeases))
		}
		fmt.Fprintf(a.out, "Restored revision %d into %s\n", result.Revision, options.DataDir)
		return nil
	}
	return cmd
}

func parseTarget(at string, revision int64, cluster string) (target backup.Target, err error) {
	if target.ClusterID, err = parseClusterID(cluster); err != nil {
		return target, err
	}
	if at != "" && revision != 0 {
		return target, badArgs("--at and --to-revision exclude each other")
	}
	if revision < 0 {
		return target, badArgs("--to-revision %d: revisions begin at 1", revision)
	}
	target.Revision = revision
	if at != "" {
		if target.At, err = time.Parse(time.RFC3339, at); err != nil {
			return target, badArgs("--at %q is not a time with a time zone, such as 2026-11-20T12:00:00Z", at)
		}
	}
	return target, nil
}

// describePlan says what a restore does, in the order in which it does it.
func describePlan(out io.Writer, plan *backup.RestorePlan, target backup.Target) {
	fmt.Fprintf(out, "Revision %d", plan.Revision)
	if !plan.Known.IsZero() {
		fmt.Fprintf(out, ", current at %s", plan.Known.Format(time.RFC3339))
	}
	if !target.At.IsZero() && !plan.Next.IsZero() {
		fmt.Fprintf(out, "; the next moment that is known is %s", plan.Next.Format(time.RFC3339))
	}
	fmt.Fprintf(out, "\n")
	for _, m := range plan.Chain {
		fmt.Fprintf(out, "  %-11s  %s  revisions %d to %d  %s\n", m.Kind, m.ID, m.FirstRevision(), m.ToRevision,
			humanize.IBytes(uint64(m.Object.SizeBytes)))
	}
}
