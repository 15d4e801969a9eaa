package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/server/apply"
	"github.com/upkeep-kv/upkeep/server/integrity"
	"github.com/upkeep-kv/upkeep/snapshot"
)

const (
	// stagedPrefix names an image that is staged for an online restore; the SHA-256 of the file follows.
	stagedPrefix = "restore-"
	stagedSuffix = ".restore.db"
	// stagedFor is how long a staged file is kept that no command has taken, since whoever was about to restore has failed.
	stagedFor = time.Hour
	// restoreOutcome is how long a command is looked for whose result did not come in time, restoreLook how often.
	restoreOutcome = 2 * time.Minute
	restoreLook    = 200 * time.Millisecond
)

// staged is where the file of an online restore waits for its command. It survives a start: the command may be in the log.
func (d dataDir) staged(sum string) string { return filepath.Join(d.snap, sum+stagedSuffix) }

// stagedSum is the checksum in the name of a staged image.
func stagedSum(image string) (sum string, ok bool) {
	sum, ok = strings.CutPrefix(image, stagedPrefix)
	return sum, ok && len(sum) == 64 && strings.Trim(sum, "0123456789abcdef") == ""
}

// stage keeps a received file for the command that is about to come.
func (s *Server) stage(file, sum string) error {
	s.dropStaged(sum, stagedFor)
	return errors.Join(os.Rename(file, s.dir.staged(sum)), s.disk.fs().SyncDir(s.dir.snap))
}

// dropStaged removes staged files that are older than age, but for one.
func (s *Server) dropStaged(but string, age time.Duration) {
	files, _ := filepath.Glob(filepath.Join(s.dir.snap, "*"+stagedSuffix)) // the pattern is well-formed
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil || file == s.dir.staged(but) || time.Since(info.ModTime()) < age {
			continue
		}
		if err := os.Remove(file); err != nil {
			s.logger.Warn("cannot remove the file of a restore that was given up", zap.String("file", file), zap.Error(err))
		}
	}
}

// giveUpStaged removes the file here at once; the other members remove it when it is old.
func (s *Server) giveUpStaged(sum string) {
	if err := os.Remove(s.dir.staged(sum)); err != nil {
		s.logger.Warn("cannot remove the file of a restore that was given up", zap.Error(err))
	}
}

// RestoreOnlineOptions of RestoreOnline.
type RestoreOnlineOptions struct {
	// Snapshot is the path of a snapshot file; "" restores an older revision of the live history.
	Snapshot string
	// Confirm is the snapshot's hash, as `snapshot status` shows it, or the SHA-256 with which the file ends. For the live
	// history it is the HashKV at ToRevision, and may be left out.
	Confirm string
	// ToRevision restores the keys as they were then; 0 means the snapshot's newest revision.
	ToRevision int64
}

