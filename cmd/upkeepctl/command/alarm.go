package command

import (
	"context"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func newAlarm(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "alarm", Short: "Alarm related commands"}
	cmd.AddCommand(
		newAlarmCommand(a, "list", "Lists all alarms",
			func(ctx context.Context, client *clientv3.Client) (*clientv3.AlarmResponse, error) {
				return client.AlarmList(ctx)
			}),
		newAlarmCommand(a, "disarm", "Disarms all alarms",
			func(ctx context.Context, client *clientv3.Client) (*clientv3.AlarmResponse, error) {
				return client.AlarmDisarm(ctx, &clientv3.AlarmMember{}) // an empty member stands for every alarm
			}))
	return cmd
}

func newAlarmCommand(
	a *app, name, short string, do func(context.Context, *clientv3.Client) (*clientv3.AlarmResponse, error),
) *cobra.Command {
	cmd := &cobra.Command{Use: name, Short: short}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 0 {
			return badArgs("alarm %s command accepts no arguments", name)
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) { return do(ctx, client) })
	}
	return cmd
}
