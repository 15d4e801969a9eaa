package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// upkeepMetrics are those that etcd has no counterpart of.
type upkeepMetrics struct {
	commitOperations, commitBytes prometheus.Histogram
	entryCommands                 prometheus.Histogram
	coalesced                     prometheus.Counter

	defragCopied, defragTotal prometheus.Gauge
	defragVerified            prometheus.Gauge
	defragReclaimed           prometheus.Counter
	defragPause               prometheus.Histogram
	defragFailures            prometheus.Counter

	compactionDone, compactionOf prometheus.Gauge
}

func (u *upkeepMetrics) register(r registrar) {
	u.commitOperations = r.histogram("upkeep_backend_commit_operations", "Operations in a commit of the database.", doubling(1, 16))
	u.commitBytes = r.histogram("upkeep_backend_commit_bytes", "Bytes of keys and values in a commit of the database.", doubling(1024, 17))
	u.entryCommands = r.histogram("upkeep_raft_entry_commands", "Requests in a proposed log entry.", doubling(1, 13))
	u.coalesced = r.counter("upkeep_raft_coalesced_proposals_total", "Requests that shared their log entry with another.")
	u.defragCopied = r.gauge("upkeep_defrag_copied_bytes", "Bytes that the current or last defragmentation has copied.")
	u.defragTotal = r.gauge("upkeep_defrag_total_bytes", "Bytes that the current or last defragmentation has to copy.")
	u.defragVerified = r.gauge("upkeep_defrag_verified_bytes", "Bytes that the current or last defragmentation has compared with the original.")
	u.defragReclaimed = r.counter("upkeep_defrag_reclaimed_bytes_total", "Bytes that defragmentations gave back to the file system.")
	u.defragPause = r.histogram("upkeep_defrag_pause_seconds", "Longest time that commits waited in a defragmentation.", doubling(0.0001, 16))
	u.compactionDone = r.gauge("upkeep_compaction_done_revisions", "Revisions that the current or last compaction has been through.")
	u.compactionOf = r.gauge("upkeep_compaction_total_revisions", "Revisions that the current or last compaction has to go through.")
	u.defragFailures = r.counter("upkeep_defrag_failures_total", "Defragmentations that failed or were cancelled.")
}

// EntryProposed is told how many requests each proposed entry carries.
func (u *upkeepMetrics) EntryProposed(commands int) {
	u.entryCommands.Observe(float64(commands))
	if commands > 1 {
		u.coalesced.Add(float64(commands))
	}
}

// Defrag is the result of one defragmentation.
type Defrag struct {
	SizeBefore, SizeAfter int64
	Took, LongestPause    time.Duration
	Err                   error
}

// CompactionProgress is told how far a compaction has come.
func (u *upkeepMetrics) CompactionProgress(done, total int64) {
	u.compactionDone.Set(float64(done))
	u.compactionOf.Set(float64(total))
}

// DefragStarted, DefragProgress and DefragDone follow a defragmentation.
func (m *Metrics) DefragStarted() {
	m.defragging.Set(1)
	m.defragCopied.Set(0)
	m.defragTotal.Set(0)
	m.defragVerified.Set(0)
}

func (u *upkeepMetrics) DefragProgress(phase string, done, total int64) {
	switch phase {
	case "copy", "catch up":
		u.defragCopied.Set(float64(done))
		u.defragTotal.Set(float64(total))
	case "verify":
		u.defragVerified.Set(float64(done))
	}
}

func (m *Metrics) DefragDone(d Defrag) {
	m.defragging.Set(0)
	if d.Err != nil {
		m.defragFailures.Inc()
		return
	}
	m.defrag.Observe(d.Took.Seconds())
	m.defragPause.Observe(d.LongestPause.Seconds())
	m.defragReclaimed.Add(float64(max(0, d.SizeBefore-d.SizeAfter)))
}
