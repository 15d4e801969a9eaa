package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
)

// Names in bucket `meta`.
const (
	metaConsistentIndex  = "consistent_index"
	metaTerm             = "term"
	metaStorageVersion   = "storageVersion"
	metaScheduledCompact = "scheduledCompactRev"
	metaFinishedCompact  = "finishedCompactRev"
)

// ErrNotDatabase is the class of errors about a file that is no database, or a damaged one.
var ErrNotDatabase = errors.New("snapshot: not a usable database")

// FileOptions is how a file is opened.
type FileOptions struct {
	// LockTimeout is how long to wait for a file that another process, such as a running server, holds; 0 is forever.
	LockTimeout time.Duration
}

// view opens a snapshot or database file for reading and calls fn in one transaction.
func view(path string, options FileOptions, fn func(tx *bolt.Tx) error) (err error) {
	if _, err := os.Stat(path); err != nil {
		return err // bbolt would create it
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %s: %v", ErrNotDatabase, path, r) // bbolt panics over damaged pages
		}
	}()
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true, Timeout: options.LockTimeout, PreLoadFreelist: true})
	if err != nil {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			return err
		}
		return fmt.Errorf("%w: %s: %w", ErrNotDatabase, path, err)
	}
	defer db.Close()
	return db.View(fn)
}

func bucketOf(tx *bolt.Tx, b backend.Bucket) *bolt.Bucket { return tx.Bucket([]byte(b.Name())) }

// History is which revisions a file holds.
type History struct {
	// Compacted is the oldest revision that can still be read back in full, -1 if nothing was compacted.
	Compacted int64
	// Current is the revision that a server on this file starts with, 1 in an empty store.
	Current int64
	// Newest is the revision of the newest entry, 0 in an empty store.
	Newest int64
}

// historyOf reads the bounds as a server does at boot. A compaction that was scheduled counts: the server finishes it
// first thing, and it may have begun to delete.
func historyOf(tx *bolt.Tx) (History, error) {
	h := History{Compacted: -1, Current: 1}
	newest, err := newestRevision(tx)
	if err != nil {
		return h, err
	}
	h.Current, h.Newest = max(h.Current, newest), newest
	meta := bucketOf(tx, backend.Meta)
	if meta == nil {
		return h, nil
	}
	for _, name := range []string{metaScheduledCompact, metaFinishedCompact} {
		value := meta.Get([]byte(name))
		if value == nil {
			continue
		}
		rev, _, err := revision.ParseKey(value)
		if err != nil {
			return h, fmt.Errorf("%w: %s: %w", ErrNotDatabase, name, err)
		}
		h.Compacted, h.Current = max(h.Compacted, rev.Main), max(h.Current, rev.Main)
	}
	return h, nil
}

// newestRevision is the main revision of the last entry, 0 if there is none.
func newestRevision(tx *bolt.Tx) (int64, error) {
	keys := bucketOf(tx, backend.Key)
	if keys == nil {
		return 0, nil
	}
	last, _ := keys.Cursor().Last()
	if last == nil {
		return 0, nil
	}
	rev, _, err := revision.ParseKey(last)
	if err != nil {
		return 0, fmt.Errorf("%w: last key: %w", ErrNotDatabase, err)
	}
	return rev.Main, nil
}

// ReadHistory tells which revisions a file holds, and so what ToRevision may be.
func ReadHistory(path string, options FileOptions) (h History, err error) {
	err = view(path, options, func(tx *bolt.Tx) error {
		h, err = historyOf(tx)
		return err
	})
	return h, err
}

// checkEvery is after how many entries a long walk looks at its context.
const checkEvery = 4096

// forEachRevision calls fn for the entries of bucket `key` in order.
func forEachRevision(ctx context.Context, tx *bolt.Tx, fn func(rev revision.Revision, deletion bool, k, v []byte) error) error {
	keys := bucketOf(tx, backend.Key)
	if keys == nil {
		return nil
	}
	n := 0
	return keys.ForEach(func(k, v []byte) error {
		if n++; n%checkEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rev, deletion, err := revision.ParseKey(k)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotDatabase, err)
		}
		return fn(rev, deletion, k, v)
	})
}
