package server

import (
	"context"
	"strings"
	"time"

	"go.uber.org/zap"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// followVersion keeps, as leader, the cluster's version where it belongs: at ours, or, while a downgrade is enabled, at its
// target. The storage version follows when that is applied. All members run this program, so none of them is what the
// cluster is downgraded to, and only a client ends a downgrade.
func (s *Server) followVersion(ctx context.Context) {
	told := "" // the target that the log said the member is ready for
	for {
		leaderChanged := s.node.LeaderChanged()
		version, job := s.cluster.Version(), s.cluster.Downgrade()
		want := wantedVersion(version, job.Enabled, job.TargetVersion)
		if s.node.IsLeader() && version != want {
			if err := s.propose(ctx, &pb.InternalRaftRequest{
				ClusterVersionSet: &pb.ClusterVersionSetRequest{Ver: want},
			}); err != nil {
				s.logger.Warn("failed to set the cluster version", zap.String("from", version), zap.String("to", want), zap.Error(err))
				if !pause(ctx, retryInterval) {
					return
				}
			}
			continue
		}
		var check <-chan time.Time
		switch {
		case !job.Enabled:
			told = ""
		case told != job.TargetVersion && s.cfg.DowngradeCheckTime > 0:
			check = time.After(s.cfg.DowngradeCheckTime)
		}
		select {
		case <-ctx.Done():
			return
		case <-leaderChanged:
		case <-s.versionChanged:
		case <-check:
			if version == job.TargetVersion && s.cluster.Version() == version {
				s.logger.Info("The server is ready to downgrade", zap.String("target-version", version),
					zap.String("server-version", APIVersion))
				told = version
			}
		}
	}
}

// wantedVersion is what a cluster of this program should be at. A version that is newer than ours stays: only a program
// that knows it may lower it.
func wantedVersion(version string, downgrading bool, target string) string {
	switch {
	case downgrading && olderVersion(target, version):
		return target
	case !downgrading && olderVersion(version, ClusterVersion):
		return ClusterVersion
	}
	return version
}

// olderVersion compares "3.6.0" with "3.7.0"; the empty version is the oldest.
func olderVersion(a, b string) bool {
	pad := func(v string) string {
		parts := strings.Split(v, ".")
		for i, p := range parts {
			parts[i] = strings.Repeat("0", max(0, 6-len(p))) + p
		}
		return strings.Join(parts, ".")
	}
	return a == "" || pad(a) < pad(b)
}
