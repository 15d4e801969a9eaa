package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type mvccMetrics struct {
	ranges, puts, deletes, txns prometheus.Counter
	putBytes                    prometheus.Gauge
	hash, hashRev               prometheus.Histogram

	indexCompactionPause, compactionPause, compactionTotal prometheus.Histogram
	compactionLast                                         prometheus.Gauge
	compactedKeys                                          prometheus.Counter

	events                                              prometheus.Counter
	watchSend, watchPerEvent, watchControl, watchTicked prometheus.Histogram

	leaseGranted, leaseRevoked, leaseRenewed, leaseExpired prometheus.Counter
	leaseTTL                                               prometheus.Histogram
}

func (v *mvccMetrics) register(r registrar) {
	v.ranges = r.counter("etcd_mvcc_range_total", "Ranges.")
	v.puts = r.counter("etcd_mvcc_put_total", "Puts.")
	v.deletes = r.counter("etcd_mvcc_delete_total", "Deletes.")
	v.txns = r.counter("etcd_mvcc_txn_total", "Transactions with more than one operation.")
	v.putBytes = r.gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of all keys and values put.")
	v.hash = r.histogram("etcd_mvcc_hash_duration_seconds", "How long a hash of the whole database takes.", doubling(0.01, 15))
	v.hashRev = r.histogram("etcd_mvcc_hash_rev_duration_seconds", "How long a hash up to a revision takes.", doubling(0.01, 15))
	v.indexCompactionPause = r.histogram("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "How long compaction holds the index.", doubling(0.5, 14))
	v.compactionPause = r.histogram("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "How long one piece of a compaction takes.", doubling(1, 13))
	v.compactionTotal = r.histogram("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "How long a compaction takes.", doubling(100, 14))
	v.compactionLast = r.gauge("etcd_debugging_mvcc_db_compaction_last", "Unix time of the last compaction, 0 after a start.")
	v.compactedKeys = r.counter("etcd_debugging_mvcc_db_compaction_keys_total", "Revisions deleted by compaction.")
	v.events = r.counter("etcd_debugging_mvcc_events_total", "Events sent to watchers.")
	v.watchSend = r.histogram("etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", "How long it takes to send a watch response.", doubling(0.001, 14))
	v.watchPerEvent = r.histogram("etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", "The same for each event of it.", doubling(0.001, 14))
	v.watchControl = r.histogram("etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "How long it takes to send that a watch was created or cancelled.", doubling(0.001, 14))
	v.watchTicked = r.histogram("etcd_debugging_server_watch_send_loop_progress_duration_seconds", "How long it takes to send progress notifications.", doubling(0.001, 14))
	v.leaseGranted = r.counter("etcd_debugging_lease_granted_total", "Leases granted.")
	v.leaseRevoked = r.counter("etcd_debugging_lease_revoked_total", "Leases revoked.")
	v.leaseRenewed = r.counter("etcd_debugging_lease_renewed_total", "Leases renewed, as the leader sees them.")
	v.leaseExpired = r.counter("etcd_debugging_server_lease_expired_total", "Leases that ran out.")
	v.leaseTTL = r.histogram("etcd_debugging_lease_ttl_total", "Times to live of granted leases in seconds.", doubling(1, 24))
}

func (v *mvccMetrics) Ranged()       { v.ranges.Inc() }
func (v *mvccMetrics) Deleted(n int) { v.deletes.Add(float64(n)) }

// Put is told the size of key and value.
func (v *mvccMetrics) Put(bytes int) {
	v.puts.Inc()
	v.putBytes.Add(float64(bytes))
}

// Txn is told the number of operations that a transaction performed.
func (v *mvccMetrics) Txn(operations int) {
	if operations > 1 {
		v.txns.Inc()
	}
}

func (v *mvccMetrics) Hashed(took time.Duration)      { v.hash.Observe(took.Seconds()) }
func (v *mvccMetrics) HashedToRev(took time.Duration) { v.hashRev.Observe(took.Seconds()) }

// IndexCompacted is told how long compaction held the index.
func (v *mvccMetrics) IndexCompacted(held time.Duration) {
	v.indexCompactionPause.Observe(milliseconds(held))
}

// CompactionPiece is told of each piece of a compaction.
func (v *mvccMetrics) CompactionPiece(deleted int, took time.Duration) {
	v.compactionPause.Observe(milliseconds(took))
	v.compactedKeys.Add(float64(deleted))
}

// Compacted is told when a compaction is done.
func (v *mvccMetrics) Compacted(took time.Duration) {
	v.compactionTotal.Observe(milliseconds(took))
	v.compactionLast.Set(float64(time.Now().Unix()))
}

// WatchSent is told of each response with events.
func (v *mvccMetrics) WatchSent(events int, took time.Duration) {
	v.events.Add(float64(events))
	v.watchSend.Observe(took.Seconds())
	if events > 0 {
		v.watchPerEvent.Observe(took.Seconds() / float64(events))
	}
}

func (v *mvccMetrics) WatchControlSent(took time.Duration)  { v.watchControl.Observe(took.Seconds()) }
func (v *mvccMetrics) WatchProgressSent(took time.Duration) { v.watchTicked.Observe(took.Seconds()) }

// LeaseGranted is told the time to live in seconds.
func (v *mvccMetrics) LeaseGranted(ttlSeconds int64) {
	v.leaseGranted.Inc()
	v.leaseTTL.Observe(float64(ttlSeconds))
}

func (v *mvccMetrics) LeaseRevoked()      { v.leaseRevoked.Inc() }
func (v *mvccMetrics) LeaseRenewed()      { v.leaseRenewed.Inc() }
func (v *mvccMetrics) LeaseExpired(n int) { v.leaseExpired.Add(float64(n)) }
