package backups

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server/maintenance"
	"github.com/upkeep-kv/upkeep/snapshot"
	"github.com/upkeep-kv/upkeep/snapshot/backup"
)

// Config of a Worker.
type Config struct {
	Source     *Source
	ClusterID  uint64
	MemberID   uint64
	MemberName string
	// Scratch is a directory of this member's own, in which backups are restored to verify them.
	Scratch string
	// State is the schedule, which knows when the last backups were taken.
	State    func() *schedulepb.State
	Logger   *zap.Logger
	Observer Observer
	// Agree compares this member's history with that of the others, see backup.Options; may be nil.
	Agree func(ctx context.Context, hash snapshot.KVHash) error
}

// Observer is told what becomes of backups; nil functions are skipped.
type Observer struct {
	// Taken is told of each backup of this member.
	Taken func(m *backup.Manifest, took time.Duration)
	// Failed is told of each that did not come to be.
	Failed func()
	// Removed is told how many backups retention has removed.
	Removed func(n int)
	// Held is told what the repository holds of this cluster.
	Held func(backup.Totals)
}

// Worker takes the backups of one member. It implements maintenance.Worker.
type Worker struct {
	cfg Config

	mu           sync.Mutex
	repositories map[string]*backup.Repository // by location; they remember manifests
}

// NewWorker returns the worker of a member, and removes what an earlier process has left in its scratch directory.
func NewWorker(cfg Config) *Worker {
	if err := backup.Tidy(cfg.Scratch); err != nil {
		cfg.Logger.Warn("could not remove what the verification of a backup has left", zap.String("dir", cfg.Scratch), zap.Error(err))
	}
	return &Worker{cfg: cfg, repositories: make(map[string]*backup.Repository)}
}

// Repository returns the one at a location.
func (w *Worker) Repository(location string) (*backup.Repository, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.repositories[location]; r != nil {
		return r, nil
	}
	r, err := backup.Open(location)
	if err == nil {
		w.repositories[location] = r
	}
	return r, err
}

// Run takes the backup that a task asks for, and lets retention have its way.
func (w *Worker) Run(ctx context.Context, task *schedulepb.Task, report func(phase string, done, total int64)) (*schedulepb.Outcome, error) {
	start := time.Now()
	outcome := &schedulepb.Outcome{}
	m, err := w.take(ctx, task, report)
	if err != nil {
		if w.cfg.Observer.Failed != nil {
			w.cfg.Observer.Failed()
		}
		newest, full := maintenance.KnownBackups(w.cfg.State())
		outcome.Details = details(newest, full)
		return outcome, err
	}
	if w.cfg.Observer.Taken != nil {
		w.cfg.Observer.Taken(m, time.Since(start))
	}
	newest, full := maintenance.KnownBackups(w.cfg.State())
	outcome.Bytes, outcome.Hash = m.Object.SizeBytes, m.Hash.Hash
	outcome.Message = describe(m)
	if flag(task, maintenance.ParamElsewhere) {
		outcome.Details = details(newest, full)
		return outcome, nil
	}
	if m.Kind == backup.Full {
		full = m.TakenAt
	}
	removed, totals, err := w.prune(ctx, task)
	if err != nil {
		// The backup is good all the same.
		w.cfg.Logger.Warn("could not remove old backups", zap.Error(err))
		outcome.Message += "; old backups could not be removed: " + err.Error()
	} else {
		full = totals.NewestFull
	}
	if removed > 0 {
		outcome.Message += fmt.Sprintf("; %d old ones removed", removed)
	}
	outcome.Details = append(details(m.TakenAt, full), &schedulepb.Parameter{Name: "id", Value: m.ID})
	return outcome, nil
}

func describe(m *backup.Manifest) string {
	verified := "not verified"
	if m.Good() {
		verified = m.Verification.Method + " to verify it"
	}
	text := fmt.Sprintf("%s backup of revisions %d to %d, %s, %s", m.Kind, m.FirstRevision(), m.ToRevision,
		humanize.IBytes(uint64(m.Object.SizeBytes)), verified)
	if m.Kind == backup.Full && m.Reason != "" {
		text += ": " + m.Reason
	}
	return text
}

