package command

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/server/maintenance"
)

func newBackupRun(a *app) *cobra.Command {
	var full, detach bool
	var repository string
	var members []string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "run",
		Args:  cobra.NoArgs,
		Short: "Lets the cluster take a backup now",
		Long: `Lets the cluster take a backup now, whatever the policy says of when: in its turn
among all maintenance, of a follower unless a member is named, into the
repository of the policy unless another one is. It shows events as they come, and
fails if the backup does.`,
	}
	f := cmd.Flags()
	f.BoolVar(&full, "full", false, "a full backup, not the history since the last one")
	f.StringVar(&repository, "repository", "", "another repository than that of the policy, as the member reaches it")
	f.StringSliceVar(&members, "member", nil, "name or ID of the member to back up")
	f.BoolVar(&detach, "detach", false, "do not wait for it")
	f.DurationVar(&timeout, "timeout", time.Hour, "how long it may take with all its waiting")
	_ = cmd.RegisterFlagCompletionFunc("member", a.completeMembers) // fails only for flags that do not exist
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		parameters := []*schedulepb.Parameter{{Name: maintenance.ParamBackup, Value: maintenance.BackupIncremental}}
		if full {
			parameters[0].Value = maintenance.BackupFull
		}
		if repository != "" {
			parameters = append(parameters, &schedulepb.Parameter{Name: maintenance.ParamDestination, Value: repository})
		}
		return a.maintainBy(cmd, func(ctx context.Context, c *maintenanceCall) error {
			ids, err := c.members(ctx, members)
			if err != nil {
				return err
			}
			opened, err := c.Run(ctx, &upkeeppb.RunRequest{
				Kind: schedulepb.Kind_BACKUP, Members: ids, Parameters: parameters, Timeout: int64(timeout),
			})
			if err != nil {
				return err
			}
			if detach {
				return c.out.Opened(opened)
			}
			return a.follow(cmd, c, opened.Run)
		})
	}
	return cmd
}
