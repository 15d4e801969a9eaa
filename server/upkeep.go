package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/backend"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/quota"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/server/maintenance"
	"github.com/upkeep-kv/upkeep/server/metrics"
	"github.com/upkeep-kv/upkeep/server/rpc"
)

// upkeep is what operators ask of this member.
type upkeep struct{ *Server }

func (u upkeep) Alarms() []*pb.AlarmMember {
	var out []*pb.AlarmMember
	for _, a := range u.alarms.List(pb.AlarmType_NONE) {
		out = append(out, &pb.AlarmMember{MemberID: a.Member, Alarm: a.Type})
	}
	return out
}

func (u upkeep) Status() *pb.StatusResponse {
	raft, sizes := u.node.Status(), u.backend.Sizes()
	quotaBytes := u.cfg.QuotaBackendBytes
	if quotaBytes == 0 {
		quotaBytes = quota.DefaultBytes
	}
	return &pb.StatusResponse{
		Version:          APIVersion,
		DbSize:           sizes.File,
		DbSizeInUse:      sizes.InUse,
		DbSizeQuota:      quotaBytes,
		Leader:           raft.Lead,
		RaftIndex:        raft.Commit,
		RaftTerm:         raft.Term,
		RaftAppliedIndex: raft.Applied,
		IsLearner:        u.learner.Load(),
		StorageVersion:   u.cluster.Version(),
		DowngradeInfo:    u.DowngradeInfo(),
	}
}

// Defragment waits for this member's turn: at most one member is under maintenance. Without a leader there is nobody to
// agree with, and it begins at once.
func (u upkeep) Defragment(ctx context.Context) (*pb.DefragmentResponse, error) {
	outcome, err := u.agent.Call(ctx, maintenance.Asked{
		Kind: schedulepb.Kind_DEFRAG, Reason: "asked for by a client", HasLeader: func() bool { return u.node.Lead() != 0 },
		Busy: fleet(u).busy,
	})
	if errors.Is(err, maintenance.ErrNoSchedule) {
		return u.defragment(ctx, func(string, int64, int64) {})
	}
	if err != nil {
		return nil, callError(err)
	}
	return &pb.DefragmentResponse{
		SizeBefore:        outcome.SizeBefore,
		SizeAfter:         outcome.SizeAfter,
		BytesCopied:       outcome.Bytes,
		LongestPauseNanos: outcome.LongestPause,
		DurationNanos:     outcome.Duration,
		HashKv:            outcome.Hash,
		HashRevision:      hashRevisionOf(outcome),
	}, nil
}

// callError gives what the schedule refuses a call with its place on the wire.
func callError(err error) error {
	switch {
	case errors.Is(err, maintenance.ErrStopping):
		return raftnode.ErrStopped
	case errors.Is(err, maintenance.ErrPaused):
		return status.Error(codes.Aborted, err.Error())
	}
	return err
}

// defragment is the work itself.
func (u upkeep) defragment(ctx context.Context, progress func(phase string, done, total int64)) (*pb.DefragmentResponse, error) {
	u.defragmenting.Add(1)
	defer u.defragmenting.Add(-1)
	u.logger.Info("starting defragmentation", u.logField(), zap.Int64("size-bytes", u.backend.Sizes().File))
	u.metrics.DefragStarted()
	shown := u.progress.start(jobDefrag, "copy", u.logger)
	defer shown.end()
	result, err := u.backend.Defrag(ctx, backend.DefragOptions{Progress: func(phase string, done, total int64) {
		u.metrics.DefragProgress(phase, done, total)
		shown.report(phase, done, total)
		progress(phase, done, total)
	}})
	u.metrics.DefragDone(metrics.Defrag{
		SizeBefore: result.SizeBefore, SizeAfter: result.SizeAfter,
		Took: result.Duration, LongestPause: result.LongestPause, Err: err,
	})
	if err != nil {
		u.logger.Warn("defragmentation failed", zap.Error(err))
		return nil, err
	}
	u.logger.Info("finished defragmenting directory", zap.String("dir", u.dir.snap),
		zap.Int64("size-bytes-before", result.SizeBefore), zap.Int64("size-bytes-after", result.SizeAfter),
		zap.Duration("longest-pause", result.LongestPause), zap.Duration("took", result.Duration))
	resp := &pb.DefragmentResponse{
		SizeBefore:        result.SizeBefore,
		SizeAfter:         result.SizeAfter,
		BytesCopied:       result.BytesCopied,
		LongestPauseNanos: int64(result.LongestPause),
		DurationNanos:     int64(result.Duration),
	}
	shown.report("hash", 0, 0)
	progress("hash", 0, 0)
	if h, err := u.store.ReadHashKV(ctx, 0); err != nil {
		u.logger.Warn("could not read the hash of the defragmented database", zap.Error(err))
	} else {
		resp.HashKv, resp.HashRevision = h.Hash, h.HashRevision
	}
	return resp, nil
}

