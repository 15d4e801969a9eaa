package metrics

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type serverMetrics struct {
	id, version, goVersion, featureEnabled, clusterVersion *prometheus.GaugeVec

	leaderChanges                      prometheus.Counter
	heartbeatFailures                  prometheus.Counter
	proposalsPending                   prometheus.Gauge
	proposalsFailed                    prometheus.Counter
	slowApplies                        prometheus.Counter
	slowReadIndexes, failedReadIndexes prometheus.Counter
	applyingSnapshot                   prometheus.Gauge
	promotions                         prometheus.Counter
	failedPromotions                   *prometheus.CounterVec
	healthSuccess, healthFailures      prometheus.Counter
	healthCheck                        *prometheus.GaugeVec
	healthChecks                       *prometheus.CounterVec
	alarms                             *prometheus.GaugeVec

	requestSeconds *prometheus.HistogramVec
	applySeconds   *prometheus.HistogramVec
	rangeSeconds   *prometheus.HistogramVec
	requests       cache[outcome, prometheus.Observer]
	applies        cache[outcome, prometheus.Observer]
	ranges         cache[bool, prometheus.Observer]
}

// outcome is a kind of request and whether it succeeded.
type outcome struct {
	kind    string
	success bool
}

func (s *serverMetrics) register(r registrar) {
	s.id = r.gauges("etcd_server_id", "The member's ID in hexadecimal, as a label of 1.", "server_id")
	s.version = r.gauges("etcd_server_version", "The API version served, as a label of 1.", "server_version")
	s.goVersion = r.gauges("etcd_server_go_version", "The Go version of the program, as a label of 1.", "server_go_version")
	s.featureEnabled = r.gauges("etcd_server_feature_enabled", "Whether a feature gate is on.", "name", "stage")
	s.clusterVersion = r.gauges("etcd_cluster_version", "The version all members agreed on, as a label of 1.", "cluster_version")
	s.leaderChanges = r.counter("etcd_server_leader_changes_seen_total", "Times a leader was elected.")
	s.heartbeatFailures = r.counter("etcd_server_heartbeat_send_failures_total", "Heartbeats that the leader sent late, probably because of a slow disk.")
	s.proposalsPending = r.gauge("etcd_server_proposals_pending", "Proposals that wait to be applied.")
	s.proposalsFailed = r.counter("etcd_server_proposals_failed_total", "Proposals that failed.")
	s.slowApplies = r.counter("etcd_server_slow_apply_total", "Requests that took longer to apply than --warning-apply-duration.")
	s.slowReadIndexes = r.counter("etcd_server_slow_read_indexes_total", "Read-index rounds that had to be repeated or timed out.")
	s.failedReadIndexes = r.counter("etcd_server_read_indexes_failed_total", "Read-index rounds that failed.")
	s.applyingSnapshot = r.gauge("etcd_server_snapshot_apply_in_progress_total", "1 while a received snapshot is installed.")
	s.promotions = r.counter("etcd_server_learner_promote_successes", "Learners promoted while this member was the leader.")
	s.failedPromotions = r.counters("etcd_server_learner_promote_failures", "Promotions that failed while this member was the leader.", "Reason")
	s.healthSuccess = r.counter("etcd_server_health_success", "Health checks that succeeded.")
	s.healthFailures = r.counter("etcd_server_health_failures", "Health checks that failed.")
	s.healthCheck = r.gauges("etcd_server_healthcheck", "Last result of a check of /livez or /readyz, 1 for success.", "type", "name")
	s.healthChecks = r.counters("etcd_server_healthchecks_total", "Results of the checks of /livez and /readyz.", "type", "name", "status")
	s.alarms = r.gauges("etcd_debugging_server_alarms", "Alarms that are raised.", "server_id", "alarm_type")
	s.requestSeconds = r.histograms("etcd_server_request_duration_seconds", "How long requests take.", doubling(0.001, 14), "type", "success")
	s.applySeconds = r.histograms("etcd_server_apply_duration_seconds", "How long requests take to apply.", doubling(0.0001, 20), "version", "op", "success")
	s.rangeSeconds = r.histograms("etcd_server_range_duration_seconds", "How long ranges take.", doubling(0.0001, 20), "success")
}

