package rpc

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/server/apply"
)

// Downgrade checks, starts and calls off the step down to the previous minor version. The answer's version is the
// cluster's from before, which changes soon after.
func (s *maintenanceService) Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	err := s.requireRoot(ctx)
	if err != nil {
		return nil, err
	}
	version := ""
	switch r.Action {
	case pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE:
		var target minorVersion
		if target, err = s.validateDowngrade(ctx, r.Version); err != nil {
			return nil, err
		}
		version = s.clusterVersion()
		if r.Action == pb.DowngradeRequest_ENABLE {
			job := &pb.DowngradeInfoSetRequest{Enabled: true, Ver: target.String() + ".0"}
			_, err = s.Proposer.Propose(ctx, &pb.InternalRaftRequest{DowngradeInfoSet: job})
		}
	case pb.DowngradeRequest_CANCEL:
		version = s.clusterVersion()
		// etcd agrees even where there is nothing to cancel.
		_, err = s.Proposer.Propose(ctx, &pb.InternalRaftRequest{DowngradeInfoSet: &pb.DowngradeInfoSetRequest{}})
	default:
		return nil, apply.ErrUnknownCommand
	}
	if err != nil {
		return nil, err
	}
	return &pb.DowngradeResponse{Header: s.Headers.Header(), Version: version}, nil
}

// clusterVersion is as clients see it, like "3.7"; empty where it is not known.
func (s *maintenanceService) clusterVersion() string {
	version, err := parseMinor(s.Maintenance.ClusterVersion())
	if err != nil {
		return ""
	}
	return version.String()
}

// validateDowngrade returns the version to step down to, or why it cannot be that one.
func (s *maintenanceService) validateDowngrade(ctx context.Context, target string) (minorVersion, error) {
	wanted, err := parseMinor(target)
	if err != nil {
		return wanted, ErrDowngradeFormat
	}
	if err := s.KV.LinearizableRead(ctx); err != nil {
		return wanted, err
	}
	cluster, err := parseMinor(s.Maintenance.ClusterVersion())
	if err != nil {
		return wanted, ErrDowngradeNoVersion
	}
	if wanted.major != cluster.major || wanted.minor+1 != cluster.minor {
		return wanted, ErrDowngradeTarget
	}
	if s.Maintenance.DowngradeInfo().Enabled {
		return wanted, ErrDowngradeInProgress
	}
	return wanted, nil
}

// minorVersion is as much of a version as a cluster agrees on.
type minorVersion struct{ major, minor uint64 }

func (v minorVersion) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

// parseMinor reads "X.Y" or "X.Y.Z", where Z may carry a pre-release ("-rc.1") or build ("+x") suffix.
func parseMinor(text string) (minorVersion, error) {
	var v minorVersion
	if i := strings.IndexAny(text, "-+"); i >= 0 {
		text = text[:i]
	}
	parts := strings.Split(text, ".")
	if len(parts) != 2 && len(parts) != 3 {
		return v, ErrDowngradeFormat
	}
	numbers := make([]uint64, len(parts))
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return v, ErrDowngradeFormat
		}
		numbers[i] = n
	}
	v.major, v.minor = numbers[0], numbers[1]
	return v, nil
}
