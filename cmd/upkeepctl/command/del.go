package command

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

type delFlags struct{ prefix, fromKey, prevKV, withRange bool }

func newDel(a *app) *cobra.Command {
	var f delFlags
	cmd := delCommand(&f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, opts, err := f.operation(cmd.Context(), args, a.err)
		if err != nil {
			return err
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
			return client.Delete(ctx, key, opts...)
		})
	}
	return cmd
}

func delCommand(f *delFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "del [options] <key> [range_end]",
		Short: "Removes the key or the range of keys [key, range_end)",
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.prefix, "prefix", false, "delete all keys with this prefix")
	flags.BoolVar(&f.fromKey, "from-key", false, "delete all keys from this one on, in byte order")
	flags.BoolVar(&f.prevKV, "prev-kv", false, "also return the deleted key-value pairs")
	flags.BoolVar(&f.withRange, "range", false, "a range of keys is meant: delete it without a delay")
	return cmd
}

// rangeDelay is how long `del a b` waits before it deletes a whole range where
// the deletion of two keys may have been meant.
const rangeDelay = 2 * time.Second

func (f *delFlags) operation(ctx context.Context, args []string, warnings io.Writer) (string, []clientv3.OpOption, error) {
	if len(args) == 0 || len(args) > 2 {
		return "", nil, badArgs("del command needs one argument as key and an optional argument as range_end")
	}
	if f.prefix && f.fromKey {
		return "", nil, badArgs("`--prefix` and `--from-key` cannot be set at the same time, choose one")
	}
	key, opts := args[0], []clientv3.OpOption(nil)
	if len(args) > 1 {
		if f.prefix || f.fromKey {
			return "", nil, badArgs("too many arguments, only accept one argument when `--prefix` or `--from-key` is set")
		}
		opts = append(opts, clientv3.WithRange(args[1]))
		if !f.withRange {
			fmt.Fprintf(warnings, "Warning: Keys between %q and %q will be deleted. Please interrupt the command within "+
				"next 2 seconds to cancel. You can provide `--range` flag to avoid the delay.\n", key, args[1])
			delay := time.NewTimer(rangeDelay)
			defer delay.Stop()
			select {
			case <-delay.C:
			case <-ctx.Done():
				return "", nil, ctx.Err()
			}
		}
	}
	if f.prefix {
		opts = append(opts, clientv3.WithPrefix())
	}
	if f.fromKey {
		opts = append(opts, clientv3.WithFromKey())
	}
	if f.prevKV {
		opts = append(opts, clientv3.WithPrevKV())
	}
	return key, opts, nil
}
