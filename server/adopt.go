package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/raftnode/snapfile"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
	"github.com/upkeep-kv/upkeep/server/member"
)

// Versions of etcd whose directories can be gone on from.
const (
	oldestAdopted = "3.5.0"
	newestAdopted = ClusterVersion
)

// checkDirectory refuses what this program cannot go on from, before anything in the directory is changed: what another
// program has left there is still that program's.
func (s *Server) checkDirectory() error {
	if _, err := os.Stat(filepath.Join(s.dir.root, "proxy")); err == nil {
		return fmt.Errorf("--data-dir %q belongs to an etcd v2 proxy; choose another one", s.dir.root)
	}
	started, err := s.dir.hasWAL()
	if err != nil {
		return err
	}
	var recovered *wal.Recovered
	if started {
		lock, err := s.dir.lockWAL()
		if err != nil {
			return err
		}
		defer lock.Close()
		if recovered, err = wal.Load(s.disk.fs(), s.dir.wal); err != nil {
			return err
		}
	}
	file, err := backend.OpenFile(s.dir.db)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return s.checkWithoutDatabase(recovered)
	case errors.Is(err, backend.ErrLocked):
		return fmt.Errorf("--data-dir %q is in use: %w", s.dir.root, err)
	case errors.Is(err, backend.ErrCorrupt):
		return fmt.Errorf("%w; %s", err, remedyDatabase)
	case err != nil:
		return fmt.Errorf("--data-dir %q: %w", s.dir.root, err)
	}
	defer file.Close()
	s.walked = true
	if applied, _ := file.Applied(); applied == 0 {
		err = s.checkApplied(file.Scan)
	}
	if err == nil && !started {
		return s.checkWithoutLog(file)
	}
	if err != nil {
		return err
	}
	return s.checkStarted(file, recovered)
}

// checkWithoutDatabase lets a member start whose log holds everything that has ever happened.
func (s *Server) checkWithoutDatabase(recovered *wal.Recovered) error {
	switch {
	case recovered == nil:
		return nil
	case recovered.Snapshot.GetIndex() == 0:
		return s.checkReplay(recovered, 0)
	}
	if _, err := os.Stat(s.dir.transferred(recovered.Snapshot.GetIndex())); err == nil {
		return nil // a received one is about to take its place
	}
	return fmt.Errorf("database file (%s) of the backend is missing, and the log %s starts behind index %d; %s",
		s.dir.db, s.dir.wal, recovered.Snapshot.GetIndex(), remedyDatabase)
}

func (s *Server) checkWithoutLog(file *backend.File) error {
	applied, _ := file.Applied()
	if applied == 0 {
		return nil
	}
	return fmt.Errorf("the database %s holds the log up to index %d, but there is no log in %s: point --wal-dir at "+
		"it, or restore a snapshot into a new directory", s.dir.db, applied, s.dir.wal)
}

// checkStarted looks at the directory of a member that has started before.
func (s *Server) checkStarted(file *backend.File, recovered *wal.Recovered) error {
	applied, term := file.Applied()
	if err := s.checkVersions(file.Scan); err != nil {
		return err
	}
	if err := s.checkBelong(recovered, applied, term); err != nil {
		return err
	}
	s.id, s.clusterID = recovered.Metadata.GetNodeID(), recovered.Metadata.GetClusterID()
	if applied < recovered.Snapshot.GetIndex() {
		if err := s.checkTransferred(applied, recovered.Snapshot.GetIndex()); err != nil {
			return err
		}
	} else if err := s.checkMembership(file.Scan, applied); err != nil {
		return err
	}
	if err := s.checkRoles(file, recovered, applied); err != nil {
		return err
	}
	if err := s.checkV2Keys(); err != nil {
		return err
	}
	return s.checkReplay(recovered, applied)
}

