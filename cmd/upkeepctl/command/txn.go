package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func newTxn(a *app) *cobra.Command {
	var interactive bool
	cmd := &cobra.Command{
		Use:   "txn [options]",
		Short: "Runs the requests on standard input as one transaction",
		Long: `Reads a transaction from standard input and runs it: conditions, the requests
to run if all of them hold, and the requests to run if one does not. Each part
ends with an empty line.

  mod("key1") > "0"

  put key1 "overwritten"

  put key1 "created"
  put key2 "some extra key"

A condition compares create, mod, ver (version), val (value) or lease of a key
by =, !=, < or > with a quoted value.`,
	}
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "prompt for the parts of the transaction")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 0 {
			return badArgs("txn command does not accept argument")
		}
		prompts := io.Discard
		if interactive {
			prompts = a.out
		}
		request, err := readTxn(cmd.Context(), a, prompts)
		if err != nil {
			return err
		}
		client, out, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer closeClient(client)
		ctx, cancel := a.timeout(cmd)
		defer cancel()
		resp, err := client.Txn(ctx).If(request.compares...).Then(request.success...).Else(request.failure...).Commit()
		if err != nil {
			return err
		}
		return out.Print(resp)
	}
	return cmd
}

type txnRequest struct {
	compares         []clientv3.Cmp
	success, failure []clientv3.Op
}

func readTxn(ctx context.Context, a *app, prompts io.Writer) (*txnRequest, error) {
	in := bufio.NewReader(a.in)
	request := &txnRequest{}
	part := func(prompt string, add func(line string) error) error {
		fmt.Fprintln(prompts, prompt)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return fail(exitBadInput, err) // every part must end with an empty line
			}
			if line = strings.TrimSpace(line); line == "" {
				return nil
			}
			if err := add(line); err != nil {
				return err
			}
		}
	}
	operations := func(to *[]clientv3.Op) func(string) error {
		return func(line string) error {
			op, err := parseOperation(ctx, line, a.err)
			*to = append(*to, op)
			return err
		}
	}
	err := part("compares:", func(line string) error {
		compare, err := parseCompare(line)
		if err != nil {
			return fail(exitBadInput, err)
		}
		request.compares = append(request.compares, compare)
		return nil
	})
	if err == nil {
		err = part("success requests (get, put, del):", operations(&request.success))
	}
	if err == nil {
		err = part("failure requests (get, put, del):", operations(&request.failure))
	}
	return request, err
}

// parseCompare parses a condition such as mod("key") > "0".
func parseCompare(line string) (clientv3.Cmp, error) {
	target, rest, found := strings.Cut(line, "(")
	if !found {
		return clientv3.Cmp{}, fmt.Errorf("malformed comparison: %s", line)
	}
	var key, operator, value string
	if _, err := fmt.Sscanf(rest, "%q) %s %q", &key, &operator, &value); err != nil {
		return clientv3.Cmp{}, fmt.Errorf("malformed comparison: %s; got %s(%q) %s %q", line, target, key, operator, value)
	}
	switch operator {
	case "=", "!=", "<", ">":
	default:
		return clientv3.Cmp{}, fmt.Errorf("malformed comparison: %s (unknown operator %s)", line, operator)
	}
	var number int64
	var err error
	var compared clientv3.Cmp
	var with any
	switch target {
	case "ver", "version":
		compared = clientv3.Version(key)
		number, err = strconv.ParseInt(value, 10, 64)
		with = number
	case "c", "create":
		compared = clientv3.CreateRevision(key)
		number, err = strconv.ParseInt(value, 10, 64)
		with = number
	case "m", "mod":
		compared = clientv3.ModRevision(key)
		number, err = strconv.ParseInt(value, 10, 64)
		with = number
	case "lease":
		compared = clientv3.LeaseValue(key)
		number, err = strconv.ParseInt(value, 16, 64) // lease IDs are hexadecimal everywhere
		with = number
	case "val", "value":
		compared, with = clientv3.Value(key), value
	default:
		return clientv3.Cmp{}, fmt.Errorf("malformed comparison: %s (unknown target %s)", line, target)
	}
	if err != nil {
		return clientv3.Cmp{}, fmt.Errorf("invalid txn compare request: %s", line)
	}
	return clientv3.Compare(compared, operator, with), nil
}

var errNotRun = errors.New("asked for help instead")

// parseOperation parses a put, get or del line with the flags of those commands.
func parseOperation(ctx context.Context, line string, errOut io.Writer) (op clientv3.Op, err error) {
	words := splitWords(line)
	if len(words) < 2 {
		return op, fail(exitBadInput, fmt.Errorf("invalid txn compare request: %s", line))
	}
	// The commands have no parent here, so their usage does not name the program.
	root := &cobra.Command{SilenceErrors: true}
	root.SetOut(errOut)
	root.SetErr(errOut)
	root.SetArgs(words)
	parsed := errNotRun
	var (
		put putFlags
		get getFlags
		del delFlags
	)
	add := func(cmd *cobra.Command, parse func(args []string) (clientv3.Op, error)) {
		cmd.Run = func(_ *cobra.Command, args []string) { op, parsed = parse(args) }
		root.AddCommand(cmd)
	}
	add(putCommand(&put), func(args []string) (clientv3.Op, error) {
		key, value, opts, err := put.operation(args, nil)
		return clientv3.OpPut(key, value, opts...), err
	})
	add(getCommand(&get), func(args []string) (clientv3.Op, error) {
		key, opts, err := get.operation(args)
		return clientv3.OpGet(key, opts...), err
	})
	add(delCommand(&del), func(args []string) (clientv3.Op, error) {
		key, opts, err := del.operation(ctx, args, errOut)
		return clientv3.OpDelete(key, opts...), err
	})
	if err := root.Execute(); err != nil || errors.Is(parsed, errNotRun) {
		return op, fail(exitBadInput, fmt.Errorf("invalid txn request: %s", line))
	}
	return op, parsed
}
