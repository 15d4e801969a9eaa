package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/mvcc/lease"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/quota"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/raftnode/snapfile"
	"github.com/upkeep-kv/upkeep/server/integrity"
	"github.com/upkeep-kv/upkeep/server/maintenance"
)

const (
	// retryInterval is how long a background proposal that failed waits.
	retryInterval = 500 * time.Millisecond
	// purgeInterval is how often superseded files are looked for. Source: etcd.
	purgeInterval = 30 * time.Second
)

// startLoops starts what the member does by itself. Each loop ends when stopping is closed and is joined by Close.
func (s *Server) startLoops() {
	ctx, cancel := context.WithCancel(context.Background())
	s.background.Go(func() { <-s.stopping; cancel() })
	for _, loop := range []func(context.Context){
		s.publish, s.followLeadership, s.followVersion, s.revokeExpired, s.checkpointLeases, s.raiseQuotaAlarm,
		s.purgeFiles, s.sampleRevisions, s.watchNode, s.watchBackend,
	} {
		s.background.Go(func() { loop(ctx) })
	}
	s.compactor = maintenance.StartCompactor(retention{s}, maintenance.Retention{
		Window: s.cfg.AutoCompaction.Period, Revisions: s.cfg.AutoCompaction.Revisions,
	}, s.logger)
	s.checker = integrity.StartChecker(histories{s}, s.integrityConfig())
}

// propose puts one command of the server's own through the log, with its own patience and in the name of root.
func (s *Server) propose(ctx context.Context, req *pb.InternalRaftRequest) error {
	if root := s.auth.Root(); root.Username != "" {
		req.Header = &pb.RequestHeader{Username: root.Username, AuthRevision: root.Revision}
	}
	_, err := proposer{s}.Propose(ctx, req)
	return err
}

// pause waits for d and tells whether the loop is to go on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// publish tells the cluster this member's name and client URLs, and then lets clients in.
func (s *Server) publish(ctx context.Context) {
	attributes := &pb.Attributes{Name: s.cfg.Name, ClientUrls: s.cfg.clientURLs()}
	for {
		err := s.propose(ctx, &pb.InternalRaftRequest{ClusterMemberAttrSet: &pb.ClusterMemberAttrSetRequest{
			Member_ID: s.id, MemberAttributes: attributes,
		}})
		if err == nil {
			break
		}
		s.logger.Warn("failed to publish local member to cluster through raft", zap.Error(err))
		if !pause(ctx, retryInterval) {
			return
		}
	}
	s.logger.Info("published local member to cluster through raft",
		zap.String("name", s.cfg.Name), zap.Strings("client-urls", attributes.ClientUrls))
	s.serveClients()
}

// followLeadership tells the lessor whether this member's clock counts.
func (s *Server) followLeadership(ctx context.Context) {
	leading := false
	for {
		changed := s.node.LeaderChanged()
		if now := s.node.IsLeader(); now != leading {
			leading = now
			if leading {
				s.lessor.Promote(s.cfg.ElectionTimeout)
			} else {
				s.lessor.Demote()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// maxRevokesInFlight bounds how many expired leases are in the log at once, so that they cannot crowd out clients.
const maxRevokesInFlight = 16

// revokeExpired puts the leases that have run out through the log. They are offered again if that fails.
func (s *Server) revokeExpired(ctx context.Context) {
	var inFlight sync.WaitGroup
	defer inFlight.Wait()
	slots := make(chan struct{}, maxRevokesInFlight)
	for {
		select {
		case <-ctx.Done():
			return
		case expired := <-s.lessor.Expired():
			for _, id := range expired {
				slots <- struct{}{}
				inFlight.Go(func() {
					defer func() { <-slots }()
					err := s.propose(ctx, &pb.InternalRaftRequest{LeaseRevoke: &pb.LeaseRevokeRequest{ID: id}})
					switch {
					case err == nil:
						s.metrics.LeaseExpired(1)
					case !errors.Is(err, lease.ErrNotFound) && ctx.Err() == nil:
						s.logger.Warn("failed to revoke an expired lease", zap.Int64("lease", id), zap.Error(err))
					}
				})
			}
		}
	}
}

// checkpointLeases replicates how much time long leases have left.
func (s *Server) checkpointLeases(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case due := <-s.lessor.DueCheckpoints():
			req := &pb.LeaseCheckpointRequest{}
			for _, c := range due {
				req.Checkpoints = append(req.Checkpoints, &pb.LeaseCheckpoint{ID: c.ID, Remaining_TTL: c.RemainingTTL})
			}
			if err := s.propose(ctx, &pb.InternalRaftRequest{LeaseCheckpoint: req}); err != nil && ctx.Err() == nil {
				s.logger.Warn("failed to checkpoint leases", zap.Int("leases", len(due)), zap.Error(err))
			}
		}
	}
}

// quotaAlarm gathers reasons to raise NOSPACE; the loop below raises it once.
type quotaAlarm struct {
	maxBytes int64         // negative for no quota
	due      chan struct{} // holds at most one
}

func newQuotaAlarm(maxBytes int64) *quotaAlarm {
	return &quotaAlarm{maxBytes: maxBytes, due: make(chan struct{}, 1)}
}

// grown is told that the database file has grown. A file that is too large but does not grow raises no alarm: it may
// have been disarmed a moment ago.
func (q *quotaAlarm) grown(fileBytes int64) {
	if q.maxBytes >= 0 && fileBytes >= q.maxBytes {
		q.trigger()
	}
}

func (q *quotaAlarm) trigger() {
	select {
	case q.due <- struct{}{}:
	default:
	}
}

// raiseQuotaAlarm raises NOSPACE for this member when admission has refused a request, or when the database grew past
// the quota all the same, since other members admitted what this one has no room for.
func (s *Server) raiseQuotaAlarm(ctx context.Context) {
	alarm := quota.Alarm{Member: s.id, Type: pb.AlarmType_NOSPACE}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.quotaAlarm.due:
		}
		if s.alarms.Raised(alarm) {
			continue
		}
		s.logger.Warn("message exceeded backend quota; raising alarm",
			zap.Int64("quota-size-bytes", s.limit.Bytes()), zap.Int64("size-bytes", s.backend.QuotaBytes()))
		err := s.propose(ctx, &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
			Action: pb.AlarmRequest_ACTIVATE, MemberID: s.id, Alarm: pb.AlarmType_NOSPACE,
		}})
		if err != nil && ctx.Err() == nil {
			s.logger.Warn("failed to raise the alarm, will try again", zap.Error(err))
			s.quotaAlarm.trigger()
			if !pause(ctx, retryInterval) {
				return
			}
		}
	}
}