func details(newest, full time.Time) (out []*schedulepb.Parameter) {
	add := func(name string, at time.Time) {
		if !at.IsZero() {
			out = append(out, &schedulepb.Parameter{Name: name, Value: strconv.FormatInt(at.UnixNano(), 10)})
		}
	}
	add(maintenance.DetailBackupAt, newest)
	add(maintenance.DetailFullAt, full)
	return out
}

func (w *Worker) take(ctx context.Context, task *schedulepb.Task, report func(string, int64, int64)) (*backup.Manifest, error) {
	location := maintenance.Parameter(task.Parameters, maintenance.ParamDestination)
	if err := CheckDestination(location); err != nil {
		return nil, err
	}
	r, err := w.Repository(location)
	if err != nil {
		return nil, err
	}
	kind, reason := backup.Incremental, task.Reason
	if maintenance.Parameter(task.Parameters, maintenance.ParamBackup) == maintenance.BackupFull {
		kind = backup.Full
	} else if why, err := w.fullDue(ctx, r, task); err != nil {
		return nil, err
	} else if why != "" {
		kind, reason = backup.Full, why
	}
	return backup.Run(ctx, backup.Options{
		Repository: r, Source: w.cfg.Source, ClusterID: w.cfg.ClusterID, MemberID: w.cfg.MemberID, MemberName: w.cfg.MemberName,
		Kind: kind, Reason: reason, Compress: flag(task, maintenance.ParamCompress), Verify: !flag(task, maintenance.ParamSkipVerify),
		Scratch: w.cfg.Scratch, Progress: report, Logger: w.cfg.Logger, Agree: w.cfg.Agree,
	})
}

// fullDue looks into the repository, since outcomes may have been forgotten: why the next backup is to be a full one.
func (w *Worker) fullDue(ctx context.Context, r *backup.Repository, task *schedulepb.Task) (string, error) {
	interval := time.Duration(number(task, maintenance.ParamFullInterval))
	if interval <= 0 {
		return "", nil
	}
	inventory, err := r.List(ctx)
	if err != nil {
		return "", err
	}
	full := inventory.Totals(w.cfg.ClusterID).NewestFull
	if age := time.Since(full); !full.IsZero() && age >= interval {
		return fmt.Sprintf("the last full backup was taken %s ago, and one is due every %s", age.Truncate(time.Second), interval), nil
	}
	return "", nil
}

// prune removes what is not to be kept, and counts what is.
func (w *Worker) prune(ctx context.Context, task *schedulepb.Task) (removed int, totals backup.Totals, err error) {
	r, err := w.Repository(maintenance.Parameter(task.Parameters, maintenance.ParamDestination))
	if err != nil {
		return 0, totals, err
	}
	decisions, err := r.Prune(ctx, w.cfg.ClusterID, backup.Retention{
		Count: int(number(task, maintenance.ParamKeepCount)), Age: time.Duration(number(task, maintenance.ParamKeepAge)),
		Bytes: number(task, maintenance.ParamKeepBytes),
	}, false)
	for _, d := range decisions {
		if d.Remove && err == nil {
			removed++
			w.cfg.Logger.Info("removed a backup", zap.String("id", d.Backup.ID), zap.String("reason", d.Reason))
		}
	}
	if w.cfg.Observer.Removed != nil && removed > 0 {
		w.cfg.Observer.Removed(removed)
	}
	if err != nil {
		return removed, totals, err
	}
	inventory, err := r.List(ctx)
	if err != nil {
		return removed, totals, err
	}
	totals = inventory.Totals(w.cfg.ClusterID)
	if w.cfg.Observer.Held != nil {
		w.cfg.Observer.Held(totals)
	}
	return removed, totals, nil
}

func flag(task *schedulepb.Task, name string) bool {
	return maintenance.Parameter(task.Parameters, name) == "true"
}

// number reads what a planner wrote, or what somebody asked for; 0 for what is no number.
func number(task *schedulepb.Task, name string) int64 {
	n, _ := strconv.ParseInt(maintenance.Parameter(task.Parameters, name), 10, 64)
	return n
}

// CheckDestination refuses a location that cannot be understood, or that would not mean the same on every member: a directory
// has to be named by its absolute path.
func CheckDestination(location string) error {
	if !strings.Contains(location, "://") && !filepath.IsAbs(location) {
		return fmt.Errorf("%w %q: give the absolute path of a directory, or s3://bucket/prefix", backup.ErrLocation, location)
	}
	_, err := backup.OpenStore(location)
	return err
}
