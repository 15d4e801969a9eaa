package command

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
)

func newLease(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "lease", Short: "Lease related commands"}
	cmd.AddCommand(newLeaseGrant(a), newLeaseRevoke(a), newLeaseTimeToLive(a), newLeaseList(a), newLeaseKeepAlive(a))
	return cmd
}

func newLeaseGrant(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "grant <ttl>", Short: "Creates a lease with a time to live in seconds"}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return badArgs("lease grant command needs TTL argument")
		}
		ttl, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return badArgs("bad TTL (%v)", err)
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
			resp, err := client.Grant(ctx, ttl)
			if err != nil {
				err = fmt.Errorf("failed to grant lease (%w)", err)
			}
			return resp, err
		})
	}
	return cmd
}

func newLeaseRevoke(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "revoke <leaseID>", Short: "Ends a lease and deletes the keys attached to it"}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return badArgs("lease revoke command needs 1 argument")
		}
		id, err := parseLeaseID(args[0])
		if err != nil {
			return err
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
			resp, err := client.Revoke(ctx, id)
			if err != nil {
				err = fmt.Errorf("failed to revoke lease (%w)", err)
			}
			return printer.LeaseRevoked{ID: id, Response: resp}, err
		})
	}
	return cmd
}

func newLeaseTimeToLive(a *app) *cobra.Command {
	var keys bool
	cmd := &cobra.Command{Use: "timetolive <leaseID> [options]", Short: "Shows how long a lease still lasts"}
	cmd.Flags().BoolVar(&keys, "keys", false, "also get the keys attached to the lease")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return badArgs("lease timetolive command needs lease ID as argument")
		}
		id, err := parseLeaseID(args[0])
		if err != nil {
			return err
		}
		var opts []clientv3.LeaseOption
		if keys {
			opts = append(opts, clientv3.WithAttachedKeys())
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
			resp, err := client.TimeToLive(ctx, id, opts...)
			if err != nil {
				err = fail(exitConnection, err)
			}
			return printer.LeaseTTL{Response: resp, WithKeys: keys}, err
		})
	}
	return cmd
}

func newLeaseList(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "Lists all leases, the one that ends first before the others"}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
			resp, err := client.Leases(ctx)
			if err != nil {
				err = fail(exitConnection, err)
			}
			return resp, err
		})
	}
	return cmd
}

func newLeaseKeepAlive(a *app) *cobra.Command {
	var once bool
	cmd := &cobra.Command{Use: "keep-alive [options] <leaseID>", Short: "Keeps a lease alive until interrupted"}
	cmd.Flags().BoolVar(&once, "once", false, "renew the lease once and return")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return badArgs("lease keep-alive command needs lease ID as argument")
		}
		id, err := parseLeaseID(args[0])
		if err != nil {
			return err
		}
		client, out, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer closeClient(client)
		if once {
			ctx, cancel := a.timeout(cmd)
			defer cancel()
			resp, err := client.KeepAliveOnce(ctx, id)
			if err != nil {
				return fail(exitConnection, err)
			}
			return out.Print(resp)
		}
		renewals, err := client.KeepAlive(cmd.Context(), id)
		if err != nil {
			return fail(exitConnection, err)
		}
		for resp := range renewals {
			if err := out.Print(resp); err != nil {
				return err
			}
		}
		if a.opts.writeOut == "simple" {
			fmt.Fprintf(a.out, "lease %016x expired or revoked.\n", id)
		}
		return nil
	}
	return cmd
}

func parseLeaseID(arg string) (clientv3.LeaseID, error) {
	id, err := strconv.ParseInt(arg, 16, 64)
	if err != nil {
		return 0, badArgs("bad lease ID arg (%v), expecting ID in Hex", err)
	}
	return clientv3.LeaseID(id), nil
}
