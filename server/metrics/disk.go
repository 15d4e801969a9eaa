package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type diskMetrics struct {
	walFsync, walWrite      prometheus.Histogram
	walBytes                prometheus.Gauge
	commit, rebalance       prometheus.Histogram
	spill, write            prometheus.Histogram
	defrag, backendSnapshot prometheus.Histogram
	defragging              prometheus.Gauge
	snapFsync               prometheus.Histogram
	snapSave                prometheus.Histogram
	snapDBSave, snapDBFsync prometheus.Histogram
}

func (d *diskMetrics) register(r registrar) {
	d.walFsync = r.histogram("etcd_disk_wal_fsync_duration_seconds", "How long the log takes to reach the disk.", doubling(0.001, 14))
	d.walWrite = r.histogram("etcd_disk_wal_write_duration_seconds", "How long a write to the log takes.", doubling(0.001, 14))
	d.walBytes = r.gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the log.")
	d.commit = r.histogram("etcd_disk_backend_commit_duration_seconds", "How long a commit of the database takes.", doubling(0.001, 14))
	d.rebalance = r.histogram("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "Part of a commit: rebalancing pages.", doubling(0.001, 14))
	d.spill = r.histogram("etcd_debugging_disk_backend_commit_spill_duration_seconds", "Part of a commit: splitting pages.", doubling(0.001, 14))
	d.write = r.histogram("etcd_debugging_disk_backend_commit_write_duration_seconds", "Part of a commit: writing pages.", doubling(0.001, 14))
	d.defrag = r.histogram("etcd_disk_backend_defrag_duration_seconds", "How long a defragmentation takes.", doubling(0.1, 13))
	d.backendSnapshot = r.histogram("etcd_disk_backend_snapshot_duration_seconds", "How long it takes to stream the database.", doubling(0.01, 17))
	d.defragging = r.gauge("etcd_disk_defrag_inflight", "1 while a defragmentation runs.")
	d.snapFsync = r.histogram("etcd_snap_fsync_duration_seconds", "How long a raft snapshot file takes to reach the disk.", doubling(0.001, 14))
	d.snapSave = r.histogram("etcd_debugging_snap_save_total_duration_seconds", "How long a raft snapshot file takes to be written.", doubling(0.001, 14))
	d.snapDBFsync = r.histogram("etcd_snap_db_fsync_duration_seconds", "How long a received database takes to reach the disk.", doubling(0.001, 14))
	d.snapDBSave = r.histogram("etcd_snap_db_save_total_duration_seconds", "How long a received database takes to be saved.", doubling(0.1, 10))
}

// WALSynced is told how long one fdatasync of the log took.
func (d *diskMetrics) WALSynced(took time.Duration) { d.walFsync.Observe(took.Seconds()) }

// WALWritten is told how many bytes were written to the log.
func (d *diskMetrics) WALWritten(bytes int) { d.walBytes.Add(float64(bytes)) }

// WALWriteTook is told how long a write to the log took, without the sync.
func (d *diskMetrics) WALWriteTook(took time.Duration) { d.walWrite.Observe(took.Seconds()) }

// Commit is one commit of the database, with its parts.
type Commit struct {
	Took, Rebalance, Spill, Write time.Duration
	Operations, Bytes             int
}

// Committed is told of every commit of the database.
func (m *Metrics) Committed(c Commit) {
	m.commit.Observe(c.Took.Seconds())
	m.rebalance.Observe(c.Rebalance.Seconds())
	m.spill.Observe(c.Spill.Seconds())
	m.write.Observe(c.Write.Seconds())
	m.commitOperations.Observe(float64(c.Operations))
	m.commitBytes.Observe(float64(c.Bytes))
}

// SnapshotStreamed is told how long a snapshot of the database took to stream.
func (d *diskMetrics) SnapshotStreamed(took time.Duration) { d.backendSnapshot.Observe(took.Seconds()) }

// RaftSnapshotSaved is told how long a raft snapshot file took to be on the disk. Hardly any of that is not its sync.
func (d *diskMetrics) RaftSnapshotSaved(took time.Duration) {
	d.snapSave.Observe(took.Seconds())
	d.snapFsync.Observe(took.Seconds())
}

// DBReceived is told how long a database from the leader took to be saved.
func (d *diskMetrics) DBReceived(took time.Duration) { d.snapDBSave.Observe(took.Seconds()) }

// DBSynced is told how long the sync of a received database took.
func (d *diskMetrics) DBSynced(took time.Duration) { d.snapDBFsync.Observe(took.Seconds()) }
