package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

type putFlags struct {
	lease                    string // hexadecimal
	prevKV                   bool
	ignoreValue, ignoreLease bool
}

func newPut(a *app) *cobra.Command {
	var f putFlags
	cmd := putCommand(&f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, value, opts, err := f.operation(args, a.in)
		if err != nil {
			return err
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
			return client.Put(ctx, key, value, opts...)
		})
	}
	return cmd
}

func putCommand(f *putFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "put [options] <key> <value> (<value> can also be given from stdin)",
		Short: "Puts the given key into the store",
		Long: `
Puts the given key into the store.

A key or value that begins with '-' goes after '--':

$ put <key> -- <value>
$ put -- <key> <value>

Without a value argument, the value is read from standard input, unless
--ignore-value keeps the one that is there:

$ cat file | put <key>
`,
	}
	flags := cmd.Flags()
	flags.StringVar(&f.lease, "lease", "0", "lease ID (in hexadecimal) to attach to the key")
	flags.BoolVar(&f.prevKV, "prev-kv", false, "also return the key-value pair as it was before")
	flags.BoolVar(&f.ignoreValue, "ignore-value", false, "keep the key's value")
	flags.BoolVar(&f.ignoreLease, "ignore-lease", false, "keep the key's lease")
	return cmd
}

func (f *putFlags) operation(args []string, in io.Reader) (key, value string, opts []clientv3.OpOption, err error) {
	if len(args) == 0 {
		return "", "", nil, errPutArguments()
	}
	key = args[0]
	switch {
	case f.ignoreValue && len(args) > 1:
		return "", "", nil, badArgs("put command needs only 1 argument when 'ignore-value' is set")
	case f.ignoreValue:
	case len(args) > 1:
		value = args[1]
	default:
		if value, err = valueFromInput(in); err != nil {
			return "", "", nil, err
		}
	}
	lease, err := strconv.ParseInt(f.lease, 16, 64)
	if err != nil {
		return "", "", nil, badArgs("bad lease ID (%v), expecting ID in Hex", err)
	}
	if lease != 0 {
		opts = append(opts, clientv3.WithLease(clientv3.LeaseID(lease)))
	}
	if f.prevKV {
		opts = append(opts, clientv3.WithPrevKV())
	}
	if f.ignoreValue {
		opts = append(opts, clientv3.WithIgnoreValue())
	}
	if f.ignoreLease {
		opts = append(opts, clientv3.WithIgnoreLease())
	}
	return key, value, opts, nil
}

func errPutArguments() error {
	return badArgs("put command needs 1 argument and input from stdin or 2 arguments")
}

// valueFromInput reads the value from in. Nothing there is an error: an empty
// value has to be asked for with an argument.
func valueFromInput(in io.Reader) (string, error) {
	if in == nil {
		return "", errPutArguments()
	}
	if file, ok := in.(*os.File); ok {
		if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice != 0 {
			return "", errPutArguments() // a terminal: nobody piped anything in
		}
	}
	bytes, err := io.ReadAll(in)
	if err != nil {
		return "", fail(exitError, fmt.Errorf("reading the value from standard input: %w", err))
	}
	if len(bytes) == 0 {
		return "", errPutArguments()
	}
	return string(bytes), nil
}