// LeaderChanged counts elections; losing the leader is not one. IDs, 0 for none.
func (s *serverMetrics) LeaderChanged(from, to uint64) {
	if to != 0 && from != to {
		s.leaderChanges.Inc()
	}
}

// HeartbeatSent is told of every round of heartbeats and whether it was late.
func (s *serverMetrics) HeartbeatSent(late bool) {
	if late {
		s.heartbeatFailures.Inc()
	}
}

func (s *serverMetrics) ProposalsPending(n int) { s.proposalsPending.Set(float64(n)) }
func (s *serverMetrics) ProposalFailed()        { s.proposalsFailed.Inc() }
func (s *serverMetrics) SlowApply()             { s.slowApplies.Inc() }
func (s *serverMetrics) ReadIndexSlow()         { s.slowReadIndexes.Inc() }
func (s *serverMetrics) ReadIndexFailed()       { s.failedReadIndexes.Inc() }

// SnapshotApplying says when the installation of a received snapshot begins and ends.
func (s *serverMetrics) SnapshotApplying(active bool) { s.applyingSnapshot.Set(oneIf(active)) }

// LearnerPromoted is told of promotions on the leader; reason is empty for a success.
func (s *serverMetrics) LearnerPromoted(reason string) {
	if reason == "" {
		s.promotions.Inc()
		return
	}
	s.failedPromotions.WithLabelValues(reason).Inc()
}

// HealthChecked is told the result of /health.
func (s *serverMetrics) HealthChecked(healthy bool) {
	if healthy {
		s.healthSuccess.Inc()
	} else {
		s.healthFailures.Inc()
	}
}

// CheckDone is told the result of one check of an endpoint, "livez" or "readyz".
func (s *serverMetrics) CheckDone(endpoint, check string, ok bool) {
	status := "error"
	if ok {
		status = "success"
	}
	s.healthCheck.WithLabelValues(endpoint, check).Set(oneIf(ok))
	s.healthChecks.WithLabelValues(endpoint, check, status).Inc()
}

// SetClusterVersion replaces the cluster's version, such as 3.7.
func (s *serverMetrics) SetClusterVersion(version string) {
	s.clusterVersion.Reset()
	s.clusterVersion.WithLabelValues(version).Set(1)
}

// Alarm is one raised alarm, Type such as NOSPACE.
type Alarm struct {
	MemberID uint64
	Type     string
}

// AlarmChanged is told when an alarm is raised or disarmed.
func (s *serverMetrics) AlarmChanged(a Alarm, raised bool) {
	s.alarms.WithLabelValues(memberLabel(a.MemberID), a.Type).Set(oneIf(raised))
}

// RequestDone is told of every request that was answered. kind is Range, ReadonlyTxn, or the name of the replicated
// request: Put, DeleteRange, Txn, Compaction, LeaseGrant, ...
func (s *serverMetrics) RequestDone(kind string, success bool, took time.Duration) {
	s.requests.get(outcome{kind, success}, func(o outcome) prometheus.Observer {
		return s.requestSeconds.WithLabelValues(o.kind, strconv.FormatBool(o.success))
	}).Observe(took.Seconds())
}

// Applied is told of every applied request.
func (s *serverMetrics) Applied(kind string, success bool, took time.Duration) {
	s.applies.get(outcome{kind, success}, func(o outcome) prometheus.Observer {
		return s.applySeconds.WithLabelValues("v3", o.kind, strconv.FormatBool(o.success))
	}).Observe(took.Seconds())
}

// RangeDone is told of every range over the store, those in transactions included.
func (s *serverMetrics) RangeDone(success bool, took time.Duration) {
	s.ranges.get(success, func(success bool) prometheus.Observer {
		return s.rangeSeconds.WithLabelValues(strconv.FormatBool(success))
	}).Observe(took.Seconds())
}
