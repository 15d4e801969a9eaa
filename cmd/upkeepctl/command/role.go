package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
)

func newRole(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "role", Short: "Role related commands"}
	cmd.AddCommand(newRoleGrant(a), newRoleRevoke(a),
		newNamed(a, 1, "add <role name>", "Adds a role", "role add command requires role name as its argument",
			func(ctx context.Context, client *clientv3.Client, args []string) (any, error) {
				resp, err := client.RoleAdd(ctx, args[0])
				return done((*pb.AuthRoleAddResponse)(resp), err, "Role %s created\n", args[0])
			}),
		newNamed(a, 1, "delete <role name>", "Deletes a role", "role delete command requires role name as its argument",
			func(ctx context.Context, client *clientv3.Client, args []string) (any, error) {
				resp, err := client.RoleDelete(ctx, args[0])
				return done((*pb.AuthRoleDeleteResponse)(resp), err, "Role %s deleted\n", args[0])
			}),
		newNamed(a, 1, "get <role name>", "Shows what a role permits", "role get command requires role name as its argument",
			func(ctx context.Context, client *clientv3.Client, args []string) (any, error) {
				resp, err := client.RoleGet(ctx, args[0])
				if err != nil {
					return nil, err
				}
				return printer.Role{Name: args[0], Response: resp}, nil
			}),
		newNamed(a, 0, "list", "Lists all roles", "role list command requires no arguments",
			func(ctx context.Context, client *clientv3.Client, _ []string) (any, error) {
				resp, err := client.RoleList(ctx)
				if err != nil {
					return nil, err
				}
				return printer.RoleList{Response: resp}, nil
			}))
	return cmd
}

// keyRange is what a permission is about.
type keyRange struct{ prefix, fromKey bool }

// of returns the keys [key, end) that the arguments mean.
func (r keyRange) of(args []string) (key, end string, err error) {
	if key = args[0]; key == "" {
		key = "\x00" // the lowest key
	}
	switch {
	case r.prefix && r.fromKey:
		return "", "", badArgs("--from-key and --prefix flags are mutually exclusive")
	case (r.prefix || r.fromKey) && len(args) > 1:
		flag := "--prefix"
		if r.fromKey {
			flag = "--from-key"
		}
		return "", "", badArgs("unexpected endkey argument with %s flag", flag)
	case r.prefix && args[0] != "":
		return key, clientv3.GetPrefixRangeEnd(key), nil
	case r.prefix || r.fromKey:
		return key, "\x00", nil
	case len(args) > 1: // what comes after it is ignored, as by etcdctl
		return key, args[1], nil
	}
	return key, "", nil
}

func newRoleGrant(a *app) *cobra.Command {
	var keys keyRange
	cmd := &cobra.Command{
		Use:   "grant-permission [options] <role name> <permission type> <key> [endkey]",
		Short: "Permits a role to read, write or readwrite keys",
	}
	cmd.Flags().BoolVar(&keys.prefix, "prefix", false, "all keys with this prefix")
	cmd.Flags().BoolVar(&keys.fromKey, "from-key", false, "all keys from this one on, in byte order")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) < 3 {
			return badArgs("role grant command requires role name, permission type, and key [endkey] as its argument")
		}
		kind, known := authpb.Permission_Type_value[strings.ToUpper(args[1])]
		if !known {
			return badArgs("invalid permission type: %s", args[1])
		}
		key, end, err := keys.of(args[2:])
		if err != nil {
			return err
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
			resp, err := client.RoleGrantPermission(ctx, args[0], key, end, clientv3.PermissionType(kind))
			return done((*pb.AuthRoleGrantPermissionResponse)(resp), err, "Role %s updated\n", args[0])
		})
	}
	return cmd
}

func newRoleRevoke(a *app) *cobra.Command {
	var keys keyRange
	cmd := &cobra.Command{Use: "revoke-permission <role name> <key> [endkey]", Short: "Takes a permission from a role"}
	cmd.Flags().BoolVar(&keys.prefix, "prefix", false, "all keys with this prefix")
	cmd.Flags().BoolVar(&keys.fromKey, "from-key", false, "all keys from this one on, in byte order")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) < 2 {
			return badArgs("role revoke-permission command requires role name and key [endkey] as its argument")
		}
		key, end, err := keys.of(args[1:])
		if err != nil {
			return err
		}
		what := fmt.Sprintf("range [%s, %s)", args[1], end)
		switch end {
		case "":
			what = "key " + args[1]
		case "\x00":
			what = fmt.Sprintf("range [%s, <open ended>", args[1])
		}
		return a.call(cmd, func(ctx context.Context, client *clientv3.Client) (any, error) {
			resp, err := client.RoleRevokePermission(ctx, args[0], key, end)
			return done((*pb.AuthRoleRevokePermissionResponse)(resp), err, "Permission of %s is revoked from role %s\n", what, args[0])
		})
	}
	return cmd
}
