package server

import (
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/raftnode/transport"
	"github.com/upkeep-kv/upkeep/server/metrics"
	"github.com/upkeep-kv/upkeep/server/rpc"
)

// Every part reports through functions of its own; this file ties them to the metrics.

// committed is told of every commit of the backend, on its committer.
func (s *Server) committed(info backend.CommitInfo) {
	s.metrics.Committed(metrics.Commit{
		Took: info.Duration, Write: info.Write, Rebalance: info.Rebalance, Spill: info.Spill,
		Operations: info.Ops, Bytes: info.Bytes,
	})
	if grew := info.Sizes.File > s.committedBytes.Swap(info.Sizes.File); grew {
		s.quotaAlarm.grown(info.Sizes.File)
	}
	s.changed()
}

func (s *Server) nodeObserver() raftnode.Observer {
	m := s.metrics
	return raftnode.Observer{
		LeaderChanged:    func(from, to uint64) { m.LeaderChanged(from, to); s.changed() },
		Applied:          func(uint64) { s.changed() },
		ProposalsPending: m.ProposalsPending,
		ProposalFailed:   m.ProposalFailed,
		EntryCoalesced:   m.EntryProposed,
		ReadIndexSlow:    m.ReadIndexSlow,
		ReadIndexFail:    m.ReadIndexFailed,
		HeartbeatLate:    func(time.Duration) { m.HeartbeatSent(true) },
	}
}

func (s *Server) transportObserver() transport.Observer {
	m := s.metrics
	return transport.Observer{
		Sent: m.PeerSent, SendFailed: m.PeerSendFailed,
		Received: m.PeerReceived, ReceiveFailed: m.PeerReceiveFailed,
		RoundTrip: m.PeerRoundTrip, PeerKnown: m.PeerKnown, PeerActive: m.PeerActive,
		SnapshotSending: m.SnapshotSending, SnapshotSent: m.SnapshotSent,
		SnapshotSynced:    m.DBSynced,
		SnapshotReceiving: m.SnapshotReceiving, SnapshotReceived: func(from uint64, ok bool, took time.Duration) {
			m.SnapshotReceived(from, ok, took)
			if ok {
				m.DBReceived(took)
			}
		},
	}
}

func (s *Server) rpcObserver() rpc.Observer {
	m := s.metrics
	return rpc.Observer{
		Started:       s.callStarted,
		Handled:       s.callHandled,
		Received:      m.MessageReceived,
		Sent:          m.MessageSent,
		ReceivedBytes: m.ClientReceivedBytes,
		SentBytes:     m.ClientSentBytes,
		ClientRequest: m.ClientRequest,
		StreamFailed:  m.StreamFailed,
		WatchSent:     s.watchSent,
	}
}

// watchSent is told of every message to a watching client.
func (s *Server) watchSent(kind rpc.WatchMessage, events int, took time.Duration) {
	switch kind {
	case rpc.WatchEvents:
		s.metrics.WatchSent(events, took)
	case rpc.WatchProgress:
		s.metrics.WatchProgressSent(took)
	default:
		s.metrics.WatchControlSent(took)
	}
}

// observeLevels lets a scrape ask for what the parts keep.
func (s *Server) observeLevels() {
	s.metrics.Observe(metrics.Sources{
		HasLeader:       func() bool { return s.node.Lead() != 0 },
		IsLeader:        s.node.IsLeader,
		IsLearner:       s.learner.Load,
		Committed:       s.node.CommittedIndex,
		Applied:         s.node.AppliedIndex,
		QuotaBytes:      s.limit.Bytes,
		DBSize:          func() int64 { return s.backend.Sizes().File },
		DBInUse:         func() int64 { return s.backend.Sizes().InUse },
		DBPending:       func() int64 { return s.backend.Sizes().Pending },
		DBReadTxs:       func() int64 { return int64(s.backend.Sizes().OpenReadTxs) },
		Keys:            func() int64 { return int64(s.store.Stats().Keys) },
		CurrentRevision: s.store.Revision,
		AuthRevision:    s.auth.Revision,
		CompactRevision: s.store.CompactRevision,
		WatchStreams:    func() int64 { return int64(s.hub.Stats().Streams) },
		Watchers:        func() int64 { return int64(s.hub.Stats().Watchers) },
		SlowWatchers:    func() int64 { return int64(s.hub.Stats().Slow) },
		PendingEvents:   func() int64 { return int64(s.hub.Stats().Pending) },
		Leases:          func() int64 { return int64(s.lessor.Len()) },

		MaintenancePaused:  func() bool { return s.schedule.Now().Paused != nil },
		MaintenanceWaiting: func() int64 { return int64(len(s.schedule.Now().Waiting)) },
		MaintenanceRuns:    s.openRuns,
		BackupTime:         s.lastBackup,
		BackupAge:          s.lastBackupAge,
		PaceShare:          func() float64 { return s.governor.Stats().Share },
		PacePiece:          func() float64 { return s.governor.Stats().Piece.Seconds() },
	})
}

// applyObserver times commands on behalf of the apply goroutine, which reads no clock itself.
type applyObserver struct {
	metrics *metrics.Metrics
	logger  *zap.Logger
	warn    time.Duration // longer than this is slow; 0 or less never
	alarmed chan struct{} // capacity 1; gets a word when an alarm was raised or lowered
	// versioned, of capacity 1, gets a word when the cluster's version was set, or a downgrade enabled or cancelled.
	versioned chan struct{}
	last      time.Time // when the last command ended; apply goroutine only
	// restored is told how long the installation of a received state took, in nanoseconds.
	restored  func(nanos int64)
	restoring time.Time
}