// RestoreOnlineResult says what was done.
type RestoreOnlineResult struct {
	// Revision is the cluster's now, Restored the one that its keys are of.
	Revision, Restored int64
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

// RestoreOnline takes the whole live cluster back to a snapshot, or to a revision that it still holds.
func (s *Server) RestoreOnline(ctx context.Context, o RestoreOnlineOptions) (result RestoreOnlineResult, err error) {
	if !s.restoring.TryLock() {
		return result, refuseRestore("another restore is under way on this member")
	}
	defer s.restoring.Unlock()
	if o.Snapshot == "" && o.ToRevision <= 0 {
		return result, status.Error(codes.InvalidArgument, "name a snapshot or a revision to restore")
	}
	members, err := s.allWell(ctx)
	if err != nil {
		return result, err
	}
	if o.Snapshot != "" {
		if err := confirmSnapshot(ctx, o.Snapshot, o.Confirm); err != nil {
			return result, err
		}
	} else if err := s.confirmLive(ctx, o); err != nil {
		return result, err
	}
	if result.SafetySnapshot, err = s.saveSafety(ctx); err != nil {
		return result, err
	}
	source := o.Snapshot
	if source == "" {
		source = result.SafetySnapshot
	}
	prepared, err := s.prepareRestore(ctx, source, o.ToRevision)
	if err != nil {
		return result, err
	}
	result.Restored, result.LostLeases, result.Members = prepared.Restored, prepared.LostLeases, len(members)
	if err := s.stageEverywhere(ctx, members, prepared); err != nil {
		s.giveUpStaged(prepared.SHA256)
		return result, err
	}
	s.logger.Warn("restoring a snapshot on the live cluster", zap.Int64("restored-revision", prepared.Restored),
		zap.String("safety-snapshot", result.SafetySnapshot), zap.Int("members", len(members)))
	if result.Revision, err = s.commitRestore(ctx, members, prepared); err != nil {
		return result, err
	}
	result.Pause = time.Duration(s.restorePause.Load())
	v, err := integrity.Compare(ctx, histories{s})
	if err != nil || !v.Equal() {
		return result, fmt.Errorf("restored at revision %d, but the members could not be found equal afterwards: %s: %w",
			result.Revision, v.Detail(), errors.Join(err, integrity.ErrNotComparable))
	}
	_, result.Hash = checkedHash(v)
	return result, nil
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
func (s *Server) saveSafety(ctx context.Context) (string, error) {
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
	if _, err := snapshot.SaveImage(ctx, image, path, snapshot.SaveOptions{}); err != nil {
		return "", refuseRestore("the safety snapshot could not be saved: %s", err)
	}
	return path, nil
}

// prepareRestore makes the file that all members are given, and stages it here.
func (s *Server) prepareRestore(ctx context.Context, source string, rev int64) (snapshot.Online, error) {
	work := filepath.Join(s.dir.snap, "tmp-restore.db")
	if err := os.Remove(work); err != nil && !errors.Is(err, os.ErrNotExist) {
		return snapshot.Online{}, err
	}
	prepared, err := snapshot.PrepareOnline(ctx, source, work, rev)
	if err != nil {
		return prepared, refuseRestore("%s", err)
	}
	return prepared, s.stage(work, prepared.SHA256)
}

// stagedFile is a staged database on its way to another member.
type stagedFile struct {
	*os.File
	ctx context.Context
}

func (f stagedFile) WriteTo(w io.Writer) (int64, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	return io.Copy(w, contextReader{f.ctx, f.File})
}

type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// stageEverywhere gives the file to all other members, one after the other, and returns once it is on all their disks.
func (s *Server) stageEverywhere(ctx context.Context, members []uint64, prepared snapshot.Online) error {
	for _, id := range members {
		if id == s.id {
			continue
		}
		file, err := os.Open(s.dir.staged(prepared.SHA256))
		if err != nil {
			return err
		}
		err = s.transport.SendImage(id, stagedPrefix+prepared.SHA256, raftnode.Snapshot{
			Index: s.node.AppliedIndex(), Term: s.node.Term(), ConfState: s.cluster.ConfState(), Size: prepared.Size,
			Image: stagedFile{file, ctx},
		})
		if err != nil {
			return refuseRestore("member %s could not be given the snapshot: %s", hexID(id), err)
		}
	}
	return nil
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
		s.giveUpStaged(prepared.SHA256)
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

// uploadName is where a snapshot is received. Like all names that begin with "tmp" it does not survive a start.
const uploadName = "tmp-upload.db"

// Restore receives a snapshot and takes the cluster back to it.
func (o operations) Restore(ctx context.Context, first *upkeeppb.RestoreRequest, next func() (*upkeeppb.RestoreRequest, error),
) (*upkeeppb.RestoreResponse, error) {
	options := RestoreOnlineOptions{Confirm: first.Confirm, ToRevision: first.ToRevision}
	if !first.Live {
		file, err := os.CreateTemp(o.dir.snap, uploadName+"*")
		if err != nil {
			return nil, err
		}
		options.Snapshot = file.Name()
		defer os.Remove(file.Name())
		// A third, since the safety snapshot and the staged file come beside it.
		room := int64(math.MaxInt64)
		if free, err := o.disk.freeBytes(o.dir.snap); err == nil && free >= 0 {
			room = free / 3
		}
		if err := errors.Join(receivePieces(file, room, first, next), file.Close()); err != nil {
			return nil, err
		}
	}
	result, err := o.RestoreOnline(ctx, options)
	if err != nil {
		return nil, err
	}
	return &upkeeppb.RestoreResponse{
		Revision: result.Revision, RestoredRevision: result.Restored, SafetySnapshot: result.SafetySnapshot, MemberId: o.id,
		PauseNanos: int64(result.Pause), Hash: result.Hash, Members: int64(result.Members), LostLeases: int64(result.LostLeases),
	}, nil
}

func receivePieces(to io.Writer, room int64, piece *upkeeppb.RestoreRequest, next func() (*upkeeppb.RestoreRequest, error)) error {
	for {
		if room -= int64(len(piece.Piece)); room < 0 {
			return status.Error(codes.ResourceExhausted, "nothing was restored: the member's disk has no room for three files of that size")
		}
		if _, err := to.Write(piece.Piece); err != nil {
			return err
		}
		var err error
		if piece, err = next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
