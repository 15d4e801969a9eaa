package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/server/config"
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
		d.wal = filepath.Join(cfg.DataDir, "member", "wal")
	}
	return d
}

// transferred is where a state transfer at a log index leaves the database it received.
func (d dataDir) transferred(index uint64) string {
	return filepath.Join(d.snap, fmt.Sprintf("%016x.snap.db", index))
}

// prepare creates the directories, checks that they can be written, and removes what an interrupted process left.
func (d dataDir) prepare(logger *zap.Logger) error {
	if info, err := os.Stat(d.root); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("--data-dir %q is a file, not a directory", d.root)
		}
		if info.Mode().Perm() != dirMode {
			logger.Warn("the data directory may be read by others", zap.String("dir", d.root),
				zap.Stringer("mode", info.Mode().Perm()), zap.String("recommended", "-rwx------"))
		}
	}
	for _, dir := range []string{d.root, d.snap} {
		if err := os.MkdirAll(dir, dirMode); err != nil {
			return fmt.Errorf("--data-dir: %w", err)
		}
	}
	probe, err := os.CreateTemp(d.snap, "tmp-writable-*")
	if err != nil {
		return fmt.Errorf("--data-dir %q is not writable: %w", d.root, err)
	}
	probe.Close()
	os.Remove(probe.Name())
	if _, err := os.Stat(filepath.Join(d.root, "proxy")); err == nil {
		return fmt.Errorf("--data-dir %q belongs to an etcd v2 proxy; choose another one", d.root)
	}
	return nil
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
		var index uint64
		if n, _ := fmt.Sscanf(e.Name(), "%016x.snap.db", &index); n == 1 && index <= installed {
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
	if err != nil {
		return false, fmt.Errorf("--wal-dir: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".wal") {
			return true, nil
		}
	}
	return false, nil
}

func (d dataDir) hasDatabase() bool {
	_, err := os.Stat(d.db)
	return err == nil
}
