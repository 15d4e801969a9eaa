package rpc

import (
	"context"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/raftnode/identity"
	"github.com/upkeep-kv/upkeep/server/member"
)

// clusterService serves the membership. Headers of its answers carry no revision: members are not in the store.
type clusterService struct {
	pb.UnimplementedClusterServer
	service
}

func (s *clusterService) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	urls, err := identity.ParseURLs(r.PeerURLs)
	if err != nil {
		return nil, member.ErrInvalidURLs
	}
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	added, members, err := s.Cluster.Add(ctx, urls, r.IsLearner)
	if err != nil {
		return nil, err
	}
	return &pb.MemberAddResponse{Header: s.memberHeader(), Member: added, Members: members}, nil
}

func (s *clusterService) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	members, err := s.Cluster.Remove(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &pb.MemberRemoveResponse{Header: s.memberHeader(), Members: members}, nil
}

// MemberUpdate takes the URLs as they stand: etcd does not check them here.
func (s *clusterService) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	members, err := s.Cluster.Update(ctx, r.ID, r.PeerURLs)
	if err != nil {
		return nil, err
	}
	return &pb.MemberUpdateResponse{Header: s.memberHeader(), Members: members}, nil
}

func (s *clusterService) MemberPromote(
	ctx context.Context, r *pb.MemberPromoteRequest,
) (*pb.MemberPromoteResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	members, err := s.Cluster.Promote(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &pb.MemberPromoteResponse{Header: s.memberHeader(), Members: members}, nil
}

func (s *clusterService) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if err := s.requireUser(ctx); err != nil {
		return nil, err
	}
	if r.Linearizable {
		if err := s.KV.LinearizableRead(ctx); err != nil {
			return nil, err
		}
	}
	return &pb.MemberListResponse{Header: s.memberHeader(), Members: s.Cluster.Members()}, nil
}

func (s *clusterService) memberHeader() *pb.ResponseHeader {
	h := s.Headers.Header()
	h.Revision = 0
	return h
}