func (o *applyObserver) EntryBegins() { o.last = time.Now() }

func (o *applyObserver) Restoring(active bool) {
	o.metrics.SnapshotApplying(active)
	if active {
		o.restoring = time.Now()
		return
	}
	o.restored(int64(time.Since(o.restoring)))
}

func (o *applyObserver) CommandApplied(r *pb.InternalRaftRequest, value any, err error) {
	now := time.Now()
	took := now.Sub(o.last)
	o.last = now
	o.metrics.Applied(requestKind(r), err == nil, took)
	if o.warn > 0 && took > o.warn {
		o.metrics.SlowApply()
		o.logger.Warn("apply request took too long", zap.Duration("took", took),
			zap.Duration("expected-duration", o.warn), zap.String("request", requestKind(r)), zap.Error(err))
	}
	if err != nil {
		return
	}
	switch {
	case r.Put != nil:
		o.metrics.Put(len(r.Put.Key) + len(r.Put.Value))
	case r.DeleteRange != nil:
		o.metrics.Deleted(1)
	case r.Txn != nil:
		if resp, ok := value.(*pb.TxnResponse); ok {
			o.operations(resp)
		}
	case r.Alarm != nil && r.Alarm.Action != pb.AlarmRequest_GET:
		if resp, ok := value.(*pb.AlarmResponse); ok && len(resp.Alarms) > 0 {
			signal(o.alarmed)
			o.metrics.AlarmChanged(metrics.Alarm{MemberID: r.Alarm.MemberID, Type: r.Alarm.Alarm.String()},
				r.Alarm.Action == pb.AlarmRequest_ACTIVATE)
		}
	case r.ClusterVersionSet != nil:
		o.metrics.SetClusterVersion(r.ClusterVersionSet.Ver)
		signal(o.versioned)
	case r.DowngradeInfoSet != nil:
		signal(o.versioned)
	}
}

// signal leaves a word in a channel of capacity 1, unless there is one.
func signal(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// operations counts what a transaction did, one by one as etcd does.
func (o *applyObserver) operations(resp *pb.TxnResponse) {
	o.metrics.Txn(len(resp.Responses))
	for _, op := range resp.Responses {
		switch {
		case op.GetResponseRange() != nil:
			o.metrics.Ranged()
		case op.GetResponsePut() != nil:
			o.metrics.Put(0)
		case op.GetResponseDeleteRange() != nil:
			o.metrics.Deleted(1)
		case op.GetResponseTxn() != nil:
			o.operations(op.GetResponseTxn())
		}
	}
}

// requestKind is the name of a command in metrics. Source: etcd.
func requestKind(r *pb.InternalRaftRequest) string {
	switch {
	case r.Put != nil:
		return "Put"
	case r.Txn != nil:
		return "Txn"
	case r.DeleteRange != nil:
		return "DeleteRange"
	case r.Range != nil:
		return "Range"
	case r.Compaction != nil:
		return "Compaction"
	case r.LeaseGrant != nil:
		return "LeaseGrant"
	case r.LeaseRevoke != nil:
		return "LeaseRevoke"
	case r.LeaseCheckpoint != nil:
		return "LeaseCheckpoint"
	case r.Alarm != nil:
		return "Alarm"
	case r.ClusterVersionSet != nil:
		return "ClusterVersionSet"
	case r.ClusterMemberAttrSet != nil:
		return "ClusterMemberAttrSet"
	case r.DowngradeInfoSet != nil:
		return "DowngradeInfoSet"
	case r.OnlineRestore != nil:
		return "OnlineRestore"
	case r.RetentionSample != nil:
		return "RetentionSample"
	case r.Maintenance != nil:
		return "Maintenance"
	}
	return authKind(r)
}

func authKind(r *pb.InternalRaftRequest) string {
	switch {
	case r.Authenticate != nil:
		return "Authenticate"
	case r.AuthEnable != nil:
		return "AuthEnable"
	case r.AuthDisable != nil:
		return "AuthDisable"
	case r.AuthStatus != nil:
		return "AuthStatus"
	case r.AuthUserAdd != nil:
		return "AuthUserAdd"
	case r.AuthUserDelete != nil:
		return "AuthUserDelete"
	case r.AuthUserGet != nil:
		return "AuthUserGet"
	case r.AuthUserChangePassword != nil:
		return "AuthUserChangePassword"
	case r.AuthUserGrantRole != nil:
		return "AuthUserGrantRole"
	case r.AuthUserRevokeRole != nil:
		return "AuthUserRevokeRole"
	case r.AuthUserList != nil:
		return "AuthUserList"
	case r.AuthRoleList != nil:
		return "AuthRoleList"
	case r.AuthRoleAdd != nil:
		return "AuthRoleAdd"
	case r.AuthRoleDelete != nil:
		return "AuthRoleDelete"
	case r.AuthRoleGet != nil:
		return "AuthRoleGet"
	case r.AuthRoleGrantPermission != nil:
		return "AuthRoleGrantPermission"
	case r.AuthRoleRevokePermission != nil:
		return "AuthRoleRevokePermission"
	}
	return "Unknown"
}
