package command

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
)

func newMember(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "member", Short: "Membership related commands"}
	cmd.AddCommand(newMemberAdd(a), newMemberUpdate(a), newMemberList(a),
		newMemberCommand(a, "remove <memberID>", "Removes a member from the cluster",
			func(ctx context.Context, client *clientv3.Client, id uint64) (any, error) {
				resp, err := client.MemberRemove(ctx, id)
				return printer.MemberRemoved{ID: id, Response: resp}, err
			}),
		newMemberCommand(a, "promote <memberID>", "Makes a learner a voting member",
			func(ctx context.Context, client *clientv3.Client, id uint64) (any, error) {
				resp, err := client.MemberPromote(ctx, id)
				return printer.MemberPromoted{ID: id, Response: resp}, err
			}))
	return cmd
}

func newMemberAdd(a *app) *cobra.Command {
	var peerURLs string
	var learner bool
	cmd := &cobra.Command{Use: "add <memberName> [options]", Short: "Adds a member to the cluster"}
	cmd.Flags().StringVar(&peerURLs, "peer-urls", "", "comma separated peer URLs of the new member")
	cmd.Flags().BoolVar(&learner, "learner", false, "add the member as a learner, which does not vote")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < 1:
			return badArgs("member name not provided")
		case len(args) > 1:
			return badArgs("too many arguments")
		case peerURLs == "":
			return badArgs("member peer urls not provided")
		}
		urls := strings.Split(peerURLs, ",")
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
			add := client.MemberAdd
			if learner {
				add = client.MemberAddAsLearner
			}
			resp, err := add(ctx, urls)
			return printer.MemberAdded{Name: args[0], Response: resp}, err
		})
	}
	return cmd
}

func newMemberUpdate(a *app) *cobra.Command {
	var peerURLs string
	cmd := newMemberCommand(a, "update <memberID> [options]", "Changes a member's peer URLs",
		func(ctx context.Context, client *clientv3.Client, id uint64) (any, error) {
			resp, err := client.MemberUpdate(ctx, id, strings.Split(peerURLs, ","))
			return printer.MemberUpdated{ID: id, Response: resp}, err
		})
	cmd.Flags().StringVar(&peerURLs, "peer-urls", "", "comma separated new peer URLs of the member")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 && peerURLs == "" {
			if _, err := parseMemberID(args[0]); err != nil {
				return err
			}
			return badArgs("member peer urls not provided")
		}
		return run(cmd, args)
	}
	return cmd
}

// newMemberCommand returns a command that does one thing to one member.
func newMemberCommand(
	a *app, use, short string, do func(context.Context, *clientv3.Client, uint64) (any, error),
) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return badArgs("member ID is not provided")
		}
		id, err := parseMemberID(args[0])
		if err != nil {
			return err
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) { return do(ctx, client, id) })
	}
	return cmd
}

func parseMemberID(arg string) (uint64, error) {
	id, err := strconv.ParseUint(arg, 16, 64)
	if err != nil {
		return 0, badArgs("bad member ID arg (%v), expecting ID in Hex", err)
	}
	return id, nil
}

func newMemberList(a *app) *cobra.Command {
	var consistency string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists all members of the cluster",
		Long: `Lists all members of the cluster. In the simple output format the items of a
line are ID, Status, Name, Peer Addrs, Client Addrs, Is Learner.`,
	}
	cmd.Flags().StringVar(&consistency, "consistency", "l", "linearizable (l) or serializable (s)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		serializable, err := isSerializable(consistency)
		if err != nil {
			return err
		}
		var opts []clientv3.OpOption
		if serializable {
			opts = append(opts, clientv3.WithSerializable())
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
			return client.MemberList(ctx, opts...)
		})
	}
	return cmd
}

func newMoveLeader(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "move-leader <transferee-member-id>", Short: "Hands leadership to another member"}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return badArgs("move-leader command needs 1 argument")
		}
		target, err := strconv.ParseUint(args[0], 16, 64)
		if err != nil {
			return fail(exitBadArgs, err)
		}
		client, out, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer closeClient(client)
		ctx, cancel := a.timeout(cmd)
		defer cancel()
		leader, id, err := a.leaderAmong(ctx, cmd, client.Endpoints())
		if err != nil {
			return err
		}
		defer closeClient(leader)
		resp, err := leader.MoveLeader(ctx, target)
		if err != nil {
			return err
		}
		return out.Print(printer.LeaderMoved{From: id, To: target, Response: resp})
	}
	return cmd
}

// leaderAmong returns a client of the endpoint that leads: only the leader
// can hand leadership over.
func (a *app) leaderAmong(ctx context.Context, cmd *cobra.Command, endpoints []string) (*clientv3.Client, uint64, error) {
	var unreachable error
	for _, endpoint := range endpoints {
		client, err := a.clientFor(cmd, []string{endpoint})
		if err != nil {
			return nil, 0, err
		}
		status, err := client.Status(ctx, endpoint)
		if err == nil && status.Header.GetMemberId() == status.Leader {
			return client, status.Leader, nil
		}
		closeClient(client)
		unreachable = errors.Join(unreachable, err)
	}
	if unreachable != nil {
		return nil, 0, unreachable
	}
	return nil, 0, fail(exitBadArgs, fmt.Errorf("no leader endpoint given at %v", endpoints))
}
