package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/server/maintenance"
)

func newMaintenance(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "maintenance",
		Short: "Shows and steers what the cluster does to maintain itself",
		Long: `Shows and steers what the cluster does to maintain itself. At most one member is
under maintenance at any time; every decision is an event with its reason.`,
	}
	cmd.AddCommand(newMaintenanceStatus(a), newMaintenancePlan(a), newMaintenanceRun(a), newMaintenanceCheck(a),
		newMaintenanceRebuild(a), newMaintenancePause(a),
		newMaintenanceResume(a), newMaintenanceHistory(a), newMaintenancePolicy(a))
	return cmd
}

// maintenanceCall is a connection to the service, and the writer of its answers.
type maintenanceCall struct {
	upkeeppb.UpkeepClient
	client *clientv3.Client
	out    *printer.Maintenance
}

// maintainBy runs a command of this file with a connection. The context has the time that a short command may take.
func (a *app) maintainBy(cmd *cobra.Command, do func(context.Context, *maintenanceCall) error) error {
	a.quiet = true
	client, _, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer closeClient(client)
	out, err := printer.NewMaintenance(a.opts.writeOut, a.out)
	if err != nil {
		return err
	}
	ctx, cancel := a.timeout(cmd)
	defer cancel()
	err = do(ctx, &maintenanceCall{
		UpkeepClient: upkeeppb.NewUpkeepClient(client.ActiveConnection()), client: client, out: out,
	})
	return inWords(err, client.Endpoints())
}

// inWords is the server's reason without the words of the protocol around it.
func inWords(err error, endpoints []string) error {
	s, ok := status.FromError(err)
	switch {
	case err == nil || !ok && !errors.Is(err, context.DeadlineExceeded):
		return err
	case status.Code(err) == codes.DeadlineExceeded, errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer from %s in time; --command-timeout waits longer", strings.Join(endpoints, ", "))
	}
	return errors.New(s.Message())
}

// learn asks how the members are called.
func (c *maintenanceCall) learn(ctx context.Context) (map[string]uint64, error) {
	list, err := c.client.MemberList(ctx)
	if err != nil {
		return nil, err
	}
	ids := map[string]uint64{}
	var figures []*schedulepb.Figures
	for _, m := range list.Members {
		ids[m.Name] = m.ID
		figures = append(figures, &schedulepb.Figures{Member: m.ID, Name: m.Name})
	}
	c.out.Learn(figures)
	return ids, nil
}

// members turns names and hexadecimal IDs into IDs.
func (c *maintenanceCall) members(ctx context.Context, names []string) ([]uint64, error) {
	known, err := c.learn(ctx)
	if err != nil {
		return nil, err
	}
	var out []uint64
	for _, name := range names {
		id, ok := known[name]
		if !ok {
			if id, err = strconv.ParseUint(name, 16, 64); err != nil {
				return nil, badArgs("there is no member %q in the cluster", name)
			}
		}
		out = append(out, id)
	}
	return out, nil
}

func newMaintenanceStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Shows what is under way, what waits and why, and how the members are", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.maintainBy(cmd, func(ctx context.Context, c *maintenanceCall) error {
				r, err := c.Status(ctx, &upkeeppb.StatusRequest{})
				if err != nil {
					return err
				}
				return c.out.Status(r)
			})
		},
	}
}

// runFlags are what a run on demand, real or planned, is described by.
type runFlags struct {
	cluster                  bool
	members                  []string
	moveLeader, compactFirst bool
}

func (f *runFlags) register(a *app, cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.cluster, "cluster", false, "every member, one after the other")
	cmd.Flags().StringSliceVar(&f.members, "member", nil, "names or IDs of the members")
	cmd.Flags().BoolVar(&f.moveLeader, "move-leader", false, "hand leadership over before the leader's turn")
	cmd.Flags().BoolVar(&f.compactFirst, "compact-first", false, "compact to what retention allows before")
	_ = cmd.RegisterFlagCompletionFunc("member", a.completeMembers) // fails only for flags that do not exist
}

func (f *runFlags) parameters() []*schedulepb.Parameter {
	var out []*schedulepb.Parameter
	if f.moveLeader {
		out = append(out, &schedulepb.Parameter{Name: maintenance.ParamMoveLeader, Value: "true"})
	}
	if f.compactFirst {
		out = append(out, &schedulepb.Parameter{Name: maintenance.ParamCompactFirst, Value: "true"})
	}
	return out
}

// kindsOnDemand are offered to a shell that completes.
func kindsOnDemand() []string { return []string{"defrag", "recover", "backup", "check"} }

