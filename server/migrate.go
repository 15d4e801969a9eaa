package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/walpb"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
	"github.com/upkeep-kv/upkeep/server/config"
)

// MigrateOptions of Migrate.
type MigrateOptions struct {
	DataDir string
	WALDir  string // empty: inside DataDir
	// Version of etcd that is to start from the directory, as "3.7.0".
	Version string
	// Force cuts off entries at the end of the log that etcd cannot read and of which nobody here knows whether they were
	// acknowledged.
	Force  bool
	Logger *zap.Logger
}

// ErrUncommitted: the end of the log holds commands of which this member alone cannot know whether they came to be.
var ErrUncommitted = errors.New("entries that etcd cannot read, and this member does not know whether a majority has them")

// Migrate makes the directory of a stopped member one that etcd starts from. All that is known to be committed is
// applied and made durable, then the log is replaced by one that goes on from there, and what etcd does not know goes.
// Each step leaves a directory that either this program or etcd starts from, and doing it again finishes it.
func Migrate(ctx context.Context, opts MigrateOptions) error {
	cfg := config.Default()
	cfg.DataDir, cfg.WALDir = opts.DataDir, opts.WALDir
	cfg.Complete()
	s := newServer(cfg, Options{Logger: zap.NewNop()}) // what it has to say is of servers
	close(s.started)
	done, err := s.migrated(opts.Version)
	if err != nil || done {
		if done {
			opts.Logger.Info("storage version up-to-date", zap.String("storage-version", minorVersion(opts.Version)))
		}
		return err
	}
	err = s.migrate(ctx, opts)
	if err = errors.Join(err, s.stop()); err != nil {
		return err
	}
	if err := backend.Edit(s.dir.db, versionOps(opts.Version), backend.Upkeep); err != nil {
		return err
	}
	opts.Logger.Info("updated storage version", zap.String("new-storage-version", opts.Version))
	return nil
}

// migrated tells whether the directory is as etcd of that version would have it.
func (s *Server) migrated(version string) (bool, error) {
	started, err := s.dir.hasWAL()
	if err != nil {
		return false, err
	}
	if _, err := os.Stat(s.dir.db); err != nil {
		return false, err
	}
	if !started {
		return false, fmt.Errorf("there is no log in %s: %w", s.dir.wal, fs.ErrNotExist)
	}
	if err := s.checkDirectory(); err != nil {
		return false, err
	}
	file, err := backend.OpenFile(s.dir.db)
	if err != nil {
		return false, err
	}
	defer file.Close()
	found := map[string]string{"storageVersion": "3.5.0"} // etcd 3.5 does not write one
	for _, bucket := range []backend.Bucket{backend.Meta, backend.Cluster} {
		if err := file.Scan(bucket, nil, nil, func(k, v []byte) error { found[string(k)] = string(v); return nil }); err != nil {
			return false, err
		}
	}
	recovered, err := wal.Load(s.disk.fs(), s.dir.wal)
	if err != nil {
		return false, err
	}
	return !file.Has(backend.Upkeep) && found["storageVersion"] == version && found["clusterVersion"] == version &&
		!slices.ContainsFunc(recovered.Entries, raftnode.Own), nil
}

// versionOps are what etcd of a version expects the database to say of itself.
func versionOps(version string) []backend.Op {
	storage := backend.Op{Bucket: backend.Meta, Key: []byte("storageVersion"), Value: []byte(version)}
	if version == oldestAdopted {
		storage.Delete = true // it knows no such key
	}
	return []backend.Op{storage,
		{Bucket: backend.Cluster, Key: []byte("clusterVersion"), Value: []byte(version)},
		{Bucket: backend.Cluster, Key: []byte("downgrade"), Delete: true},
	}
}

// migrate is the part that needs the state machine.
func (s *Server) migrate(ctx context.Context, opts MigrateOptions) error {
	if err := s.parseTokens(); err != nil {
		return err
	}
	if err := s.openBackend(ctx); err != nil {
		return err
	}
	log, err := s.openWAL(ctx, Options{})
	if err != nil {
		return err
	}
	defer log.wal.Close()
	if err := s.openState(log); err != nil {
		return err
	}
	conf, tail, err := s.applyCommitted(log.recovered)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(tail, raftnode.Own); i >= 0 {
		if !opts.Force {
			return fmt.Errorf("the log %s ends with %d %w: start all members once more, let them run for some seconds without "+
				"writing to them, and stop them; or use --force to drop what may have been acknowledged", s.dir.wal, len(tail)-i, ErrUncommitted)
		}
		opts.Logger.Warn("dropped the end of the log", zap.Int("entries", len(tail)-i), zap.Uint64("from-index", tail[i].GetIndex()))
		tail = tail[:i]
	}
	if err := s.backend.Flush(ctx); err != nil {
		return err
	}
	index, term := s.backend.Durable()
	if index == 0 {
		return nil // it has joined and heard nothing yet
	}
	if err := s.writeSnap(index, term, conf, opts.Version); err != nil {
		return err
	}
	hs := log.recovered.HardState
	opts.Logger.Info("the database holds the log", zap.Uint64("index", index), zap.Int("entries-left", len(tail)))
	return log.wal.Rebase(&walpb.Snapshot{Index: new(index), Term: new(term), ConfState: wal.FromConfState(conf)}, tail,
		&raftpb.HardState{Term: new(hs.GetTerm()), Vote: new(hs.GetVote()), Commit: new(index)})
}

// applyCommitted applies the entries that are known to be committed, and returns the configuration and the entries
// after that. Where one member is the majority, all that is in its log is committed.
func (s *Server) applyCommitted(recovered *wal.Recovered) (*raftpb.ConfState, []*raftpb.Entry, error) {
	base, applied := recovered.Snapshot.GetIndex(), s.backendApplied()
	conf := s.cluster.ConfState()
	entries := recovered.Entries[applied-base:]
	commit := max(recovered.HardState.GetCommit(), applied)
	known := min(int(commit-applied), len(entries))
	conf, err := raftnode.Replay(s.machine, conf, entries[:known])
	for entries = entries[known:]; err == nil && len(entries) > 0; entries = entries[1:] {
		if len(conf.GetVoters()) != 1 || conf.GetVoters()[0] != s.id {
			break
		}
		conf, err = raftnode.Replay(s.machine, conf, entries[:1])
	}
	return conf, entries, err
}

// minorVersion is "3.7" of "3.7.0".
func minorVersion(version string) string {
	if n := len(version); n > 2 && version[n-2:] == ".0" {
		return version[:n-2]
	}
	return version
}
