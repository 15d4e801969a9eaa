package command

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
)

func newUser(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "User related commands"}
	cmd.AddCommand(newUserAdd(a), newUserGet(a), newUserPasswd(a),
		newNamed(a, 0, "list", "Lists all users", "user list command requires no arguments",
			func(ctx context.Context, client *clientv3.Client, _ []string) (any, error) {
				resp, err := client.UserList(ctx)
				if err != nil {
					return nil, err
				}
				return printer.Answer{Text: printer.Lines(resp.Users), Response: (*pb.AuthUserListResponse)(resp), NoFields: true}, nil
			}),
		newNamed(a, 1, "delete <user name>", "Deletes a user", "user delete command requires user name as its argument",
			func(ctx context.Context, client *clientv3.Client, args []string) (any, error) {
				resp, err := client.UserDelete(ctx, args[0])
				return done((*pb.AuthUserDeleteResponse)(resp), err, "User %s deleted\n", args[0])
			}),
		newNamed(a, 2, "grant-role <user name> <role name>", "Grants a role to a user",
			"user grant command requires user name and role name as its argument",
			func(ctx context.Context, client *clientv3.Client, args []string) (any, error) {
				resp, err := client.UserGrantRole(ctx, args[0], args[1])
				return done((*pb.AuthUserGrantRoleResponse)(resp), err, "Role %s is granted to user %s\n", args[1], args[0])
			}),
		newNamed(a, 2, "revoke-role <user name> <role name>", "Revokes a role from a user",
			"user revoke-role requires user name and role name as its argument",
			func(ctx context.Context, client *clientv3.Client, args []string) (any, error) {
				resp, err := client.UserRevokeRole(ctx, args[0], args[1])
				return done((*pb.AuthUserRevokeRoleResponse)(resp), err, "Role %s is revoked from user %s\n", args[1], args[0])
			}))
	return cmd
}

// newNamed returns a command that takes exactly count names.
func newNamed(a *app, count int, use, short, usage string,
	ask func(ctx context.Context, client *clientv3.Client, args []string) (any, error),
) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) != count {
			return badArgs("%s", usage)
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) { return ask(ctx, client, args) })
	}}
}

// done is the answer to a change that says no more than that it was made.
func done(resp proto.Message, err error, format string, args ...any) (any, error) {
	if err != nil {
		return nil, err
	}
	return printer.Answer{Text: fmt.Sprintf(format, args...), Response: resp}, nil
}

func newUserAdd(a *app) *cobra.Command {
	var password string
	var interactive, none bool
	cmd := &cobra.Command{Use: "add <user name or user:password> [options]", Short: "Adds a user"}
	cmd.Flags().BoolVar(&interactive, "interactive", true, "ask for the password on the terminal; false: read a line from standard input")
	cmd.Flags().StringVar(&password, "new-user-password", "", "password of the user")
	cmd.Flags().BoolVar(&none, "no-password", false, "no password: the user can only show a client certificate")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return badArgs("user add command requires user name as its argument")
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
			name, given := args[0], password
			options := &clientv3.UserAddOptions{NoPassword: none}
			if !none && given == "" {
				var inName bool
				var err error
				name, given, inName = strings.Cut(name, ":")
				if inName && name == "" {
					return nil, badArgs("empty user name is not allowed")
				}
				if !inName {
					if given, err = a.newPassword(name, interactive); err != nil {
						return nil, err
					}
				}
			}
			resp, err := client.UserAddWithOptions(ctx, name, given, options)
			return done((*pb.AuthUserAddResponse)(resp), err, "User %s created\n", name)
		})
	}
	return cmd
}

func newUserPasswd(a *app) *cobra.Command {
	var interactive bool
	cmd := newNamed(a, 1, "passwd <user name> [options]", "Changes the password of a user",
		"user passwd command requires user name as its argument",
		func(ctx context.Context, client *clientv3.Client, args []string) (any, error) {
			password, err := a.newPassword(args[0], interactive)
			if err != nil {
				return nil, err
			}
			resp, err := client.UserChangePassword(ctx, args[0], password)
			return done((*pb.AuthUserChangePasswordResponse)(resp), err, "Password updated\n")
		})
	cmd.Flags().BoolVar(&interactive, "interactive", true, "ask for the password on the terminal; false: read a line from standard input")
	return cmd
}

// newPassword asks twice, so that nobody is locked out by a slip of the finger; or reads a line.
func (a *app) newPassword(user string, interactive bool) (string, error) {
	if !interactive {
		return a.secret("")
	}
	password, err := a.secret(fmt.Sprintf("Password of %s: ", user))
	if err != nil {
		return "", err
	}
	if password == "" {
		return "", fail(exitBadArgs, errors.New("empty password"))
	}
	again, err := a.secret(fmt.Sprintf("Type password of %s again for confirmation: ", user))
	if err == nil && again != password {
		err = fail(exitBadArgs, errors.New("given passwords are different"))
	}
	return password, err
}

func newUserGet(a *app) *cobra.Command {
	var detail bool
	cmd := &cobra.Command{Use: "get <user name> [options]", Short: "Shows the roles of a user"}
	cmd.Flags().BoolVar(&detail, "detail", false, "also show what each role permits")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return badArgs("user get command requires user name as its argument")
		}
		name := args[0]
		client, out, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer closeClient(client)
		ctx, cancel := a.timeout(cmd)
		defer cancel()
		resp, err := client.UserGet(ctx, name)
		if err != nil {
			return err
		}
		if !detail {
			text := fmt.Sprintf("User: %s\nRoles:", name)
			for _, role := range resp.Roles {
				text += " " + role
			}
			return out.Print(printer.Answer{Text: text + "\n", Response: (*pb.AuthUserGetResponse)(resp), NoFields: true})
		}
		fmt.Fprintf(a.out, "User: %s\n", name)
		for _, role := range resp.Roles {
			fmt.Fprintln(a.out)
			resp, err := client.RoleGet(ctx, role)
			if err != nil {
				return err
			}
			if err := out.Print(printer.Role{Name: role, Response: resp}); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}
