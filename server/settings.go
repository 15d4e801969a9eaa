package server

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/mvcc/lease"
	"github.com/upkeep-kv/upkeep/mvcc/watch"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
	"github.com/upkeep-kv/upkeep/server/auth"
	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/server/metrics"
	"github.com/upkeep-kv/upkeep/server/rpc"
	"github.com/upkeep-kv/upkeep/server/tlsconfig"
)

// settings turns the configuration into what each part wants to know.
type settings struct{ *config.Config }

// requestTimeout bounds a request that waits for the log: 5 s, and an election on either side. Source: etcd.
func (c settings) requestTimeout() time.Duration { return 5*time.Second + 2*c.ElectionTimeout }

func (c settings) clientURLs() []string { return texts(c.AdvertiseClientURLs) }
func (c settings) peerURLs() []string   { return texts(c.AdvertisePeerURLs) }

func texts(urls []url.URL) []string {
	out := make([]string, len(urls))
	for i, u := range urls {
		out[i] = u.String()
	}
	return out
}

// minLeaseSeconds is the shortest lease: one that an election cannot outlast.
func (c settings) minLeaseSeconds() int64 {
	return int64((3*c.ElectionTimeout/2 + time.Second - 1) / time.Second)
}

func (c settings) gates() []metrics.Gate {
	var gates []metrics.Gate
	for _, g := range c.Gates.List() {
		gates = append(gates, metrics.Gate(g))
	}
	return gates
}

func (s *Server) mvccConfig() mvcc.Config {
	return mvcc.Config{
		Logger:               s.logger,
		CompactionBatchLimit: s.cfg.CompactionBatchLimit,
		CompactionSleep:      s.cfg.CompactionSleepInterval,
		Pace:                 s.governor,
		OnCompactionPiece:    s.compactionPiece,
		OnCompaction: func(info mvcc.CompactionInfo) {
			s.metrics.IndexCompacted(info.IndexHold)
			s.metrics.Compacted(info.Duration)
		},
	}
}

func (s *Server) leaseConfig() lease.Config {
	return lease.Config{
		MinTTL:            s.cfg.minLeaseSeconds(),
		CheckpointEnabled: s.cfg.Gates.LeaseCheckpoint,
		CheckpointPersist: s.cfg.Gates.LeaseCheckpointPersist,
		Logger:            s.logger,
		Granted:           s.metrics.LeaseGranted,
		Revoked:           s.metrics.LeaseRevoked,
		Renewed:           s.metrics.LeaseRenewed,
	}
}

// parseTokens reads --auth-token before anything is opened.
func (s *Server) parseTokens() (err error) {
	if s.tokens, err = auth.ParseTokens(s.cfg.AuthToken); err != nil {
		return fmt.Errorf("--auth-token %q: %w", s.cfg.AuthToken, err)
	}
	return nil
}

func (s *Server) authConfig() auth.Config {
	return auth.Config{
		Tokens:     s.tokens,
		SimpleTTL:  time.Duration(s.cfg.AuthTokenTTLSeconds) * time.Second,
		BcryptCost: int(s.cfg.BcryptCost),
		// Asked only by calls, which come when the node runs.
		Applied: func() uint64 { return s.node.AppliedIndex() },
		CatchUp: func(ctx context.Context) error { return s.node.LinearizableRead(ctx) },
		Logger:  s.logger,
	}
}

func (s *Server) watchConfig() watch.Config {
	return watch.Config{Logger: s.logger, ProgressInterval: s.cfg.WatchProgressNotifyInterval}
}

func (s *Server) backendConfig() backend.Config {
	return backend.Config{
		Path:             s.dir.db,
		Logger:           s.logger,
		BatchInterval:    s.cfg.BackendBatchInterval,
		BatchLimit:       s.cfg.BackendBatchLimit,
		InitialMmapBytes: initialMmapBytes(s.cfg.QuotaBackendBytes),
		FreelistArray:    s.cfg.BackendFreelistArray,
		NoSync:           s.cfg.UnsafeNoFsync || s.disk.NoSync,
		Mlock:            s.cfg.MemoryMlock,
		OnCommit:         s.committed,
		Pace:             s.governor,
		BeforeCommit:     s.disk.BeforeCommit,
		FreeBytes:        s.disk.FreeBytes,
	}
}

// defaultMmapBytes is address space, not memory: while the file is smaller it never has to be mapped anew, which
// would have to wait for readers.
const defaultMmapBytes = 10 << 30

func initialMmapBytes(quotaBytes int64) int64 {
	return max(defaultMmapBytes, quotaBytes+quotaBytes/10)
}

func (s *Server) rpcOptions() rpc.Options {
	return rpc.Options{
		MaxRequestBytes:      int(s.cfg.MaxRequestBytes),
		MaxTxnOps:            int(s.cfg.MaxTxnOps),
		MaxConcurrentStreams: s.cfg.MaxConcurrentStreams,
		KeepAliveMinTime:     s.cfg.GRPCKeepAliveMinTime,
		KeepAliveInterval:    s.cfg.GRPCKeepAliveInterval,
		KeepAliveTimeout:     s.cfg.GRPCKeepAliveTimeout,
		ElectionTimeout:      s.cfg.ElectionTimeout,
		WarnUnaryDuration:    s.cfg.WarningUnaryRequestDuration,
		CertificateUsers:     s.cfg.ClientTLS.ClientCertAuth,
		NotServingOnDefrag:   s.cfg.Gates.StopGRPCServiceOnDefrag,
		ServerOptions:        []grpc.ServerOption{grpc.Creds(tlsconfig.Terminated())},
	}
}

func (s *Server) rpcDeps() rpc.Deps {
	return rpc.Deps{
		Headers:     headers{s},
		State:       state{s},
		Proposer:    proposer{s},
		Admission:   admission{s},
		KV:          kv{s},
		Watches:     s.hub,
		Leases:      leases{s},
		Cluster:     members{s},
		Maintenance: upkeep{s},
		Auth:        s.auth,
		Upkeep:      operations{s},
		Observer:    s.rpcObserver(),
		Logger:      s.logger,
	}
}

func (s *Server) logField() zap.Field { return zap.String("local-member-id", hexID(s.id)) }

func (s *Server) walOptions() wal.Options {
	keep := int(s.cfg.MaxWALs)
	if keep == 0 {
		keep = math.MaxInt // every segment
	}
	return wal.Options{
		KeepSegments: keep,
		SegmentBytes: s.disk.LogSegmentBytes,
		NoSync:       s.cfg.UnsafeNoFsync,
		OnWrite:      func(bytes int, took time.Duration) { s.metrics.WALWritten(bytes); s.metrics.WALWriteTook(took) },
		OnCramped:    s.crampedLog,
		OnSync:       s.logSynced,
	}
}