func (u upkeep) Hash(ctx context.Context) (uint32, error) {
	defer u.progress.start(jobHash, "whole database", u.logger).end()
	start := time.Now()
	hash, err := u.backend.Hash(ctx)
	u.metrics.Hashed(time.Since(start))
	return hash, err
}

func (u upkeep) HashKV(ctx context.Context, rev int64) (*pb.HashKVResponse, error) {
	defer u.progress.start(jobHash, "history", u.logger).end()
	start := time.Now()
	h, err := u.store.HashKV(ctx, rev)
	u.metrics.HashedToRev(time.Since(start))
	if err != nil {
		return nil, err
	}
	return &pb.HashKVResponse{Hash: h.Hash, CompactRevision: h.CompactRevision, HashRevision: h.HashRevision}, nil
}

func (u upkeep) Snapshot(ctx context.Context, compact bool) (rpc.Snapshot, string, error) {
	shown := u.progress.start(jobSnapshot, "pin", u.logger)
	var image *backend.Snapshot
	var err error
	if compact {
		image, err = u.backend.CompactSnapshot(ctx, shown.report)
	} else {
		image, err = u.backend.Snapshot(ctx)
	}
	if err != nil {
		shown.end()
		return nil, "", err
	}
	return &savedSnapshot{
		Snapshot: image, ctx: ctx, start: time.Now(), shown: shown, done: u.metrics.SnapshotStreamed,
	}, u.cluster.Version(), nil
}

// savedSnapshot is written at the pace that requests allow, and reports how far it is and how long it was open.
type savedSnapshot struct {
	*backend.Snapshot
	ctx   context.Context // of the call
	start time.Time
	shown *progressEntry
	done  func(time.Duration)
}

func (s *savedSnapshot) WriteTo(w io.Writer) (int64, error) {
	sent := int64(0)
	return s.Snapshot.Stream(s.ctx, writerFunc(func(p []byte) (int, error) {
		n, err := w.Write(p)
		sent += int64(n)
		s.shown.report("send", sent, s.Size())
		return n, err
	}))
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (s *savedSnapshot) Close() error {
	s.shown.end()
	s.done(time.Since(s.start))
	return s.Snapshot.Close()
}

func (u upkeep) MoveLeader(ctx context.Context, target uint64) error {
	if !u.node.IsLeader() {
		return raftnode.ErrNotLeader
	}
	if m, ok := u.cluster.Member(target); !ok || m.IsLearner {
		return fmt.Errorf("%w: member %x", raftnode.ErrBadTransferee, target)
	}
	return u.node.TransferLeadership(ctx, target)
}

func (u upkeep) ClusterVersion() string { return u.cluster.Version() }

func (u upkeep) DowngradeInfo() *pb.DowngradeInfo {
	d := u.cluster.Downgrade()
	return &pb.DowngradeInfo{Enabled: d.Enabled, TargetVersion: d.TargetVersion}
}
