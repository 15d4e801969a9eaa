package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/walpb"
	"github.com/upkeep-kv/upkeep/raftnode/snapfile"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
)

// The first entries of a restored log are one configuration change per member, all of this term.
const restoredTerm = 1

// Run carries the plan out. The steps, each durable before the next:
//
//	build     <data dir>/restore.part/member with database, .snap file and log
//	claim     only with a log directory elsewhere: note its name in the stage, then rename the log there
//	publish   rename restore.part/member to <data dir>/member
//	clean up  remove the stage
//
// An error removes what was made. A crash before publish leaves a data directory that holds restore.part only; Plan and
// Run start over on it. A log in place without a database makes a server refuse to start, so the log goes first.
func (p *RestorePlan) Run(ctx context.Context) (result RestoreResult, err error) {
	o := &p.options
	fields := []zap.Field{zap.String("path", o.SnapshotPath), zap.String("wal-dir", o.WALDir),
		zap.String("data-dir", o.DataDir), zap.String("snap-dir", filepath.Join(o.DataDir, memberName, "snap"))}
	o.Logger.Info("restoring snapshot", fields...)
	if err := p.build(ctx, &result); err != nil {
		return RestoreResult{}, errors.Join(err, p.undo())
	}
	if err := p.publish(); err != nil {
		return RestoreResult{}, errors.Join(err, p.undo())
	}
	if err := errors.Join(os.RemoveAll(p.stage), vfs.OS{}.SyncDir(o.DataDir)); err != nil {
		o.Logger.Warn("could not remove the temporary directory of the restore", zap.String("path", p.stage), zap.Error(err))
	}
	o.Logger.Info("restored snapshot", fields...)
	return result, nil
}

// Restore is Plan and Run.
func Restore(ctx context.Context, options RestoreOptions) (RestoreResult, error) {
	p, err := Plan(ctx, options)
	if err != nil {
		return RestoreResult{}, err
	}
	return p.Run(ctx)
}

// clear removes what an interrupted restore left.
func (p *RestorePlan) clear() error {
	if !p.walInside {
		err := os.RemoveAll(p.stagedWAL)
		if p.claimed() {
			err = errors.Join(err, os.RemoveAll(p.options.WALDir))
		}
		if err != nil {
			return err
		}
	}
	return os.RemoveAll(p.stage)
}

func (p *RestorePlan) undo() error {
	err := p.clear()
	if p.madeDataDir {
		err = errors.Join(err, os.RemoveAll(p.options.DataDir))
	}
	return err
}

func (p *RestorePlan) build(ctx context.Context, result *RestoreResult) error {
	if err := p.clear(); err != nil {
		return err
	}
	snapDir := filepath.Join(p.stage, memberName, "snap")
	if err := os.MkdirAll(snapDir, 0o700); err != nil {
		return err
	}
	database := filepath.Join(snapDir, "db")
	if err := p.copyDatabase(ctx, database); err != nil {
		return err
	}
	// The file may have changed since Plan looked at it; this is what counts.
	if err := p.planRevision(ctx, database); err != nil {
		return err
	}
	records, err := p.memberRecords()
	if err != nil {
		return err
	}
	if err := p.changeDatabase(ctx, database, records, result); err != nil {
		return err
	}
	result.MemberID, result.ClusterID = p.self.ID, p.clusterID
	if err := p.writeLog(records); err != nil {
		return err
	}
	if err := p.writeSnap(snapDir); err != nil {
		return err
	}
	return syncDirs(filepath.Join(p.stage, memberName), p.stage, p.options.DataDir, filepath.Dir(p.options.DataDir))
}

func syncDirs(paths ...string) (err error) {
	for _, path := range paths {
		err = errors.Join(err, vfs.OS{}.SyncDir(path))
	}
	return err
}

// copyDatabase copies the file without its trailer, and compares what it copied with that: the file may not be the
// same any more that Plan verified.
func (p *RestorePlan) copyDatabase(ctx context.Context, to string) error {
	from, err := os.Open(p.options.SnapshotPath)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	var t trailerHash
	t.init()
	_, err = io.CopyBuffer(struct{ io.Writer }{target}, io.TeeReader(&contextReader{ctx, from}, &t), make([]byte, 1<<20))
	if err == nil && !p.options.SkipHashCheck {
		err = t.check()
	}
	if err == nil && hasTrailer(info.Size()) {
		err = target.Truncate(info.Size() - int64(len(t.tail)))
	}
	if err == nil {
		err = target.Sync()
	}
	return errors.Join(err, target.Close())
}

// memberRecord is a member as it stands in bucket `members` and in the log. The order of the fields is etcd's.
type memberRecord struct {
	ID       uint64   `json:"id"`
	PeerURLs []string `json:"peerURLs"`
	Name     string   `json:"name,omitempty"`
}

func (p *RestorePlan) memberRecords() (records []wal.BootstrapMember, err error) {
	for _, m := range p.members {
		text, err := json.Marshal(memberRecord{ID: m.ID, PeerURLs: m.PeerURLs, Name: m.Name})
		if err != nil {
			return nil, err
		}
		records = append(records, wal.BootstrapMember{ID: m.ID, Context: text})
	}
	return records, nil
}

func (p *RestorePlan) writeLog(records []wal.BootstrapMember) error {
	metadata := &walpb.Metadata{NodeID: &p.self.ID, ClusterID: &p.clusterID}
	if err := os.MkdirAll(filepath.Dir(p.stagedWAL), 0o700); err != nil {
		return err
	}
	return wal.Bootstrap(vfs.OS{}, p.stagedWAL, metadata, wal.BootstrapState{Members: records, Restored: true})
}

func (p *RestorePlan) writeSnap(dir string) error {
	s := &snapfile.Snapshot{Term: restoredTerm, Index: uint64(len(p.members)), ConfState: new(raftpb.ConfState)}
	for _, m := range p.members {
		s.Members = append(s.Members, snapfile.Member{ID: m.ID, PeerURLs: m.PeerURLs})
		s.ConfState.Voters = append(s.ConfState.Voters, m.ID)
	}
	_, err := snapfile.Write(vfs.OS{}, dir, s)
	return err
}

// publish makes the staged member the member.
func (p *RestorePlan) publish() error {
	o := &p.options
	if !p.walInside {
		if err := p.publishLog(); err != nil {
			return err
		}
	}
	member := filepath.Join(o.DataDir, memberName)
	if _, err := os.Lstat(member); err == nil {
		return fmt.Errorf("data-dir %q not empty or could not be read", o.DataDir) // appeared since Plan
	}
	if err := os.Rename(filepath.Join(p.stage, memberName), member); err != nil {
		return err
	}
	return syncDirs(o.DataDir)
}

func (p *RestorePlan) publishLog() error {
	absolute, err := filepath.Abs(p.options.WALDir)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(absolute); err == nil {
		return p.walExists() // appeared since Plan
	}
	claim := filepath.Join(p.stage, claimName)
	err = writePart(vfs.OS{}, claim, func(f vfs.File) error {
		_, err := io.WriteString(f, absolute)
		return err
	})
	if err != nil {
		return err
	}
	if err := os.Rename(p.stagedWAL, absolute); err != nil {
		return err
	}
	return syncDirs(filepath.Dir(absolute))
}
