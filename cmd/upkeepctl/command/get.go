package command

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
)

type getFlags struct {
	consistency, order, sortBy string
	limit, rev                 int64
	prefix, fromKey            bool
	keysOnly, countOnly        bool
	valueOnly, stream          bool
	minCreateRev, maxCreateRev int64
	minModRev, maxModRev       int64
}

func newGet(a *app) *cobra.Command {
	var f getFlags
	cmd := getCommand(&f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, opts, err := f.operation(args)
		if err != nil {
			return err
		}
		if f.countOnly && a.opts.writeOut != "fields" && a.opts.writeOut != "" {
			return badArgs("--count-only is only for `--write-out=fields`")
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
			if f.valueOnly && a.opts.writeOut != "simple" {
				return nil, badArgs("print-value-only is only for `--write-out=simple`")
			}
			resp, err := f.fetch(ctx, client, key, opts)
			return printer.Get{Response: resp, CountOnly: f.countOnly, ValueOnly: f.valueOnly}, err
		})
	}
	return cmd
}

// getCommand has get's flags but not yet its work: a transaction parses its
// get lines with it.
func getCommand(f *getFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get [options] <key> [range_end]",
		Short: "Gets the key or a range of keys",
	}
	flags := cmd.Flags()
	flags.StringVar(&f.consistency, "consistency", "l", "linearizable (l) or serializable (s)")
	flags.StringVar(&f.order, "order", "", "order of the results: ASCEND (default) or DESCEND")
	flags.StringVar(&f.sortBy, "sort-by", "", "what to sort by: CREATE, KEY, MODIFY, VALUE or VERSION")
	flags.Int64Var(&f.limit, "limit", 0, "largest number of results")
	flags.Int64Var(&f.rev, "rev", 0, "revision to read at")
	flags.BoolVar(&f.prefix, "prefix", false, "get all keys with this prefix")
	flags.BoolVar(&f.fromKey, "from-key", false, "get all keys from this one on, in byte order")
	flags.BoolVar(&f.keysOnly, "keys-only", false, "get keys without values")
	flags.BoolVar(&f.countOnly, "count-only", false, "get only the number of keys")
	flags.BoolVar(&f.valueOnly, "print-value-only", false, "print values without keys (simple output format)")
	flags.BoolVar(&f.stream, "stream", false, "get the range as a stream of pieces, for very large ranges")
	flags.Int64Var(&f.minCreateRev, "min-create-rev", 0, "smallest create revision")
	flags.Int64Var(&f.maxCreateRev, "max-create-rev", 0, "largest create revision")
	flags.Int64Var(&f.minModRev, "min-mod-rev", 0, "smallest modification revision")
	flags.Int64Var(&f.maxModRev, "max-mod-rev", 0, "largest modification revision")
	return cmd
}

func (f *getFlags) operation(args []string) (key string, opts []clientv3.OpOption, err error) {
	if len(args) == 0 {
		return "", nil, badArgs("get command needs one argument as key and an optional argument as range_end")
	}
	if f.prefix && f.fromKey {
		return "", nil, badArgs("`--prefix` and `--from-key` cannot be set at the same time, choose one")
	}
	if f.keysOnly && f.countOnly {
		return "", nil, badArgs("`--keys-only` and `--count-only` cannot be set at the same time, choose one")
	}
	key = args[0]
	if opts, err = f.rangeOptions(args); err != nil {
		return "", nil, err
	}
	sort, err := f.sortOption()
	if err != nil {
		return "", nil, err
	}
	if sort != nil {
		opts = append(opts, sort)
	}
	opts = append(opts, clientv3.WithLimit(f.limit))
	if f.rev > 0 {
		opts = append(opts, clientv3.WithRev(f.rev))
	}
	// Of an empty key, the client turns prefix and from-key into "everything".
	if f.prefix {
		opts = append(opts, clientv3.WithPrefix())
	}
	if f.fromKey {
		opts = append(opts, clientv3.WithFromKey())
	}
	if f.keysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	if f.countOnly {
		opts = append(opts, clientv3.WithCountOnly())
	}
	opts = append(opts,
		clientv3.WithMinCreateRev(f.minCreateRev), clientv3.WithMaxCreateRev(f.maxCreateRev),
		clientv3.WithMinModRev(f.minModRev), clientv3.WithMaxModRev(f.maxModRev))
	return key, opts, nil
}

func (f *getFlags) rangeOptions(args []string) ([]clientv3.OpOption, error) {
	var opts []clientv3.OpOption
	serializable, err := isSerializable(f.consistency)
	if err != nil {
		return nil, err
	}
	if serializable {
		opts = append(opts, clientv3.WithSerializable())
	}
	if len(args) > 1 {
		if f.prefix || f.fromKey {
			return nil, badArgs("too many arguments, only accept one argument when `--prefix` or `--from-key` is set")
		}
		opts = append(opts, clientv3.WithRange(args[1]))
	}
	return opts, nil
}

func isSerializable(consistency string) (bool, error) {
	switch consistency {
	case "s":
		return true, nil
	case "l":
		return false, nil
	}
	return false, fail(exitBadFeature, fmt.Errorf("unknown consistency flag %q", consistency))
}

func (f *getFlags) sortOption() (clientv3.OpOption, error) {
	order := clientv3.SortNone
	switch strings.ToUpper(f.order) {
	case "":
	case "ASCEND":
		order = clientv3.SortAscend
	case "DESCEND":
		order = clientv3.SortDescend
	default:
		return nil, fail(exitBadFeature, errors.New("bad sort order "+f.order))
	}
	target := clientv3.SortByKey
	switch strings.ToUpper(f.sortBy) {
	case "", "KEY":
	case "CREATE":
		target = clientv3.SortByCreateRevision
	case "MODIFY":
		target = clientv3.SortByModRevision
	case "VALUE":
		target = clientv3.SortByValue
	case "VERSION":
		target = clientv3.SortByVersion
	default:
		return nil, fail(exitBadFeature, errors.New("bad sort target "+f.sortBy))
	}
	if f.order == "" && f.sortBy == "" {
		return nil, nil // servers stream only ranges in their natural order
	}
	return clientv3.WithSort(target, order), nil
}

func (f *getFlags) fetch(
	ctx context.Context, client *clientv3.Client, key string, opts []clientv3.OpOption,
) (*clientv3.GetResponse, error) {
	if !f.stream {
		return client.Get(ctx, key, opts...)
	}
	stream, err := client.GetStream(ctx, key, opts...)
	if err != nil {
		return nil, err
	}
	return clientv3.GetStreamToGetResponse(stream)
}
