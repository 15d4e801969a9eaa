package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/server/apply"
	"github.com/upkeep-kv/upkeep/server/integrity"
	"github.com/upkeep-kv/upkeep/server/maintenance"
	"github.com/upkeep-kv/upkeep/snapshot"
)

const (
	// restoreOutcome is how long a command is looked for whose result did not come in time, restoreLook how often.
	restoreOutcome = 2 * time.Minute
	restoreLook    = 200 * time.Millisecond
)

// reportFunc is told how far something is; total is 0 where that is not known.
type reportFunc = func(phase string, done, total int64)

// RestoreOnlineOptions of RestoreOnline.
type RestoreOnlineOptions struct {
	// Snapshot is the path of a snapshot file; "" restores an older revision of the live history.
	Snapshot string
	// Confirm is the snapshot's hash, as `snapshot status` shows it, or the SHA-256 with which the file ends. For the live
	// history it is the HashKV at ToRevision, and may be left out.
	Confirm string
	// ToRevision restores the keys as they were then; 0 means the snapshot's newest revision.
	ToRevision int64
	// Report is told how far it is, by one goroutine at a time; may be nil.
	Report func(phase string, done, total int64)
}

// String is how events name it.
func (o *RestoreOnlineOptions) String() string {
	what := fmt.Sprintf("its own revision %d", o.ToRevision)
	if o.Snapshot != "" {
		what = "the snapshot with hash " + o.Confirm
		if o.ToRevision > 0 {
			what += fmt.Sprintf(", up to revision %d", o.ToRevision)
		}
	}
	return "asked for by a client: the cluster goes back to " + what
}

// RestoreOnlineResult says what was done.
type RestoreOnlineResult struct {
	// Revision is the cluster's now, Restored the one that its keys are of, Before the cluster's before it.
	Revision, Restored, Before int64
	// SafetySnapshot is where, on this member, the state from before is.
	SafetySnapshot string
	// Pause is how long requests to this member waited.
	Pause time.Duration
	// Hash is the HashKV that all Members have now.
	Hash       uint32
	Members    int
	LostLeases int
}

func refuseRestore(format string, args ...any) error {
	return status.Errorf(codes.FailedPrecondition, "nothing was restored: "+format, args...)
}

// RestoreOnline takes the whole live cluster back to a snapshot, or to a revision that it still holds. It is a task of the
// schedule: it waits for its turn as long as ctx lets it, and nothing else begins while it runs.
func (s *Server) RestoreOnline(ctx context.Context, o RestoreOnlineOptions) (result RestoreOnlineResult, err error) {
	if !s.restoring.TryLock() {
		return result, refuseRestore("another restore is under way on this member")
	}
	defer s.restoring.Unlock()
	if o.Report == nil {
		o.Report = func(string, int64, int64) {}
	}
	if err := s.checkRestore(ctx, o); err != nil {
		return result, err
	}
	var refused error
	_, err = s.agent.Call(ctx, maintenance.Asked{
		Kind: schedulepb.Kind_RESTORE, Reason: o.String(), HasLeader: func() bool { return s.node.Lead() != 0 },
		Busy: fleet{s}.busy,
		Waiting: func(open *schedulepb.Task) {
			o.Report(fmt.Sprintf("wait: task %d, %s, is open", open.Sequence, maintenance.KindName(open.Kind)), 0, 0)
		},
		Work: maintenance.WorkerFunc(func(ctx context.Context, _ *schedulepb.Task, report func(string, int64, int64)) (*schedulepb.Outcome, error) {
			told := o.Report
			o.Report = func(phase string, done, total int64) {
				told(phase, done, total)
				report(phase, done, total)
			}
			if result, err = s.restoreOnline(ctx, o); err != nil {
				if ctx.Err() == nil {
					refused = err
				}
				return nil, errors.New(status.Convert(err).Message())
			}
			return restoreOutcomeOf(result), nil
		}),
	})
	switch {
	case errors.Is(err, maintenance.ErrNoSchedule):
		return result, refuseRestore("there is no leader; a majority of the members must run")
	case refused != nil:
		return result, refused
	case err != nil:
		return result, callError(err)
	}
	return result, nil
}