// completeMembers offers the names of the members to the shell.
func (a *app) completeMembers(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	var names []string
	_ = a.maintainBy(cmd, func(ctx context.Context, c *maintenanceCall) error {
		known, err := c.learn(ctx)
		for name := range known {
			if strings.HasPrefix(name, begun) {
				names = append(names, name)
			}
		}
		return err
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}

func newMaintenancePlan(a *app) *cobra.Command {
	var flags runFlags
	cmd := &cobra.Command{
		Use:   "plan [KIND]",
		Short: "Shows what would be done and why, and does nothing",
		Long: `Shows what would be done, in its order, with the reason for each step, and does
nothing. Without a kind it is what the policy does by itself; with one it is what
"maintenance run KIND" would do.`,
		Args: cobra.MaximumNArgs(1), ValidArgs: kindsOnDemand(),
	}
	flags.register(a, cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r := &upkeeppb.PlanRequest{Parameters: flags.parameters()}
		if len(args) == 1 {
			var err error
			if r.Kind, err = maintenance.ParseKind(args[0]); err != nil {
				return fail(exitBadArgs, err)
			}
		}
		return a.maintainBy(cmd, func(ctx context.Context, c *maintenanceCall) (err error) {
			if r.Members, err = c.members(ctx, flags.members); err != nil {
				return err
			}
			plan, err := c.Plan(ctx, r)
			if err != nil {
				return err
			}
			return c.out.Plan(plan)
		})
	}
	return cmd
}

func newMaintenanceRun(a *app) *cobra.Command {
	var flags runFlags
	var follow bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "run KIND (--cluster | --member NAME)",
		Short: "Does maintenance now: defrag, recover, backup, check",
		Long: `Does maintenance now, whatever the policy says of when: one member at a time, and
only while all members are healthy. With --follow it shows events as they come and
fails if the run does.`,
		Args: cobra.ExactArgs(1), ValidArgs: kindsOnDemand(),
	}
	flags.register(a, cmd)
	cmd.Flags().BoolVar(&follow, "follow", false, "show events as they come, until the run is over")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Hour, "how long the run may take with all its waiting")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		kind, err := maintenance.ParseKind(args[0])
		if err != nil {
			return fail(exitBadArgs, err)
		}
		if kind == schedulepb.Kind_DEFRAG && flags.cluster == (len(flags.members) > 0) {
			return badArgs("say which members: either --cluster or --member")
		}
		return a.maintainBy(cmd, func(ctx context.Context, c *maintenanceCall) error {
			members, err := c.members(ctx, flags.members)
			if err != nil {
				return err
			}
			opened, err := c.Run(ctx, &upkeeppb.RunRequest{
				Kind: kind, Members: members, Parameters: flags.parameters(), Timeout: int64(timeout),
			})
			if err != nil {
				return err
			}
			if !follow {
				return c.out.Opened(opened)
			}
			return a.follow(cmd, c, opened.Run)
		})
	}
	return cmd
}

// follow shows a run until it is over, and fails if that does.
func (a *app) follow(cmd *cobra.Command, c *maintenanceCall, run uint64) error {
	ctx, cancel := a.givenTimeout(cmd)
	defer cancel()
	stream, err := c.UpkeepClient.Follow(ctx, &upkeeppb.FollowRequest{Run: run})
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the run goes on, but cannot be followed any more: %s", status.Convert(err).Message())
		}
		if err := c.out.Follow(r); err != nil {
			return err
		}
		if r.Run.GetState() == schedulepb.Run_FAILED {
			return failed(exitError)
		}
	}
}

func newMaintenancePause(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "pause",
		Short: "Stops all maintenance, also what is under way, until it is resumed",
		Args:  cobra.NoArgs,
	}
	cmd.Flags().StringVar(&reason, "reason", "", "what to tell those who wonder")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.maintainBy(cmd, func(ctx context.Context, c *maintenanceCall) error {
			r, err := c.Pause(ctx, &upkeeppb.PauseRequest{Reason: reason})
			if err != nil {
				return err
			}
			return c.out.Done(r, "Maintenance is paused.")
		})
	}
	return cmd
}

func newMaintenanceResume(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{Use: "resume", Short: "Lets maintenance go on after a pause", Args: cobra.NoArgs}
	cmd.Flags().StringVar(&reason, "reason", "", "what to tell those who wonder")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.maintainBy(cmd, func(ctx context.Context, c *maintenanceCall) error {
			r, err := c.Resume(ctx, &upkeeppb.ResumeRequest{Reason: reason})
			if err != nil {
				return err
			}
			return c.out.Done(r, "Maintenance goes on.")
		})
	}
	return cmd
}

func newMaintenanceHistory(a *app) *cobra.Command {
	var limit int64
	var kind, member string
	cmd := &cobra.Command{Use: "history", Short: "Shows what has happened, and why, oldest first", Args: cobra.NoArgs}
	cmd.Flags().Int64Var(&limit, "limit", 50, "show at most so many events, the newest; 0 shows all that are kept")
	cmd.Flags().StringVar(&kind, "kind", "", "only events of one kind of maintenance")
	cmd.Flags().StringVar(&member, "member", "", "only events of one member, by name or ID")
	_ = cmd.RegisterFlagCompletionFunc("member", a.completeMembers)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r := &upkeeppb.HistoryRequest{Limit: limit}
		if kind != "" {
			var err error
			if r.Kind, err = maintenance.ParseKind(kind); err != nil {
				return fail(exitBadArgs, err)
			}
		}
		return a.maintainBy(cmd, func(ctx context.Context, c *maintenanceCall) error {
			var names []string
			if member != "" {
				names = []string{member}
			}
			ids, err := c.members(ctx, names)
			if err != nil {
				return err
			}
			if len(ids) > 0 {
				r.Member = ids[0]
			}
			events, err := c.History(ctx, r)
			if err != nil {
				return err
			}
			return c.out.History(events)
		})
	}
	return cmd
}
