package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

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

// view opens a snapshot or database file for reading and calls fn. The structure of the file has been checked then, so
// that fn cannot be led astray by damaged pages.
func view(ctx context.Context, path string, options FileOptions, fn func(f *backend.File) error) (err error) {
	waited := time.Now()
	for {
		f, err := backend.OpenFile(path)
		if errors.Is(err, backend.ErrLocked) && (options.LockTimeout == 0 || time.Since(waited) < options.LockTimeout) {
			select {
			case <-time.After(lockRetry):
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if errors.Is(err, backend.ErrCorrupt) {
			err = fmt.Errorf("%w: %w", ErrNotDatabase, err)
		}
		if err != nil {
			return err
		}
		return errors.Join(fn(f), f.Close())
	}
}

// lockRetry is the pause between attempts to open a file that is locked.
const lockRetry = 100 * time.Millisecond

// metaValue reads a key of bucket `meta`; nil if it is not there.
func metaValue(f *backend.File, name string) (value []byte, err error) {
	err = f.Scan(backend.Meta, []byte(name), append([]byte(name), 0), func(_, v []byte) error {
		value = append([]byte{}, v...)
		return nil
	})
	return value, err
}

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
func historyOf(f *backend.File) (h History, err error) {
	h = History{Compacted: -1, Current: 1}
	if h.Newest, err = newestRevision(f); err != nil {
		return h, err
	}
	h.Current = max(h.Current, h.Newest)
	for _, name := range []string{metaScheduledCompact, metaFinishedCompact} {
		value, err := metaValue(f, name)
		if err != nil || value == nil {
			if err != nil {
				return h, err
			}
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

// newestRevision is the main revision of the last entry, 0 if there is none. A file is read forwards only, so the last
// entry is searched for: is there anything from here on?
func newestRevision(f *backend.File) (int64, error) {
	var newest int64
	for step := int64(1) << 62; step > 0; step >>= 1 {
		start := revision.AppendKey(nil, revision.Revision{Main: newest + step}, false)
		err := f.Scan(backend.Key, start, nil, func(k, _ []byte) error {
			if _, _, err := revision.ParseKey(k); err != nil {
				return fmt.Errorf("%w: %w", ErrNotDatabase, err)
			}
			return errStop
		})
		switch err {
		case errStop:
			newest += step
		case nil:
		default:
			return 0, err
		}
	}
	return newest, nil
}

var errStop = errors.New("seen enough")

// ReadHistory tells which revisions a file holds, and so what ToRevision may be.
func ReadHistory(ctx context.Context, path string, options FileOptions) (h History, err error) {
	err = view(ctx, path, options, func(f *backend.File) error {
		h, err = historyOf(f)
		return err
	})
	return h, err
}

// checkEvery is after how many entries a long walk looks at its context.
const checkEvery = 4096

// forEachRevision calls fn for the entries of bucket `key` in order.
func forEachRevision(ctx context.Context, f *backend.File, fn func(rev revision.Revision, deletion bool, k, v []byte) error) error {
	n := 0
	return f.Scan(backend.Key, nil, nil, func(k, v []byte) error {
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