// restoreOutcomeOf is what the history of maintenance tells.
func restoreOutcomeOf(r RestoreOnlineResult) *schedulepb.Outcome {
	out := &schedulepb.Outcome{
		Message: fmt.Sprintf("all %d members are back at revision %d, were at %d and go on from %d; the state from before is in %s",
			r.Members, r.Restored, r.Before, r.Revision, r.SafetySnapshot),
		LongestPause: int64(r.Pause), Hash: r.Hash,
	}
	for name, value := range map[string]int64{"restored-revision": r.Restored, "revision-before": r.Before, "revision": r.Revision} {
		out.Details = append(out.Details, &schedulepb.Parameter{Name: name, Value: strconv.FormatInt(value, 10)})
	}
	out.Details = append(out.Details, &schedulepb.Parameter{Name: "safety-snapshot", Value: r.SafetySnapshot})
	slices.SortFunc(out.Details, func(a, b *schedulepb.Parameter) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// checkRestore refuses what cannot be done, before anybody has to wait for it.
func (s *Server) checkRestore(ctx context.Context, o RestoreOnlineOptions) error {
	if o.Snapshot == "" && o.ToRevision <= 0 {
		return status.Error(codes.InvalidArgument, "name a snapshot or a revision to restore")
	}
	if _, err := s.allWell(ctx); err != nil {
		return err
	}
	o.Report("verify", 0, 0)
	if o.Snapshot != "" {
		return confirmSnapshot(ctx, o.Snapshot, o.Confirm)
	}
	return s.confirmLive(ctx, o)
}

// restoreOnline is the work itself.
func (s *Server) restoreOnline(ctx context.Context, o RestoreOnlineOptions) (result RestoreOnlineResult, err error) {
	members, err := s.allWell(ctx)
	if err != nil {
		return result, err
	}
	if result.SafetySnapshot, err = s.saveSafety(ctx, o.Report); err != nil {
		return result, err
	}
	source := o.Snapshot
	if source == "" {
		source = result.SafetySnapshot
	}
	o.Report("prepare", 0, 0)
	prepared, err := s.prepareRestore(ctx, source, o.ToRevision)
	if err != nil {
		return result, err
	}
	result.Restored, result.LostLeases, result.Members = prepared.Restored, prepared.LostLeases, len(members)
	if err := s.stageEverywhere(ctx, members, prepared, o.Report); err != nil {
		s.giveUpStaged(members, prepared.SHA256)
		return result, err
	}
	if ctx.Err() != nil {
		s.giveUpStaged(members, prepared.SHA256)
		return result, context.Cause(ctx)
	}
	s.logger.Warn("restoring a snapshot on the live cluster", zap.Int64("restored-revision", prepared.Restored),
		zap.String("safety-snapshot", result.SafetySnapshot), zap.Int("members", len(members)))
	// From here on it is not in this member's hands any more, whoever gives up waiting for it.
	ctx, done := s.untilStopping(ctx)
	defer done()
	o.Report("commit", 0, 0)
	result.Before = s.store.Revision()
	if result.Revision, err = s.commitRestore(ctx, members, prepared); err != nil {
		return result, err
	}
	result.Pause = time.Duration(s.restorePause.Load())
	o.Report("compare", 0, 0)
	v, err := integrity.Compare(ctx, histories{s})
	if err != nil || !v.Equal() {
		return result, fmt.Errorf("restored at revision %d, but the members could not be found equal afterwards: %s: %w",
			result.Revision, v.Detail(), errors.Join(err, integrity.ErrNotComparable))
	}
	_, result.Hash = checkedHash(v)
	return result, nil
}

// untilStopping outlives ctx, but not this member.
func (s *Server) untilStopping(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.background.Go(func() {
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, cancel
}

// allWell returns the IDs of all members, in order, if every one of them answers.
func (s *Server) allWell(ctx context.Context) ([]uint64, error) {
	if err := s.node.LinearizableRead(ctx); err != nil {
		return nil, err
	}
	var ids []uint64
	for _, m := range s.cluster.Members() {
		if m.ID != s.id {
			if err := s.reach(ctx, m.ID); err != nil {
				return nil, refuseRestore("member %s (%s) does not answer, and every member must be given the snapshot: %s",
					hexID(m.ID), m.Name, status.Convert(err).Message())
			}
		}
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	return ids, nil
}

// confirmSnapshot refuses a file that is not the one meant.
func confirmSnapshot(ctx context.Context, path, confirm string) error {
	if err := snapshot.Verify(ctx, path); err != nil {
		return refuseRestore("the snapshot cannot be used: %s", err)
	}
	trailer, err := snapshot.Trailer(path)
	if err != nil {
		return err
	}
	info, err := snapshot.Status(ctx, path, snapshot.FileOptions{})
	if err != nil {
		return refuseRestore("the snapshot cannot be used: %s", err)
	}
	short := fmt.Sprintf("%x", info.Hash)
	switch strings.ToLower(confirm) {
	case trailer, short:
		return nil
	case "":
		return refuseRestore("confirm it with the snapshot's hash, %s (as `snapshot status` shows it)", short)
	}
	return refuseRestore("the hash given is %s, that of the snapshot is %s", confirm, short)
}

// confirmLive refuses a revision that the history does not hold, or that is not the one meant.
func (s *Server) confirmLive(ctx context.Context, o RestoreOnlineOptions) error {
	h, err := s.store.HashKV(ctx, o.ToRevision)
	if err != nil {
		return refuseRestore("the history does not hold revision %d: it begins at %d and ends at %d", o.ToRevision,
			max(s.store.CompactRevision(), 1), s.store.Revision())
	}
	if sum := fmt.Sprintf("%x", h.Hash); o.Confirm != "" && !strings.EqualFold(o.Confirm, sum) {
		return refuseRestore("the hash given is %s, that of the history up to revision %d is %s", o.Confirm, o.ToRevision, sum)
	}
	return nil
}

// saveSafety saves the live state beside the data of this member, so that there is a way back.
func (s *Server) saveSafety(ctx context.Context, report reportFunc) (string, error) {
	report("safety snapshot", 0, 0)
	dir := filepath.Join(s.dir.root, "safety")
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return "", err
	}
	size := s.backend.Sizes().File
	if free, err := s.disk.freeBytes(dir); err == nil && free >= 0 && free < 3*size {
		return "", refuseRestore("%s has room for %d bytes, and a safety snapshot, the staged snapshot and the database need about %d",
			dir, free, 3*size)
	}
	image, err := s.backend.Snapshot(ctx)
	if err != nil {
		return "", err
	}
	defer image.Close()
	path := filepath.Join(dir, fmt.Sprintf("before-restore-%s-revision-%d.db", time.Now().UTC().Format("20060102T150405Z"), s.store.Revision()))
	if _, err = snapshot.SaveImage(ctx, image, path, snapshot.SaveOptions{
		Progress: func(done, total int64) { report("safety snapshot", done, total) },
	}); err != nil {
		return "", refuseRestore("the safety snapshot could not be saved: %s", err)
	}
	return path, nil
}

// commitRestore puts the command through the log. Its own timeout says nothing: the swap may take longer than that.
func (s *Server) commitRestore(ctx context.Context, members []uint64, prepared snapshot.Online) (int64, error) {
	value, err := proposer{s}.Propose(ctx, &pb.InternalRaftRequest{OnlineRestore: &pb.OnlineRestoreRequest{
		Sha256: prepared.SHA256, NewestRevision: prepared.Newest, Members: members,
	}})
	if restored, ok := value.(apply.RestoreResult); ok && err == nil {
		return restored.Revision, nil
	}
	if errors.Is(err, apply.ErrRestoreMembers) || errors.Is(err, raftnode.ErrLeaderChanged) || errors.Is(err, raftnode.ErrTooManyRequests) {
		s.giveUpStaged(members, prepared.SHA256)
		return 0, refuseRestore("%s", err)
	}
	for end := time.Now().Add(restoreOutcome); time.Now().Before(end) && pause(ctx, restoreLook); {
		// The file is taken by rename when the command is applied, by this member like by all others.
		if _, gone := os.Stat(s.dir.staged(prepared.SHA256)); errors.Is(gone, os.ErrNotExist) && s.node.LinearizableRead(ctx) == nil {
			return s.store.CompactRevision(), nil
		}
	}
	return 0, fmt.Errorf("it is not known whether the restore was done: %w; compare the cluster's revision with what it was, the "+
		"safety snapshot is there in any case", err)
}
