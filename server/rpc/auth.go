package rpc

import (
	"context"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/server/apply"
)

// authService serves users, roles and tokens. Whether the caller may do what it asks is decided by apply.
type authService struct {
	pb.UnimplementedAuthServer
	service
}

// Authenticate checks the password here, since that is slow on purpose, and not on every member while it applies. If users
// change in between, the check counts for nothing and is done again.
func (s *authService) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	if err := s.KV.LinearizableRead(ctx); err != nil {
		return nil, err
	}
	for {
		checked, err := s.Auth.CheckPassword(ctx, r.Name, r.Password)
		if err != nil {
			return nil, err
		}
		done, err := propose[apply.Authenticated](ctx, s.Proposer, &pb.InternalRaftRequest{
			Authenticate: &pb.InternalAuthenticateRequest{Name: r.Name, SimpleToken: s.Auth.TokenPart()},
		})
		if err != nil {
			return nil, err
		}
		if done.Identity.Revision != checked {
			continue
		}
		token, err := s.Auth.Sign(done.Token, done.Identity)
		if err != nil {
			return nil, err
		}
		return &pb.AuthenticateResponse{Header: s.Headers.Header(), Token: token}, nil
	}
}

func (s *authService) AuthEnable(ctx context.Context, r *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	return administer[pb.AuthEnableResponse](ctx, s, &pb.InternalRaftRequest{AuthEnable: r})
}

func (s *authService) AuthDisable(ctx context.Context, r *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	return administer[pb.AuthDisableResponse](ctx, s, &pb.InternalRaftRequest{AuthDisable: r})
}

func (s *authService) AuthStatus(ctx context.Context, r *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	return administer[pb.AuthStatusResponse](ctx, s, &pb.InternalRaftRequest{AuthStatus: r})
}

// UserAdd sends the hash of the password through the log. A hash that the client sends is of no account, as in etcd.
func (s *authService) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	if !r.Options.GetNoPassword() {
		hashed, err := s.hash(ctx, r.Password)
		if err != nil {
			return nil, err
		}
		r.HashedPassword = hashed
	}
	r.Password = ""
	return administer[pb.AuthUserAddResponse](ctx, s, &pb.InternalRaftRequest{AuthUserAdd: r})
}

// UserChangePassword takes a hash from the client where it sends no password, as in etcd.
func (s *authService) UserChangePassword(
	ctx context.Context, r *pb.AuthUserChangePasswordRequest,
) (*pb.AuthUserChangePasswordResponse, error) {
	if r.Password != "" {
		hashed, err := s.hash(ctx, r.Password)
		if err != nil {
			return nil, err
		}
		r.HashedPassword, r.Password = hashed, ""
	}
	return administer[pb.AuthUserChangePasswordResponse](ctx, s, &pb.InternalRaftRequest{AuthUserChangePassword: r})
}

// hash does the work only for those who may ask for it.
func (s *authService) hash(ctx context.Context, password string) (string, error) {
	if err := s.requireRoot(ctx); err != nil {
		return "", err
	}
	return s.Auth.Hash(ctx, password)
}

func (s *authService) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	return administer[pb.AuthUserGetResponse](ctx, s, &pb.InternalRaftRequest{AuthUserGet: r})
}

func (s *authService) UserList(ctx context.Context, r *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	return administer[pb.AuthUserListResponse](ctx, s, &pb.InternalRaftRequest{AuthUserList: r})
}

func (s *authService) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	return administer[pb.AuthUserDeleteResponse](ctx, s, &pb.InternalRaftRequest{AuthUserDelete: r})
}

func (s *authService) UserGrantRole(
	ctx context.Context, r *pb.AuthUserGrantRoleRequest,
) (*pb.AuthUserGrantRoleResponse, error) {
	return administer[pb.AuthUserGrantRoleResponse](ctx, s, &pb.InternalRaftRequest{AuthUserGrantRole: r})
}

func (s *authService) UserRevokeRole(
	ctx context.Context, r *pb.AuthUserRevokeRoleRequest,
) (*pb.AuthUserRevokeRoleResponse, error) {
	return administer[pb.AuthUserRevokeRoleResponse](ctx, s, &pb.InternalRaftRequest{AuthUserRevokeRole: r})
}

func (s *authService) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	return administer[pb.AuthRoleAddResponse](ctx, s, &pb.InternalRaftRequest{AuthRoleAdd: r})
}

func (s *authService) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	return administer[pb.AuthRoleGetResponse](ctx, s, &pb.InternalRaftRequest{AuthRoleGet: r})
}

func (s *authService) RoleList(ctx context.Context, r *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	return administer[pb.AuthRoleListResponse](ctx, s, &pb.InternalRaftRequest{AuthRoleList: r})
}

func (s *authService) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	return administer[pb.AuthRoleDeleteResponse](ctx, s, &pb.InternalRaftRequest{AuthRoleDelete: r})
}

func (s *authService) RoleGrantPermission(
	ctx context.Context, r *pb.AuthRoleGrantPermissionRequest,
) (*pb.AuthRoleGrantPermissionResponse, error) {
	return administer[pb.AuthRoleGrantPermissionResponse](ctx, s, &pb.InternalRaftRequest{AuthRoleGrantPermission: r})
}

func (s *authService) RoleRevokePermission(
	ctx context.Context, r *pb.AuthRoleRevokePermissionRequest,
) (*pb.AuthRoleRevokePermissionResponse, error) {
	return administer[pb.AuthRoleRevokePermissionResponse](ctx, s, &pb.InternalRaftRequest{AuthRoleRevokePermission: r})
}

// headed is an answer whose header apply has left empty.
type headed[T any] interface {
	*T
	GetHeader() *pb.ResponseHeader
}

// administer puts a command through the log and fills the header of its answer.
func administer[T any, P headed[T]](ctx context.Context, s *authService, r *pb.InternalRaftRequest) (P, error) {
	resp, err := propose[P](ctx, s.Proposer, r)
	if err != nil {
		return nil, err
	}
	from, to := s.Headers.Header(), resp.GetHeader()
	to.ClusterId, to.MemberId, to.Revision, to.RaftTerm = from.ClusterId, from.MemberId, from.Revision, from.RaftTerm
	return resp, nil
}