// watchNode stops the server when its node has stopped by itself, as a removed member's does.
func (s *Server) watchNode(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.node.Done():
		switch err := s.node.Err(); {
		case errors.Is(err, raftnode.ErrRemoved):
			s.fail(s.removedError())
		case errors.As(err, new(*raftnode.FatalError)), errors.Is(err, raftnode.ErrLogLost):
			s.fail(fmt.Errorf("%w; %s", err, remedyDatabase))
		case err != nil:
			s.fail(err)
		}
	}
}

// watchBackend stops the server when its database cannot be written any more and trying again would not help.
func (s *Server) watchBackend(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.backend.Failed():
		s.fail(fmt.Errorf("the database %s cannot be written any more: %w; nothing acknowledged is lost, it is in the log "+
			"and will be applied at the next start", s.dir.db, s.backend.Err()))
	}
}

// retention is what auto compaction sees of the server.
type retention struct{ *Server }

func (r retention) IsLeader() bool                 { return r.node.IsLeader() }
func (r retention) LeaderChanged() <-chan struct{} { return r.node.LeaderChanged() }
func (r retention) Revision() int64                { return r.store.Revision() }
func (r retention) CompactRevision() int64         { return r.store.CompactRevision() }

func (r retention) RevisionBefore(t time.Time) (int64, time.Time, bool) { return r.timeline.Before(t) }
func (r retention) LastSample() time.Time                               { return r.timeline.Last() }

func (r retention) Sample(ctx context.Context, now, dropBefore time.Time) error {
	req := &pb.RetentionSampleRequest{TimeUnixNano: now.UnixNano()}
	if !dropBefore.IsZero() {
		req.DropBeforeUnixNano = dropBefore.UnixNano()
	}
	return r.propose(ctx, &pb.InternalRaftRequest{RetentionSample: req})
}

func (r retention) Compact(ctx context.Context, rev int64) error {
	err := r.propose(ctx, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: rev}})
	if errors.Is(err, mvcc.ErrCompacted) {
		return nil // somebody was faster
	}
	return err
}

// saveSnap writes the file that records how far the database holds the log. Called by the node, one at a time.
func (s *Server) saveSnap(index, term uint64, confState *raftpb.ConfState) error {
	start := time.Now()
	err := s.writeSnap(index, term, confState, s.cluster.Version())
	s.metrics.RaftSnapshotSaved(time.Since(start))
	return err
}

func (s *Server) writeSnap(index, term uint64, confState *raftpb.ConfState, version string) error {
	snap := &snapfile.Snapshot{
		Term: term, Index: index, ConfState: confState, Removed: s.cluster.Removed(), Version: version,
	}
	for _, m := range s.cluster.Members() {
		snap.Members = append(snap.Members, snapfile.Member{
			ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.IsLearner,
		})
	}
	_, err := snapfile.Write(s.disk.fs(), s.dir.snap, snap)
	return err
}

// purgeFiles removes raft snapshot files beyond --max-snapshots.
func (s *Server) purgeFiles(ctx context.Context) {
	for pause(ctx, purgeInterval) {
		select {
		case <-s.ready: // all that was in the log at the start is applied
			s.dropStaged("", stagedFor)
		default:
		}
		if s.cfg.MaxSnapshots == 0 {
			continue
		}
		if _, err := snapfile.Purge(s.disk.fs(), s.dir.snap, int(s.cfg.MaxSnapshots)); err != nil {
			s.logger.Warn("failed to remove old snapshot files", zap.Error(err))
		}
	}
}
