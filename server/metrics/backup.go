package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// backupMetrics are those of the backups that this member takes.
type backupMetrics struct {
	taken    *prometheus.CounterVec
	failed   prometheus.Counter
	verified prometheus.Counter
	removed  prometheus.Counter
	took     *prometheus.HistogramVec
	size     *prometheus.GaugeVec

	held, heldBytes    prometheus.Gauge
	newest, newestGood prometheus.Gauge
}

func (b *backupMetrics) register(r registrar) {
	b.taken = r.counters("upkeep_backup_taken_total", "Backups that this member took.", "kind")
	b.failed = r.counter("upkeep_backup_failures_total", "Backups of this member that did not come to be.")
	b.verified = r.counter("upkeep_backup_verified_total", "Backups of this member that passed their verification.")
	b.removed = r.counter("upkeep_backup_removed_total", "Backups that retention removed after one of this member.")
	b.took = r.histograms("upkeep_backup_seconds", "How long backups took, with their verification.", doubling(0.01, 20), "kind")
	b.size = r.gauges("upkeep_backup_bytes", "Size of this member's last backup in the repository.", "kind")
	b.held = r.gauge("upkeep_backup_repository_backups", "Backups of this cluster in the repository, when this member last looked.")
	b.heldBytes = r.gauge("upkeep_backup_repository_bytes", "Bytes of those.")
	b.newest = r.gauge("upkeep_backup_repository_newest_timestamp_seconds", "When the newest of those was taken.")
	b.newestGood = r.gauge("upkeep_backup_repository_newest_verified_timestamp_seconds",
		"When the newest of those was taken that was verified with all that it builds on.")
}

// BackupTaken is told of each backup of this member.
func (b *backupMetrics) BackupTaken(kind string, bytes int64, took time.Duration, verified bool) {
	b.taken.WithLabelValues(kind).Inc()
	b.took.WithLabelValues(kind).Observe(took.Seconds())
	b.size.WithLabelValues(kind).Set(float64(bytes))
	if verified {
		b.verified.Inc()
	}
}

// BackupFailed is told of each that did not come to be.
func (b *backupMetrics) BackupFailed() { b.failed.Inc() }

// BackupsRemoved is told how many retention removed.
func (b *backupMetrics) BackupsRemoved(n int) { b.removed.Add(float64(n)) }

// BackupsHeld is told what the repository holds; times are zero for none.
func (b *backupMetrics) BackupsHeld(backups int, bytes int64, newest, newestGood time.Time) {
	b.held.Set(float64(backups))
	b.heldBytes.Set(float64(bytes))
	b.newest.Set(unixSeconds(newest))
	b.newestGood.Set(unixSeconds(newestGood))
}

func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}
