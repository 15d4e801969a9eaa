package apply

import (
	"github.com/upkeep-kv/upkeep/backend"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// administer is the switch over what changes or lists users and roles. All of it travels through the log, the questions
// too, so that answers are linearizable. Headers of answers are for the caller to fill.
func (m *Machine) administer(batch *backend.Batch, index uint64, r *pb.InternalRaftRequest) (any, error) {
	empty := &pb.ResponseHeader{}
	switch {
	case r.Authenticate != nil:
		token, revision, err := m.Auth.Authenticated(index, r.Authenticate.Name, r.Authenticate.SimpleToken)
		if err != nil {
			return nil, err
		}
		answer := Authenticated{Token: token}
		answer.Identity.Username, answer.Identity.Revision = r.Authenticate.Name, revision
		return answer, nil
	case r.AuthEnable != nil:
		return &pb.AuthEnableResponse{Header: empty}, m.Auth.Enable(batch)
	case r.AuthDisable != nil:
		m.Auth.Disable(batch)
		return &pb.AuthDisableResponse{Header: empty}, nil
	case r.AuthStatus != nil:
		enabled, revision := m.Auth.Status()
		return &pb.AuthStatusResponse{Header: empty, Enabled: enabled, AuthRevision: revision}, nil
	case r.AuthUserAdd != nil:
		return &pb.AuthUserAddResponse{Header: empty}, m.Auth.UserAdd(batch, r.AuthUserAdd)
	case r.AuthUserDelete != nil:
		return &pb.AuthUserDeleteResponse{Header: empty}, m.Auth.UserDelete(batch, r.AuthUserDelete.Name)
	case r.AuthUserChangePassword != nil:
		return &pb.AuthUserChangePasswordResponse{Header: empty}, m.Auth.UserChangePassword(batch, r.AuthUserChangePassword)
	case r.AuthUserGrantRole != nil:
		err := m.Auth.UserGrantRole(batch, r.AuthUserGrantRole.User, r.AuthUserGrantRole.Role)
		return &pb.AuthUserGrantRoleResponse{Header: empty}, err
	case r.AuthUserRevokeRole != nil:
		err := m.Auth.UserRevokeRole(batch, r.AuthUserRevokeRole.Name, r.AuthUserRevokeRole.Role)
		return &pb.AuthUserRevokeRoleResponse{Header: empty}, err
	case r.AuthUserGet != nil:
		roles, err := m.Auth.UserGet(identity(r), r.AuthUserGet.Name)
		return &pb.AuthUserGetResponse{Header: empty, Roles: roles}, err
	case r.AuthUserList != nil:
		return &pb.AuthUserListResponse{Header: empty, Users: m.Auth.UserList()}, nil
	case r.AuthRoleAdd != nil:
		return &pb.AuthRoleAddResponse{Header: empty}, m.Auth.RoleAdd(batch, r.AuthRoleAdd.Name)
	case r.AuthRoleDelete != nil:
		return &pb.AuthRoleDeleteResponse{Header: empty}, m.Auth.RoleDelete(batch, r.AuthRoleDelete.Role)
	case r.AuthRoleGrantPermission != nil:
		err := m.Auth.RoleGrantPermission(batch, r.AuthRoleGrantPermission.Name, r.AuthRoleGrantPermission.Perm)
		return &pb.AuthRoleGrantPermissionResponse{Header: empty}, err
	case r.AuthRoleRevokePermission != nil:
		return &pb.AuthRoleRevokePermissionResponse{Header: empty}, m.Auth.RoleRevokePermission(batch, r.AuthRoleRevokePermission)
	case r.AuthRoleGet != nil:
		permissions, err := m.Auth.RoleGet(identity(r), r.AuthRoleGet.Role)
		return &pb.AuthRoleGetResponse{Header: empty, Perm: permissions}, err
	case r.AuthRoleList != nil:
		return &pb.AuthRoleListResponse{Header: empty, Roles: m.Auth.RoleList()}, nil
	}
	return nil, ErrUnknownCommand
}
