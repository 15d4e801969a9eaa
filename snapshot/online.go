package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	bolt "go.etcd.io/bbolt"

	"github.com/upkeep-kv/upkeep/backend"
)

// Online describes a database that is ready to be put in the place of a running cluster's.
type Online struct {
	// SHA256 of the file, in hexadecimal, and its size.
	SHA256 string
	Size   int64
	// Restored is the newest revision whose state it holds; Newest that of the newest entry the snapshot ever had.
	Restored, Newest int64
	// DroppedRevisions were newer than what was asked for. LostLeases is how many keys were attached to leases that the
	// snapshot does not hold: they do not expire any more.
	DroppedRevisions, LostLeases int
}

// PrepareOnline makes, at the path to, the database that a running cluster is to continue with: the keys and leases of a
// snapshot file, as they were at toRevision (0: the newest), and nothing of what makes it the database of a certain
// cluster. Errors: those of Verify, ErrNotDatabase, ErrIntegrity, ErrRevisionRange. On an error nothing is left at to.
func PrepareOnline(ctx context.Context, from, to string, toRevision int64) (o Online, err error) {
	p := &RestorePlan{options: RestoreOptions{SnapshotPath: from, ToRevision: toRevision}}
	if err := Verify(ctx, from); err != nil {
		return o, err
	}
	if problems, err := backend.Check(ctx, from); err != nil || len(problems) > 0 {
		if len(problems) > 0 {
			err = &integrityError{problems}
		}
		return o, err
	}
	if err := p.planRevision(ctx, from); err != nil {
		return o, err
	}
	defer func() {
		if err != nil {
			os.Remove(to)
		}
	}()
	if err := p.copyDatabase(ctx, to); err != nil {
		return o, err
	}
	o.Newest, o.Restored = max(p.history.Newest, p.history.Current), p.history.Current
	if toRevision > 0 {
		o.Restored = toRevision
	}
	if err := p.strip(ctx, to, &o); err != nil {
		return o, err
	}
	err = view(ctx, to, FileOptions{}, func(f *backend.File) error {
		o.LostLeases, err = countLostLeases(ctx, f)
		return err
	})
	if err != nil {
		return o, err
	}
	o.SHA256, o.Size, err = hashFile(ctx, to)
	return o, err
}

// strip leaves keys, leases and how far the history is compacted.
func (p *RestorePlan) strip(ctx context.Context, path string, o *Online) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		NoFreelistSync: true, FreelistType: bolt.FreelistMapType, InitialMmapSize: defaultMmapBytes,
		NoSync: true, // nothing counts before the sync at the end
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotDatabase, err)
	}
	var dropped RestoreResult
	if to := p.options.ToRevision; to > 0 && to < p.history.Current {
		err = dropAbove(ctx, db, to, &dropped)
		o.DroppedRevisions = dropped.DroppedRevisions
	}
	if err == nil {
		err = db.Update(stripOthers)
	}
	if err == nil {
		err = db.Sync()
	}
	return errors.Join(err, db.Close())
}

func stripOthers(tx *bolt.Tx) error {
	kept := map[string]bool{backend.Key.Name(): true, backend.Lease.Name(): true, backend.Meta.Name(): true}
	var names []string
	err := tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
		if !kept[string(name)] {
			names = append(names, string(name))
		}
		return nil
	})
	for _, name := range names {
		err = errors.Join(err, tx.DeleteBucket([]byte(name)))
	}
	for name := range kept {
		_, missing := tx.CreateBucketIfNotExists([]byte(name))
		err = errors.Join(err, missing)
	}
	if err != nil {
		return err
	}
	meta := bucketOf(tx, backend.Meta)
	var keys [][]byte
	err = meta.ForEach(func(k, _ []byte) error {
		if string(k) != metaScheduledCompact && string(k) != metaFinishedCompact {
			keys = append(keys, append([]byte(nil), k...))
		}
		return nil
	})
	for _, k := range keys {
		err = errors.Join(err, meta.Delete(k))
	}
	return err
}

func hashFile(ctx context.Context, path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	if size, err = io.Copy(h, &contextReader{ctx, f}); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

// Trailer is the SHA-256 with which a snapshot file ends, in hexadecimal. ErrMissingHash.
func Trailer(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !hasTrailer(info.Size()) {
		return "", ErrMissingHash
	}
	sum := make([]byte, sha256.Size)
	if _, err := f.ReadAt(sum, info.Size()-sha256.Size); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum), nil
}
