package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
)

func newAuth(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "auth", Short: "Enables and disables authentication"}
	cmd.AddCommand(
		newAuthCommand(a, "enable", "Enables authentication", func(ctx context.Context, client *clientv3.Client) (any, error) {
			err := enableAuth(ctx, client)
			if err == nil {
				fmt.Fprintln(a.out, "Authentication Enabled")
			}
			return nil, err
		}),
		newAuthCommand(a, "disable", "Disables authentication", func(ctx context.Context, client *clientv3.Client) (any, error) {
			_, err := client.AuthDisable(ctx)
			if err == nil {
				fmt.Fprintln(a.out, "Authentication Disabled")
			}
			return nil, err
		}),
		newAuthCommand(a, "status", "Shows whether authentication is enabled", func(ctx context.Context, client *clientv3.Client) (any, error) {
			resp, err := client.AuthStatus(ctx)
			if err != nil {
				return nil, err
			}
			return printer.Answer{
				Text:     fmt.Sprintf("Authentication Status: %v\nAuthRevision: %v\n", resp.Enabled, resp.AuthRevision),
				Response: (*pb.AuthStatusResponse)(resp), NoFields: true,
			}, nil
		}))
	return cmd
}

func newAuthCommand(a *app, name, short string, ask request) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) != 0 {
			return badArgs("auth %s command does not accept any arguments", name)
		}
		return a.call(cmd, ask)
	}}
}

// enableAuth gives the user root the role root if that is all that is missing.
func enableAuth(ctx context.Context, client *clientv3.Client) error {
	_, err := client.AuthEnable(ctx)
	if !errors.Is(err, rpctypes.ErrRootRoleNotExist) {
		return err
	}
	if _, err := client.RoleAdd(ctx, "root"); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return err
	}
	if _, err := client.UserGrantRole(ctx, "root", "root"); err != nil {
		return err
	}
	_, err = client.AuthEnable(ctx)
	return err
}
