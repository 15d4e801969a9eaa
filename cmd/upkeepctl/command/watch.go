package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
)

type watchFlags struct {
	interactive    bool
	prefix         bool
	rev            int64
	prevKV         bool
	progressNotify bool
}

func (f *watchFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVarP(&f.interactive, "interactive", "i", false, "read watch requests from standard input")
	flags.BoolVar(&f.prefix, "prefix", false, "watch all keys with this prefix")
	flags.Int64Var(&f.rev, "rev", 0, "revision to start at")
	flags.BoolVar(&f.prevKV, "prev-kv", false, "also show each key-value pair as it was before the event")
	flags.BoolVar(&f.progressNotify, "progress-notify", false, "have the server tell its progress from time to time")
}

func newWatch(a *app) *cobra.Command {
	var f watchFlags
	cmd := &cobra.Command{
		Use:   "watch [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
		Short: "Shows the changes of keys as they happen",
		Long: `Shows the changes of a key, a range or a prefix as they happen, and runs the
command after -- once for each. The command finds the event in ETCD_WATCH_REVISION,
ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and ETCD_WATCH_VALUE. Instead of as arguments
the range may be given in ETCDCTL_WATCH_KEY and ETCDCTL_WATCH_RANGE_END.`,
	}
	f.register(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.interactive {
			return a.watchInteractively(cmd)
		}
		request, err := parseWatchArgs(args, cmd.ArgsLenAtDash(), &f)
		if err != nil {
			return fail(exitBadArgs, err)
		}
		client, out, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer closeClient(client)
		watch := client.Watch(cmd.Context(), request.key, request.opts...)
		if err := a.showWatch(cmd.Context(), watch, request.exec, out); err != nil {
			return err
		}
		return fail(exitInterrupted, errors.New("watch is canceled by the server"))
	}
	return cmd
}

// watchRequest is one watch: of what, how, and the command to run per event.
type watchRequest struct {
	key  string
	opts []clientv3.OpOption
	exec []string
}

var (
	errWatchArgs      = errors.New("bad number of arguments")
	errWatchNoCommand = errors.New("bad number of arguments (found separator --, but no commands)")
	errWatchConflict  = errors.New("bad number of arguments (found conflicting environment key)")
)

// parseWatchArgs splits arguments at "--", whose position is dash (negative:
// none), and takes the range from the environment if there is none before it.
func parseWatchArgs(args []string, dash int, f *watchFlags) (*watchRequest, error) {
	request := &watchRequest{}
	keys := args
	if dash >= 0 {
		keys, request.exec = args[:dash], args[dash:]
	}
	envKey, keyName := lookupVariable("WATCH_KEY")
	envEnd, endName := lookupVariable("WATCH_RANGE_END")
	switch {
	case envKey == "" && envEnd != "":
		return nil, fmt.Errorf("%s is empty but got %s=%q", keyName, endName, envEnd)
	case envKey != "" && len(keys) > 0:
		return nil, errWatchConflict
	case envKey != "":
		keys = []string{envKey}
		if envEnd != "" {
			keys = append(keys, envEnd)
		}
	}
	if len(keys) == 0 {
		return nil, errWatchArgs
	}
	if dash >= 0 && len(request.exec) == 0 {
		return nil, errWatchNoCommand
	}
	request.key = keys[0]
	if len(keys) > 1 && f.prefix {
		return nil, errors.New("`range_end` and `--prefix` are mutually exclusive")
	}
	if len(keys) == 2 { // more than that is etcdctl's way to have no range
		request.opts = append(request.opts, clientv3.WithRange(keys[1]))
	}
	request.opts = append(request.opts, clientv3.WithRev(f.rev))
	if f.prefix {
		request.opts = append(request.opts, clientv3.WithPrefix())
	}
	if f.prevKV {
		request.opts = append(request.opts, clientv3.WithPrevKV())
	}
	if f.progressNotify {
		request.opts = append(request.opts, clientv3.WithProgressNotify())
	}
	return request, nil
}

