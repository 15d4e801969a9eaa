package command

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/server/maintenance"
)

func newMaintenanceCheck(a *app) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "check", Short: "Compares what the members hold, names the one that differs and since which revision", Args: cobra.NoArgs,
		Long: `Compares the members' histories now, by hash. A member that differs from the
majority is named, with the revision from which on it differs, and raises the CORRUPT
alarm; "maintenance rebuild" puts it right.`,
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long it may take with all its waiting (default one hour)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.runAndFollow(cmd, func(ctx context.Context, c *maintenanceCall) (*upkeeppb.RunRequest, error) {
			_, err := c.learn(ctx)
			return &upkeeppb.RunRequest{Kind: schedulepb.Kind_CHECK, Timeout: int64(timeout)}, err
		})
	}
	return cmd
}

func newMaintenanceRebuild(a *app) *cobra.Command {
	var from string
	var disarm bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "rebuild MEMBER",
		Short: "Gives a member that differs from the majority a healthy member's database",
		Long: `Replaces the database of one member by that of a healthy one, while the member runs
and stays in the cluster, and compares the two afterwards. Nothing that was
acknowledged is lost. With --disarm, the member's CORRUPT alarm is lowered once its
history is that of the majority.`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&from, "from", "", "name or ID of the member to take the database from; needed if no history has a majority")
	cmd.Flags().BoolVar(&disarm, "disarm", false, "lower the member's CORRUPT alarm when it equals the majority again")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long it may take with all its waiting (default one hour)")
	cmd.ValidArgsFunction = a.completeMembers
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.runAndFollow(cmd, func(ctx context.Context, c *maintenanceCall) (*upkeeppb.RunRequest, error) {
			r := &upkeeppb.RunRequest{Kind: schedulepb.Kind_REBUILD, Timeout: int64(timeout)}
			var err error
			if r.Members, err = c.members(ctx, args); err != nil {
				return nil, err
			}
			if disarm {
				r.Parameters = append(r.Parameters, &schedulepb.Parameter{Name: maintenance.ParamDisarm, Value: "true"})
			}
			if from == "" {
				return r, nil
			}
			source, err := c.members(ctx, []string{from})
			if err != nil {
				return nil, err
			}
			r.Parameters = append(r.Parameters, &schedulepb.Parameter{Name: maintenance.ParamFrom, Value: strconv.FormatUint(source[0], 16)})
			return r, nil
		})
	}
	return cmd
}

// runAndFollow opens the run that make describes and shows it until it is over.
func (a *app) runAndFollow(cmd *cobra.Command, make func(context.Context, *maintenanceCall) (*upkeeppb.RunRequest, error)) error {
	return a.maintainBy(cmd, func(ctx context.Context, c *maintenanceCall) error {
		r, err := make(ctx, c)
		if err != nil {
			return err
		}
		opened, err := c.Run(ctx, r)
		if err != nil {
			return err
		}
		return a.follow(cmd, c, opened.Run)
	})
}
