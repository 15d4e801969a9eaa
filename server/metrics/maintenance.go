package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maintenanceMetrics are those of the schedule of maintenance.
type maintenanceMetrics struct {
	running *prometheus.GaugeVec   // 1 while this member does a kind
	phase   *prometheus.GaugeVec   // done and total of a phase, while it lasts
	tasks   *prometheus.CounterVec // ended on this member, by result
	took    *prometheus.HistogramVec
}

func (m *maintenanceMetrics) register(r registrar) {
	m.running = r.gauges("upkeep_maintenance_running", "Whether this member is at a task of the kind.", "kind")
	m.phase = r.gauges("upkeep_maintenance_progress", "What is done of the current phase, and its total.", "kind", "phase", "of")
	m.tasks = r.counters("upkeep_maintenance_tasks_total", "Tasks that ended on this member.", "kind", "result")
	m.took = r.histograms("upkeep_maintenance_task_seconds", "How long tasks of this member took.", doubling(0.01, 20), "kind")
}

// TaskStarted, TaskProgress and TaskEnded follow one task of this member.
func (m *maintenanceMetrics) TaskStarted(kind string) { m.running.WithLabelValues(kind).Set(1) }

func (m *maintenanceMetrics) TaskProgress(kind, phase string, done, total int64) {
	m.phase.WithLabelValues(kind, phase, "done").Set(float64(done))
	m.phase.WithLabelValues(kind, phase, "total").Set(float64(total))
}

func (m *maintenanceMetrics) TaskEnded(kind, result string, took time.Duration) {
	m.running.WithLabelValues(kind).Set(0)
	m.phase.DeletePartialMatch(prometheus.Labels{"kind": kind})
	m.tasks.WithLabelValues(kind, result).Inc()
	m.took.WithLabelValues(kind).Observe(took.Seconds())
}
