package server

import (
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/upkeep-kv/upkeep/backend/pace"
	"github.com/upkeep-kv/upkeep/mvcc"
)

// Jobs that report progress.
const (
	jobDefrag     = "defragmentation"
	jobCompaction = "compaction"
	jobSnapshot   = "snapshot"
	jobHash       = "hash"
)

// JobProgress is how far a piece of maintenance has come.
type JobProgress struct {
	Job   string // "defragmentation", "compaction", "snapshot" or "hash"
	Phase string
	// Done and Total are in bytes, of a compaction in revisions. Total is 0 if it is not known.
	Done, Total int64
	Since       time.Time
}

// MaintenanceProgress lists the maintenance that is under way on this member, oldest first.
func (s *Server) MaintenanceProgress() []JobProgress { return s.progress.list() }

// progressLogInterval is how often a long job says in the log how far it has come.
const progressLogInterval = 10 * time.Second

// progressBoard is where jobs write how far they have come. The zero value is ready for use.
type progressBoard struct {
	mu   sync.Mutex
	jobs []*progressEntry
}

// progressEntry is one job on the board.
type progressEntry struct {
	board  *progressBoard
	logger *zap.Logger
	now    JobProgress // guarded by board.mu
	logged time.Time
}

func (b *progressBoard) start(job, phase string, logger *zap.Logger) *progressEntry {
	now := time.Now()
	e := &progressEntry{board: b, logger: logger, logged: now, now: JobProgress{Job: job, Phase: phase, Since: now}}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.jobs = append(b.jobs, e)
	return e
}

func (b *progressBoard) list() []JobProgress {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]JobProgress, len(b.jobs))
	for i, e := range b.jobs {
		out[i] = e.now
	}
	return out
}

// report is called by the job after every piece.
func (e *progressEntry) report(phase string, done, total int64) {
	e.board.mu.Lock()
	e.now.Phase, e.now.Done, e.now.Total = phase, done, total
	p := e.now
	e.board.mu.Unlock()
	if now := time.Now(); now.Sub(e.logged) >= progressLogInterval {
		e.logged = now
		e.logger.Info("maintenance goes on", zap.String("job", p.Job), zap.String("phase", p.Phase),
			zap.Int64("done", p.Done), zap.Int64("total", p.Total), zap.Duration("for", now.Sub(p.Since)))
	}
}

// end takes the job off the board.
func (e *progressEntry) end() {
	e.board.mu.Lock()
	defer e.board.mu.Unlock()
	e.board.jobs = slices.DeleteFunc(e.board.jobs, func(other *progressEntry) bool { return other == e })
}

// feltKind is how the governor of background work files a unary call; false for those that say nothing about how
// requests fare, because they wait for something else or are maintenance themselves.
func feltKind(kind, method string) (pace.Kind, bool) {
	if kind != "unary" {
		return 0, false
	}
	switch method {
	case "Range":
		return pace.Read, true
	case "Put", "DeleteRange", "Txn":
		return pace.Write, true
	}
	return 0, false
}

// callStarted and callHandled tell the governor and the metrics of every call.
func (s *Server) callStarted(kind, service, method string) {
	if _, felt := feltKind(kind, method); felt {
		s.governor.Begin()
	}
	s.metrics.CallStarted(kind, service, method)
}

func (s *Server) callHandled(kind, service, method string, code codes.Code, took time.Duration) {
	if felt, ok := feltKind(kind, method); ok {
		s.governor.End(felt, took)
	}
	s.metrics.CallHandled(kind, service, method, code, took)
}

// logSynced is told of every sync of the log.
func (s *Server) logSynced(took time.Duration) {
	s.governor.Synced(took)
	s.metrics.WALSynced(took)
}

// compactionPiece is told of every piece of a compaction, by the store's compactor, one after the other.
func (s *Server) compactionPiece(p mvcc.CompactionProgress) {
	if p.Total > 0 {
		s.metrics.CompactionPiece(p.PieceDeleted, p.PieceTook)
		s.metrics.CompactionProgress(p.Done, p.Total)
	}
	if s.compacting == nil {
		s.compacting = s.progress.start(jobCompaction, "delete", s.logger)
	}
	s.compacting.report("delete", p.Done, p.Total)
	if p.Done == p.Total {
		s.compacting.end()
		s.compacting = nil
	}
}
