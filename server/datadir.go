package server

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/snapshot"
)

// dataDir knows the paths of a member's files. Source: etcd's layout, storage.md §1.
type dataDir struct {
	root string
	snap string // database, raft snapshot files, state transfers under way
	wal  string
	db   string
}

const dirMode = 0o700

func newDataDir(cfg *config.Config) dataDir {
	snap := filepath.Join(cfg.DataDir, "member", "snap")
	d := dataDir{root: cfg.DataDir, snap: snap, db: filepath.Join(snap, "db"), wal: cfg.WALDir}
	if d.wal == "" {
		d.wal = d.defaultWAL()
	}
	return d
}

func (d dataDir) defaultWAL() string { return filepath.Join(d.root, "member", "wal") }

// transferred is where a state transfer at a log index leaves the database it received.
func (d dataDir) transferred(index uint64) string {
	return filepath.Join(d.snap, fmt.Sprintf("%016x.snap.db", index))
}

// prepare creates the directories and checks that they can be written.
func (d dataDir) prepare(logger *zap.Logger) error {
	if err := d.refuseUnfinished(); err != nil {
		return err
	}
	if err := d.prepareOne("--data-dir", d.root, d.snap); err != nil {
		return err
	}
	if info, err := os.Stat(d.root); err == nil && info.Mode().Perm() != dirMode {
		logger.Warn("the data directory may be read by others", zap.String("dir", d.root),
			zap.Stringer("mode", info.Mode().Perm()), zap.String("recommended", "-rwx------"))
	}
	return d.prepareOne(d.walFlag(), d.wal, d.wal)
}

// refuseUnfinished keeps a member from beginning empty where a restore was broken off.
func (d dataDir) refuseUnfinished() error {
	if _, err := os.Stat(filepath.Join(d.root, snapshot.UnfinishedName)); err != nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(d.root, "member")); !errors.Is(err, fs.ErrNotExist) {
		return nil // all but the cleaning up was done
	}
	return fmt.Errorf("--data-dir %q holds a restore that was broken off (%s): run the restore again, or remove the directory",
		d.root, snapshot.UnfinishedName)
}

// walFlag is the flag that decides where the log is.
func (d dataDir) walFlag() string {
	if d.wal == d.defaultWAL() {
		return "--data-dir"
	}
	return "--wal-dir"
}

// prepareOne creates dir, which the flag names with its parent root, and writes a file there to see that it can.
func (d dataDir) prepareOne(flag, root, dir string) error {
	if info, err := os.Stat(root); err == nil && !info.IsDir() {
		return fmt.Errorf("%s %q is a file, not a directory", flag, root)
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return fmt.Errorf("%s %q: %w", flag, root, err)
	}
	probe, err := os.CreateTemp(dir, "tmp-writable-*")
	if err != nil {
		return fmt.Errorf("%s %q is not writable: %w", flag, root, err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// lockWAL keeps other processes away from the log. The database's own lock does that only for those with the same data
// directory; --wal-dir may be given to two members. etcd locks the segments and not the directory, so these are tried.
func (d dataDir) lockWAL() (io.Closer, error) {
	lock, err := backend.LockDir(d.wal)
	if err == nil {
		var segments []string
		if segments, err = filepath.Glob(filepath.Join(d.wal, "*.wal")); err == nil {
			err = backend.CheckUnlocked(segments)
		}
		if err != nil {
			lock.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s %q is in use: %w", d.walFlag(), d.wal, err)
	}
	return lock, nil
}

// removeLeftovers deletes temporaries. Called with the database locked, so that they are nobody's.
func (d dataDir) removeLeftovers() error {
	entries, err := os.ReadDir(d.snap)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "tmp") {
			errs = append(errs, os.Remove(filepath.Join(d.snap, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// removeTransfers deletes received databases that are older than what is installed. A newer one, whole or in part,
// may still be resumed.
func (d dataDir) removeTransfers(installed uint64) error {
	entries, err := os.ReadDir(d.snap)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		digits, isTransfer := strings.CutSuffix(e.Name(), ".snap.db")
		if index, err := strconv.ParseUint(digits, 16, 64); isTransfer && err == nil && index <= installed {
			errs = append(errs, os.Remove(filepath.Join(d.snap, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// hasWAL tells whether this member has started before.
func (d dataDir) hasWAL() (bool, error) {
	entries, err := os.ReadDir(d.wal)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return false, nil // prepare says so
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", d.walFlag(), err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".wal") {
			return true, nil
		}
	}
	return false, nil
}
