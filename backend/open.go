package backend

import (
	"errors"
	"fmt"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
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
	var size int64
	switch info, err := os.Stat(path); {
	case err == nil:
		size = info.Size()
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	if size > 0 {
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
	if err != nil && opts.InitialMmapSize > int(cfg.InitialMmapBytes) && !isOpenRefusal(err) {
		// An address space limit; the configured size may fit.
		opts.InitialMmapSize = int(max(cfg.InitialMmapBytes, 2*size))
		db, err = openMapped(path, opts)
	}
	return db, describeOpenError(path, err)
}

func isOpenRefusal(err error) bool {
	return errors.Is(err, berrors.ErrTimeout) || errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) ||
		errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrChecksum) || errors.Is(err, berrors.ErrVersionMismatch)
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
