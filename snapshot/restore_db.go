package snapshot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"

	bolt "go.etcd.io/bbolt"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
)

// deleteBatch bounds the entries that one transaction deletes.
const deleteBatch = 10000

// changeDatabase turns the copy of another cluster's database into that of the first members of a new one. It is not
// atomic, which is why it happens in the stage.
func (p *RestorePlan) changeDatabase(ctx context.Context, path string, records []wal.BootstrapMember, result *RestoreResult) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		NoFreelistSync: true, FreelistType: bolt.FreelistMapType, InitialMmapSize: int(p.options.InitialMmapBytes),
		NoSync: true, // nothing counts before the sync at the end
	})
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNotDatabase, p.options.SnapshotPath, err)
	}
	err = p.changeAll(ctx, db, records, result)
	if err == nil {
		err = db.Sync()
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	return view(ctx, path, FileOptions{}, func(f *backend.File) error {
		history, err := historyOf(f)
		result.Revision, result.CompactRevision = history.Current, history.Compacted
		if err == nil && result.DroppedRevisions > 0 {
			result.LostLeases, err = countLostLeases(ctx, f)
		}
		return err
	})
}

func (p *RestorePlan) changeAll(ctx context.Context, db *bolt.DB, records []wal.BootstrapMember, result *RestoreResult) error {
	if to := p.options.ToRevision; to > 0 && to < p.history.Current {
		if err := dropAbove(ctx, db, to, result); err != nil {
			return err
		}
	}
	return db.Update(func(tx *bolt.Tx) error {
		if err := p.replaceMembers(tx, records); err != nil {
			return err
		}
		if err := p.bump(tx); err != nil {
			return err
		}
		meta, err := tx.CreateBucketIfNotExists([]byte(backend.Meta.Name()))
		if err != nil {
			return err
		}
		index := binary.BigEndian.AppendUint64(nil, uint64(len(records)))
		term := binary.BigEndian.AppendUint64(nil, restoredTerm)
		return errors.Join(meta.Put([]byte(metaConsistentIndex), index), meta.Put([]byte(metaTerm), term))
	})
}

// dropAbove deletes all entries of revisions above rev.
func dropAbove(ctx context.Context, db *bolt.DB, rev int64, result *RestoreResult) error {
	start := revision.AppendKey(nil, revision.Revision{Main: rev + 1}, false)
	for done := false; !done; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		err := db.Update(func(tx *bolt.Tx) error {
			keys := bucketOf(tx, backend.Key)
			if keys == nil {
				done = true
				return nil
			}
			var doomed [][]byte
			c := keys.Cursor()
			for k, _ := c.Seek(start); k != nil && len(doomed) < deleteBatch; k, _ = c.Next() {
				doomed = append(doomed, append([]byte(nil), k...))
			}
			done = len(doomed) < deleteBatch
			result.DroppedRevisions += len(doomed)
			for _, k := range doomed {
				if err := keys.Delete(k); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// countLostLeases counts the live keys whose lease is gone. Attachment follows from the newest value of a key, so
// dropping newer ones has put it right for leases that still exist.
func countLostLeases(ctx context.Context, f *backend.File) (int, error) {
	leases := make(map[int64]struct{})
	err := f.Scan(backend.Lease, nil, nil, func(k, _ []byte) error {
		if len(k) != 8 {
			return fmt.Errorf("%w: lease %x", ErrNotDatabase, k)
		}
		leases[int64(binary.BigEndian.Uint64(k))] = struct{}{}
		return nil
	})
	if err != nil {
		return 0, err
	}
	lost := make(map[string]struct{})
	err = forEachRevision(ctx, f, func(_ revision.Revision, deletion bool, _, v []byte) error {
		var kv mvccpb.KeyValue
		if err := kv.UnmarshalVT(v); err != nil {
			return fmt.Errorf("%w: value: %w", ErrNotDatabase, err)
		}
		if _, exists := leases[kv.Lease]; !deletion && kv.Lease != 0 && !exists {
			lost[string(kv.Key)] = struct{}{}
		} else {
			delete(lost, string(kv.Key))
		}
		return nil
	})
	return len(lost), err
}

func bucketOf(tx *bolt.Tx, b backend.Bucket) *bolt.Bucket { return tx.Bucket([]byte(b.Name())) }

func (p *RestorePlan) replaceMembers(tx *bolt.Tx, records []wal.BootstrapMember) error {
	for _, bucket := range []backend.Bucket{backend.Members, backend.MembersRemoved} {
		name := []byte(bucket.Name())
		if tx.Bucket(name) != nil {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
		}
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	members := bucketOf(tx, backend.Members)
	for _, r := range records {
		if err := members.Put([]byte(strconv.FormatUint(r.ID, 16)), r.Context); err != nil {
			return err
		}
	}
	return nil
}

// bump adds an empty entry so far above all revisions that were ever given out, and schedules a compaction there: the
// first server to start makes everything below unreadable, so that caches and watchers begin anew.
func (p *RestorePlan) bump(tx *bolt.Tx) error {
	if p.options.BumpRevision == 0 {
		return nil
	}
	newest := p.history.Newest
	if p.options.BumpRevision > uint64(math.MaxInt64-1-newest) {
		return fmt.Errorf("snapshot: revision %d cannot be raised by %d", newest, p.options.BumpRevision)
	}
	target := revision.AppendKey(nil, revision.Revision{Main: newest + int64(p.options.BumpRevision)}, false)
	keys, err := tx.CreateBucketIfNotExists([]byte(backend.Key.Name()))
	if err != nil {
		return err
	}
	meta, err := tx.CreateBucketIfNotExists([]byte(backend.Meta.Name()))
	if err != nil {
		return err
	}
	return errors.Join(keys.Put(target, []byte{}), meta.Put([]byte(metaScheduledCompact), target))
}
