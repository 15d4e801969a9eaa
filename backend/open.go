package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

// lockWait is how long Open waits for the file's lock: long enough for a
// predecessor that is just exiting.
const lockWait = time.Second

// reserveBytes is the least address space mapped. bbolt can only enlarge its map
// while no read transaction is open, and here one always is; so the map must
// never need to grow. Address space costs nothing.
const reserveBytes = 128 << 30

// mapBytes is the size of the map for a file: also eight times what is there.
func mapBytes(cfg *Config, fileBytes int64) int64 {
	return max(cfg.InitialMmapBytes, reserveBytes, 8*fileBytes)
}

// openBolt opens or creates a bbolt file with the options that all our files
// share.
func openBolt(path string, cfg *Config) (*bolt.DB, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		if err = createFile(path, cfg); err == nil {
			info, err = os.Stat(path)
		}
	}
	if err != nil {
		return nil, err
	}
	size := info.Size()
	if size > 0 && (!cfg.Walked || path != cfg.Path) {
		if err := checkStructure(path); err != nil {
			return nil, err
		}
	}
	opts := &bolt.Options{
		Timeout:         lockWait,
		NoFreelistSync:  true,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: int(mapBytes(cfg, size)),
		NoSync:          cfg.NoSync,
		Mlock:           cfg.Mlock,
	}
	if cfg.FreelistArray {
		opts.FreelistType = bolt.FreelistArrayType
	}
	db, err := openMapped(path, opts)
	if errors.Is(err, syscall.ENOMEM) && opts.InitialMmapSize > int(cfg.InitialMmapBytes) {
		// An address space limit; the configured size may fit.
		opts.InitialMmapSize = int(max(cfg.InitialMmapBytes, 2*size))
		db, err = openMapped(path, opts)
	}
	return db, describeOpenError(path, err)
}

// createFile makes an empty store appear whole and durable, since bbolt dies of a
// file that a full disk or a crash has cut short. If another process is faster,
// its file stays.
func createFile(path string, cfg *Config) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+tempInfix+"*")
	if err != nil {
		return fmt.Errorf("backend: create %s: %w", path, err)
	}
	temp := f.Name()
	defer os.Remove(temp)
	if err = f.Close(); err == nil {
		err = fillEmpty(temp, cfg)
	}
	if err == nil {
		err = linkNew(temp, path)
	}
	if err == nil {
		err = vfs.OS{}.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("backend: create %s: %w", path, err)
	}
	return nil
}

func fillEmpty(path string, cfg *Config) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType, NoSync: cfg.NoSync})
	if err != nil {
		return err
	}
	err = createBuckets(db)
	return errors.Join(err, db.Close())
}

// linkNew gives a file its name unless something is there already. Where there
// are no hard links a rename has to do, which cannot rule out that another
// process is just as far.
func linkNew(temp, path string) error {
	err := os.Link(temp, path)
	if err == nil || errors.Is(err, os.ErrExist) {
		return nil
	}
	if _, statErr := os.Stat(path); statErr == nil {
		return nil
	}
	return os.Rename(temp, path)
}

// tempInfix is in the names of files that have not become the store yet: new
// ones, and the copies of defragmentations.
const tempInfix = ".tmp."

// removeLeftovers removes what an interrupted process left. The lock must be
// held, for the files may be those of a defragmentation that runs.
func removeLeftovers(cfg *Config) error {
	leftovers, err := filepath.Glob(cfg.Path + tempInfix + "*")
	if err != nil {
		return err
	}
	for _, name := range leftovers {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		cfg.Logger.Info("removed the leftover of an interrupted defragmentation", zap.String("path", name))
	}
	return nil
}

// openMapped refuses growth beyond the map instead of letting bbolt wait for
// readers that never end. If the file was replaced (by a defragmentation in
// another process) while we waited for its lock, it tries the new one.
func openMapped(path string, opts *bolt.Options) (*bolt.DB, error) {
	opts.MaxSize = opts.InitialMmapSize
	for {
		var opened *os.File
		opts.OpenFile = func(name string, flag int, perm os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, perm)
			opened = f
			return f, err
		}
		db, err := bolt.Open(path, 0o600, opts)
		if err != nil {
			return nil, err
		}
		have, err1 := opened.Stat()
		want, err2 := os.Stat(path)
		if err := errors.Join(err1, err2); err != nil {
			return nil, errors.Join(err, db.Close())
		}
		if os.SameFile(have, want) {
			return db, nil
		}
		if err := db.Close(); err != nil {
			return nil, err
		}
	}
}

func describeOpenError(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, berrors.ErrTimeout):
		return lockOwner(path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return corruptf("%s: %v", path, err)
	default:
		return fmt.Errorf("backend: open %s: %w", path, err)
	}
}

// prepare creates the buckets that are missing and returns the first
// generation.
func (b *Backend) prepare(h *handle) (*generation, error) {
	missing := 0
	if err := h.db.View(func(tx *bolt.Tx) error {
		for bucket := range Upkeep {
			if tx.Bucket(bucket.bytes()) == nil {
				missing++
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if missing > 0 {
		if err := createBuckets(h.db); err != nil {
			return nil, err
		}
	}
	return newGeneration(h)
}

func createBuckets(db *bolt.DB) error {
	err := db.Update(func(tx *bolt.Tx) error {
		for bucket := range Upkeep {
			if _, err := tx.CreateBucketIfNotExists(bucket.bytes()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// A second, empty transaction frees the pages of the first while nobody
	// reads, so that a fresh store stays at the five pages that etcd's has.
	return db.Update(func(*bolt.Tx) error { return nil })
}