// showWatch prints what a watch delivers until it ends.
func (a *app) showWatch(ctx context.Context, watch clientv3.WatchChan, command []string, out printer.Printer) error {
	for resp := range watch {
		if resp.Canceled {
			fmt.Fprintf(a.err, "watch was canceled (%v)\n", resp.Err())
		}
		if resp.IsProgressNotify() {
			fmt.Fprintf(a.out, "progress notify: %d\n", resp.Header.GetRevision())
		}
		if err := out.Print(&resp); err != nil {
			return err
		}
		if len(command) == 0 {
			continue
		}
		for _, event := range resp.Events {
			if err := a.runForEvent(ctx, command, resp.Header.GetRevision(), event); ctx.Err() != nil {
				return nil // the session is over, and the command with it
			} else if err != nil {
				fmt.Fprintf(a.err, "command %q error (%v)\n", command, err)
				return failed(exitError)
			}
		}
	}
	return nil
}

func (a *app) runForEvent(ctx context.Context, command []string, revision int64, event *clientv3.Event) error {
	run := exec.CommandContext(ctx, command[0], command[1:]...)
	run.Env = append(os.Environ(),
		fmt.Sprintf("ETCD_WATCH_REVISION=%d", revision),
		fmt.Sprintf("ETCD_WATCH_EVENT_TYPE=%q", event.Type),
		fmt.Sprintf("ETCD_WATCH_KEY=%q", event.Kv.Key),
		fmt.Sprintf("ETCD_WATCH_VALUE=%q", event.Kv.Value))
	run.Stdout, run.Stderr = a.out, a.err
	return run.Run()
}

// watchInteractively reads lines `watch ...` and `progress` until the input ends.
func (a *app) watchInteractively(cmd *cobra.Command) error {
	client, out, err := a.connect(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	session := &watchSession{app: a, client: client, out: out, failures: make(chan error, 1)}
	defer func() {
		cancel()
		closeClient(client)
		session.watches.Wait()
	}()
	in := bufio.NewReader(a.in)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return fail(exitBadInput, fmt.Errorf("error reading watch request line: %w", err))
		}
		if err := session.handle(ctx, strings.TrimSuffix(line, "\n")); err != nil {
			return err
		}
		select {
		case err := <-session.failures:
			return err
		default:
		}
	}
}

// watchSession is an interactive watch: many watches that print to one output.
type watchSession struct {
	app      *app
	client   *clientv3.Client
	out      printer.Printer
	watches  sync.WaitGroup
	failures chan error // the first failure of an exec command or of the output
}

func (s *watchSession) handle(ctx context.Context, line string) error {
	words := splitWords(line)
	switch {
	case len(words) == 0:
		fmt.Fprintf(s.app.err, "Invalid command: %s (watch and progress supported)\n", line)
		return nil
	case words[0] == "progress":
		if err := s.client.RequestProgress(ctx); err != nil {
			fmt.Fprintf(s.app.err, "progress request failed: %v\n", err)
		}
		return nil
	case words[0] != "watch":
		fmt.Fprintf(s.app.err, "Invalid command %s (only support watch)\n", line)
		return nil
	}
	if envKey, _ := lookupVariable("WATCH_KEY"); len(words) < 2 && envKey == "" {
		fmt.Fprintf(s.app.err, "Invalid command %s (command type or key is not provided)\n", line)
		return nil
	}
	var f watchFlags
	parser := &cobra.Command{}
	f.register(parser)
	if err := parser.ParseFlags(words[1:]); err != nil {
		return fail(exitBadArgs, err)
	}
	request, err := parseWatchArgs(parser.Flags().Args(), parser.ArgsLenAtDash(), &f)
	if errors.Is(err, errWatchNoCommand) {
		return fail(exitBadArgs, err)
	}
	if err != nil {
		fmt.Fprintf(s.app.err, "Invalid command %s (%v)\n", line, err)
		return nil
	}
	watch := s.client.Watch(ctx, request.key, request.opts...)
	s.watches.Go(func() {
		if err := s.app.showWatch(ctx, watch, request.exec, s.out); err != nil {
			select {
			case s.failures <- err:
			default:
			}
		}
	})
	return nil
}
