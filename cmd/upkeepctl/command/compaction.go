package command

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func newCompaction(a *app) *cobra.Command {
	var physical bool
	cmd := &cobra.Command{
		Use:   "compaction [options] <revision>",
		Short: "Forgets all history before a revision",
	}
	cmd.Flags().BoolVar(&physical, "physical", false, "wait until the old revisions are gone from the server's file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return badArgs("compaction command needs 1 argument")
		}
		revision, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return fail(exitError, err)
		}
		var opts []clientv3.CompactOption
		if physical {
			opts = append(opts, clientv3.WithCompactPhysical())
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
			_, err := client.Compact(ctx, revision, opts...)
			if err == nil {
				fmt.Fprintf(a.out, "compacted revision %d\n", revision)
			}
			return nil, err
		})
	}
	return cmd
}
