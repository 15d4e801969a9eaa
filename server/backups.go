package server

import (
	"context"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server/backups"
	"github.com/upkeep-kv/upkeep/server/maintenance"
	"github.com/upkeep-kv/upkeep/server/maintenance/window"
	"github.com/upkeep-kv/upkeep/snapshot"
	"github.com/upkeep-kv/upkeep/snapshot/backup"
)

// scratchName is the directory, beside that of the member, in which backups are restored to verify them.
const scratchName = "backup.scratch"

// agreeTimeout is how long other members may take to hash what is to be backed up: one that is cut off has no say.
const agreeTimeout = 2 * time.Minute

// openBackups refuses a repository that cannot be understood. Whether it can be reached shows with the first backup.
func (s *Server) openBackups() error {
	if to := s.cfg.Upkeep.BackupTo; to != "" {
		if err := backups.CheckDestination(to); err != nil {
			return fmt.Errorf("--upkeep-backup-to: %w", err)
		}
	}
	s.revisionClock = backups.NewClock(s.store.Revision, func() bool { return s.backupPolicy().GetEnabled() })
	s.backups = backups.NewWorker(backups.Config{
		Source: &backups.Source{
			Backend: s.backend, Store: s.store, Pin: s.pinImage, Known: s.revisionSamples,
		},
		ClusterID: s.clusterID, MemberID: s.id, MemberName: s.cfg.Name,
		Scratch: filepath.Join(s.dir.root, scratchName), State: func() *schedulepb.State { return s.schedule.Now() }, Logger: s.logger,
		Agree: s.agreesWithOthers,
		Observer: backups.Observer{
			Taken: func(m *backup.Manifest, took time.Duration) {
				s.metrics.BackupTaken(string(m.Kind), m.Object.SizeBytes, took, m.Good())
			},
			Failed:  s.metrics.BackupFailed,
			Removed: s.metrics.BackupsRemoved,
			Held: func(t backup.Totals) {
				s.metrics.BackupsHeld(t.Backups, t.Bytes, t.Newest, t.NewestGood)
			},
		},
	})
	return nil
}

// agreesWithOthers refuses to back up a member whose history most others do not share: the backup would keep the damage, and
// what builds on it could not be restored. Members that do not answer, or cannot be compared now, have no say.
func (s *Server) agreesWithOthers(ctx context.Context, own snapshot.KVHash) error {
	ctx, cancel := context.WithTimeout(ctx, agreeTimeout)
	defer cancel()
	h := histories{s}
	var asking sync.WaitGroup
	var same, other atomic.Int64
	same.Add(1)
	for _, m := range h.Members() {
		if m.ID == s.id {
			continue
		}
		asking.Go(func() {
			a := h.Hash(ctx, m, own.HashRevision)
			switch {
			case a.Err != nil || a.Short || a.CompactRevision != own.CompactRevision:
			case a.Sum == own.Hash:
				same.Add(1)
			default:
				other.Add(1)
			}
		})
	}
	asking.Wait()
	if other.Load() > same.Load() {
		return fmt.Errorf("this member's history up to revision %d differs from that of %d other members, so no backup is taken of "+
			"it; `upkeepctl maintenance check` tells more, `upkeepctl maintenance rebuild` puts it right", own.HashRevision, other.Load())
	}
	return nil
}

// lastBackup is when the cluster's newest backup was taken, in seconds since the epoch, 0 if none is known.
func (s *Server) lastBackup() float64 {
	newest, _ := maintenance.KnownBackups(s.schedule.Now())
	if newest.IsZero() {
		return 0
	}
	return float64(newest.UnixNano()) / 1e9
}

// lastBackupAge is made for alerts: infinite as long as there is none, and 0 where there is to be none.
func (s *Server) lastBackupAge() float64 {
	newest, _ := maintenance.KnownBackups(s.schedule.Now())
	switch {
	case !s.backupPolicy().GetEnabled():
		return 0
	case newest.IsZero():
		return math.Inf(1)
	}
	return time.Since(newest).Seconds()
}

// backupPolicy is the one in force.
func (s *Server) backupPolicy() *schedulepb.BackupPolicy {
	return maintenance.InForce(s.schedule.Now(), fleet{s}.Flags()).GetBackup()
}

// sampleRevisions notes which revision is current when, for restores to a moment.
func (s *Server) sampleRevisions(ctx context.Context) { s.revisionClock.Run(ctx, s.schedule.Changed) }

// revisionSamples are those of this member, and those that are replicated for retention.
func (s *Server) revisionSamples(after int64) []backup.Sample {
	out := s.revisionClock.Samples(after)
	for _, t := range s.timeline.After(after) {
		out = append(out, backup.Sample{Time: t.Time, Revision: t.Revision})
	}
	return out
}

// pinImage pins this member's database.
func (s *Server) pinImage(ctx context.Context) (backup.Image, error) {
	image, err := s.backend.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return &backupImage{image, ctx}, nil
}

// backupImage is written at the pace that requests allow, until the context of the backup ends.
type backupImage struct {
	*backend.Snapshot
	ctx context.Context
}

func (b *backupImage) WriteTo(w io.Writer) (int64, error) { return b.Stream(b.ctx, w) }

// checkBackupPolicy refuses what no member could do.
func checkBackupPolicy(p *schedulepb.BackupPolicy) error {
	if _, err := window.Parse(p.GetWindow()); err != nil {
		return bad("%s", err)
	}
	if min(p.GetFullInterval(), p.GetIncrementalInterval(), int64(p.GetKeepCount()), p.GetKeepAge(), p.GetKeepBytes()) < 0 {
		return bad("the intervals of backups and the limits of what is kept must not be negative")
	}
	if !p.GetEnabled() {
		return nil
	}
	if p.FullInterval == 0 && p.IncrementalInterval == 0 {
		return bad("backups are enabled, but neither the full nor the incremental interval is set")
	}
	if err := backups.CheckDestination(p.Destination); err != nil {
		return bad("%s", err)
	}
	return nil
}