// checkVersions refuses a directory whose schema or cluster is of a version that is not known here.
func (s *Server) checkVersions(scan member.Scan) error {
	var versions []string
	for _, where := range []struct {
		bucket backend.Bucket
		key    string
	}{{backend.Meta, "storageVersion"}, {backend.Cluster, "clusterVersion"}} {
		err := scan(where.bucket, []byte(where.key), []byte(where.key+"\x00"), func(_, v []byte) error {
			versions = append(versions, string(v))
			return nil
		})
		if err != nil {
			return s.unusable(err)
		}
	}
	for _, v := range versions {
		if err := s.checkVersion(v); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) checkVersion(version string) error {
	switch {
	case olderVersion(version, oldestAdopted):
		return fmt.Errorf("--data-dir %q is of version %s, and the oldest that can be started from is %s: bring the cluster to "+
			"etcd 3.5 first", s.dir.root, version, oldestAdopted)
	case olderVersion(newestAdopted, version):
		return fmt.Errorf("--data-dir %q is of version %s, and the newest that can be started from is %s: downgrade the cluster "+
			"with the program that wrote it, or use a newer version of this one", s.dir.root, version, newestAdopted)
	}
	return nil
}

// checkBelong refuses a log and a database that are not of the same history.
func (s *Server) checkBelong(recovered *wal.Recovered, applied, term uint64) error {
	last := recovered.Snapshot.GetIndex()
	if n := len(recovered.Entries); n > 0 {
		last = recovered.Entries[n-1].GetIndex()
	}
	if applied > last {
		return fmt.Errorf("the database %s is applied up to index %d, but its log %s ends at %d: "+
			"they do not belong together, or the log has lost its end; restore a snapshot or remove and re-add the member",
			s.dir.db, applied, s.dir.wal, last)
	}
	if logged := termAt(recovered, applied); term != 0 && logged != 0 && logged != term {
		return fmt.Errorf("the database %s is applied up to index %d of term %d, but that entry "+
			"of its log %s is of term %d: they do not belong together; %s", s.dir.db, applied, term, s.dir.wal, logged, remedyDatabase)
	}
	return nil
}

// checkRoles compares who votes by the database with who votes by the log. Older patches of etcd 3.5 did not note in the
// database that a learner was promoted; to go on with that would be to count the wrong majority.
func (s *Server) checkRoles(file *backend.File, recovered *wal.Recovered, applied uint64) error {
	conf := wal.ToConfState(recovered.Snapshot.GetConfState())
	if len(conf.VotersOutgoing) > 0 || len(conf.LearnersNext) > 0 {
		return fmt.Errorf("the log %s: the snapshot record at index %d: %w", s.dir.wal, recovered.Snapshot.GetIndex(),
			raftnode.ErrJointConsensus)
	}
	if applied < recovered.Snapshot.GetIndex() {
		return nil // a received database is about to take its place
	}
	learner := map[uint64]bool{}
	for _, id := range conf.Voters {
		learner[id] = false
	}
	for _, id := range conf.Learners {
		learner[id] = true
	}
	base := recovered.Snapshot.GetIndex()
	for _, e := range recovered.Entries[:applied-base] {
		if change, ok := raftnode.RoleChange(e); ok {
			learner[change.ID] = change.Learner
		}
	}
	return file.Scan(backend.Members, nil, nil, func(_, v []byte) error {
		var m member.Member
		if err := json.Unmarshal(v, &m); err != nil {
			return s.unusable(fmt.Errorf("members bucket: %w", err))
		}
		if logged, known := learner[m.ID]; known && logged != m.IsLearner {
			return fmt.Errorf("the database %s and the log %s disagree on whether member %x votes, as a defect of etcd before "+
				"3.5.22 left them: start the member with the newest etcd 3.5 once, which corrects the database", s.dir.db, s.dir.wal, m.ID)
		}
		return nil
	})
}

// checkV2Keys refuses a directory that holds keys which clients have stored through the v2 API.
func (s *Server) checkV2Keys() error {
	names, err := snapfile.List(s.disk.fs(), s.dir.snap)
	if err != nil || len(names) == 0 {
		return err
	}
	path := filepath.Join(s.dir.snap, names[0])
	snap, err := snapfile.Read(s.disk.fs(), path)
	if err != nil {
		return nil // the database is what counts; etcd, too, passes over what it cannot read
	}
	if snap.V2Keys {
		return fmt.Errorf("the snapshot file %s holds keys of the v2 API, which are not kept any more: they would be lost; "+
			"migrate or delete them with etcd 3.5", path)
	}
	return nil
}

func (s *Server) checkReplay(recovered *wal.Recovered, applied uint64) error {
	for _, e := range recovered.Entries {
		if err := raftnode.Replayable(e, e.GetIndex() <= applied); err != nil {
			return fmt.Errorf("the log %s: %w; start the member once with the program that wrote the log, and stop it again, "+
				"or restore a snapshot", s.dir.wal, err)
		}
	}
	return nil
}
