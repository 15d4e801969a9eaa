package metrics

// Sources are levels that others keep; each is asked when a scrape comes. Fields that are nil have no metric.
// Every function may be called from any goroutine until the server's listeners are closed, and must be quick.
type Sources struct {
	HasLeader, IsLeader, IsLearner func() bool
	Committed, Applied             func() uint64 // raft indexes

	QuotaBytes                             func() int64
	DBSize, DBInUse, DBPending, DBReadTxs  func() int64
	Keys, CurrentRevision, CompactRevision func() int64
	WatchStreams, Watchers                 func() int64
	SlowWatchers, PendingEvents            func() int64
	Leases                                 func() int64
	PaceShare, PacePiece                   func() float64 // of the time; in seconds
	AuthRevision                           func() uint64
	BackupTime, BackupAge                  func() float64 // of the cluster's newest backup

	MaintenancePaused                   func() bool
	MaintenanceWaiting, MaintenanceRuns func() int64
}

// Observe registers the sources. It may be called once for each field.
func (m *Metrics) Observe(s Sources) {
	r := registrar{m.registry}
	truth := func(name, help string, value func() bool) {
		if value != nil {
			r.gaugeFunc(name, help, func() float64 { return oneIf(value()) })
		}
	}
	index := func(name, help string, value func() uint64) {
		if value != nil {
			r.gaugeFunc(name, help, func() float64 { return float64(value()) })
		}
	}
	level := func(name, help string, value func() int64) {
		if value != nil {
			r.gaugeFunc(name, help, func() float64 { return float64(value()) })
		}
	}
	truth("etcd_server_has_leader", "Whether a leader is known.", s.HasLeader)
	truth("etcd_server_is_leader", "Whether this member is the leader.", s.IsLeader)
	truth("etcd_server_is_learner", "Whether this member is a learner.", s.IsLearner)
	index("etcd_server_proposals_committed_total", "Index of the last committed log entry.", s.Committed)
	index("etcd_server_proposals_applied_total", "Index of the last applied log entry.", s.Applied)
	level("etcd_server_quota_backend_bytes", "Quota of the database in bytes.", s.QuotaBytes)
	level("etcd_mvcc_db_total_size_in_bytes", "Allocated size of the database in bytes.", s.DBSize)
	level("etcd_mvcc_db_total_size_in_use_in_bytes", "Size of the database in bytes without free pages.", s.DBInUse)
	level("upkeep_backend_pending_bytes", "Bytes that are applied but not yet committed to the database.", s.DBPending)
	level("etcd_mvcc_db_open_read_transactions", "Open read transactions of the database.", s.DBReadTxs)
	level("etcd_debugging_mvcc_keys_total", "Keys.", s.Keys)
	level("etcd_debugging_mvcc_current_revision", "Current revision.", s.CurrentRevision)
	level("etcd_debugging_mvcc_compact_revision", "Revision of the last compaction.", s.CompactRevision)
	level("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", s.WatchStreams)
	level("etcd_debugging_mvcc_watcher_total", "Watchers.", s.Watchers)
	level("etcd_debugging_mvcc_slow_watcher_total", "Watchers that are catching up.", s.SlowWatchers)
	level("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent.", s.PendingEvents)
	fraction := func(name, help string, value func() float64) {
		if value != nil {
			r.gaugeFunc(name, help, value)
		}
	}
	fraction("upkeep_pace_share", "Share of the time that maintenance may work in, by what requests feel.", s.PaceShare)
	fraction("upkeep_pace_piece_seconds", "How long a piece of maintenance may last, by what requests feel.", s.PacePiece)
	fraction("upkeep_backup_last_timestamp_seconds", "When the cluster's newest backup was taken, by whichever member; 0 if none is known.", s.BackupTime)
	fraction("upkeep_backup_last_age_seconds", "How old that is; +Inf if there is none, 0 where no backups are to be taken.", s.BackupAge)
	level("upkeep_lease_total", "Leases.", s.Leases)
	index("etcd_debugging_auth_revision", "Revision of users and roles.", s.AuthRevision)
	truth("upkeep_maintenance_paused", "Whether maintenance is paused.", s.MaintenancePaused)
	level("upkeep_maintenance_waiting", "Pieces of maintenance that are due and cannot be done now.", s.MaintenanceWaiting)
	level("upkeep_maintenance_runs", "Runs on demand that are not over.", s.MaintenanceRuns)
}
