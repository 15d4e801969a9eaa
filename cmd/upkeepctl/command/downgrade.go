package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
)

func newDowngrade(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "downgrade", Short: "Downgrade related commands"}
	cmd.AddCommand(
		newDowngradeTo(a, "validate", "Checks whether the cluster can be downgraded to a version", clientv3.DowngradeValidate),
		newDowngradeTo(a, "enable", "Lets the members be downgraded to a version", clientv3.DowngradeEnable),
		&cobra.Command{Use: "cancel", Short: "Calls the downgrade off", RunE: func(cmd *cobra.Command, _ []string) error {
			return a.downgrade(cmd, "cancel", clientv3.DowngradeCancel, "")
		}})
	return cmd
}

func newDowngradeTo(a *app, name, short string, action clientv3.DowngradeAction) *cobra.Command {
	return &cobra.Command{Use: name + " <TARGET_VERSION>", Short: short, RunE: func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < 1:
			return badArgs("TARGET_VERSION not provided")
		case len(args) > 1:
			return badArgs("too many arguments")
		case args[0] == "":
			return badArgs("target version not provided")
		}
		return a.downgrade(cmd, name, action, args[0])
	}}
}

func (a *app) downgrade(cmd *cobra.Command, name string, action clientv3.DowngradeAction, version string) error {
	return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
		resp, err := client.Downgrade(ctx, action, version)
		if err != nil {
			return nil, err
		}
		return printer.Answer{
			Text:     fmt.Sprintf("Downgrade %s success, cluster version %s\n", name, resp.Version),
			Response: (*pb.DowngradeResponse)(resp), NoFields: true,
		}, nil
	})
}
