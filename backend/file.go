package backend

import (
	"context"
	"errors"
	"os"

	bolt "go.etcd.io/bbolt"
)

// File is a store opened for reading by an offline tool: a member's file while
// no server runs on it, or a snapshot (whose trailing checksum bbolt does not
// mind).
type File struct {
	db *bolt.DB
	tx *bolt.Tx
}

// OpenFile opens a file for reading. Errors are as those of Open.
func OpenFile(path string) (*File, error) {
	if err := checkStructure(path); err != nil {
		return nil, err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: lockWait, PreLoadFreelist: false})
	if err != nil {
		return nil, describeOpenError(path, err)
	}
	tx, err := db.Begin(false)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &File{db: db, tx: tx}, nil
}

// Close releases the file.
func (f *File) Close() error { return errors.Join(f.tx.Rollback(), f.db.Close()) }

// Size is that of the database, without a trailer.
func (f *File) Size() int64 { return f.tx.Size() }

// Applied is the applied position in the file, 0 if it has none.
func (f *File) Applied() (index, term uint64) {
	meta := f.tx.Bucket(Meta.bytes())
	return uint64Of(meta, metaConsistentIndex), uint64Of(meta, metaTerm)
}

// Has tells whether the file has a bucket.
func (f *File) Has(bucket Bucket) bool { return f.tx.Bucket(bucket.bytes()) != nil }

// Scan calls fn for the keys of a bucket in [start,end); see View.Scan. A bucket
// that is not there is empty.
func (f *File) Scan(bucket Bucket, start, end []byte, fn func(k, v []byte) error) error {
	return scanBolt(f.tx.Bucket(bucket.bytes()), start, end, fn)
}

// Hash is the hash that `snapshot status` shows: all buckets, nothing left out.
func (f *File) Hash(ctx context.Context) (uint32, error) {
	return hashBuckets(ctx, nil, f.tx, func(string, string) bool { return false })
}

// Census counts the pages. Without a running server nothing is pending; what is
// not in use is free.
func (f *File) Census(ctx context.Context) (Census, error) {
	c, err := censusOf(ctx, f.tx)
	c.Free, c.Pending = c.Free+c.Pending, 0
	return c, err
}

// HashFile is File.Hash of a path.
func HashFile(ctx context.Context, path string) (uint32, error) {
	f, err := OpenFile(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Hash(ctx)
}

// DefragFile defragments a file that no server has open.
func DefragFile(ctx context.Context, path string) (DefragResult, error) {
	if _, err := os.Stat(path); err != nil {
		return DefragResult{}, err
	}
	b, err := Open(Config{Path: path})
	if err != nil {
		return DefragResult{}, err
	}
	result, err := b.Defrag(ctx, DefragOptions{})
	return result, errors.Join(err, b.Close())
}
