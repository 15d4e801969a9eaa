package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	bolt "go.etcd.io/bbolt"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
	"github.com/upkeep-kv/upkeep/snapshot"
)

// trailerBytes is the hash at the end of a snapshot file.
const trailerBytes = 32

// assemble makes a database at path of a full backup and the incremental ones behind it, so that it can be restored as
// of target, which lies in the last of them. The history behind target stays in: its hash can be compared.
//
// What the file holds then:
//
//	bucket key   the entries of the full backup, then those of the incremental ones: bit for bit what the member had,
//	             and what a compaction has taken away there since
//	tables       leases, users and so on as of the end of the last backup. A lease that is not among them, but that a key
//	             was attached to at target, is taken from the newest backup before that has it
//	compaction   scheduled at the revision that the newest backup up to target had compacted at: a server that starts on
//	             the file has the history, and the hash, that the member had
func (r *Repository) assemble(ctx context.Context, chain []*Manifest, target int64, path string) error {
	if err := r.fetchFull(ctx, chain[0], path); err != nil {
		return err
	}
	if len(chain) == 1 {
		return nil
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
		InitialMmapSize: int(2*chain[0].Object.ContentBytes + 64<<20),
		NoSync:          true, // nothing counts before the sync at the end
	})
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, chain[0].Object.Name, err)
	}
	a := &assembly{db: db, last: chain[0].ToRevision, oldLeases: make(map[string][]byte)}
	err = a.extend(ctx, r, chain, target)
	if err == nil {
		err = db.Sync()
	}
	return errors.Join(err, db.Close())
}

// fetchFull writes the database of a full backup, without trailer, to path.
func (r *Repository) fetchFull(ctx context.Context, m *Manifest, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = r.download(ctx, m, func(content io.Reader) error {
		_, err := io.CopyBuffer(struct{ io.Writer }{f}, content, make([]byte, 1<<20))
		return err
	})
	if err == nil {
		err = f.Truncate(m.Object.ContentBytes - trailerBytes)
	}
	return errors.Join(err, f.Close())
}

// assembly adds incremental backups to a database.
type assembly struct {
	db      *bolt.DB
	tx      *bolt.Tx
	pending int // bytes in tx
	// last revision so far, and the range of the backup that is being added.
	last     int64
	manifest *Manifest
	// oldLeases are rows of lease tables that have been replaced, the newest of each.
	oldLeases map[string][]byte
}

// txBytes is about how much one transaction of an assembly carries.
const txBytes = 8 << 20

func (a *assembly) extend(ctx context.Context, r *Repository, chain []*Manifest, target int64) (err error) {
	defer func() {
		if a.tx != nil {
			err = errors.Join(err, a.tx.Rollback())
		}
	}()
	for _, m := range chain[1:] {
		if m.FromRevision != a.last {
			return fmt.Errorf("%w: %s continues revision %d, but what is before it ends at %d", ErrDamaged, m.ID, m.FromRevision, a.last)
		}
		a.manifest = m
		err := r.download(ctx, m, func(content io.Reader) error {
			end, err := readHistory(content, a)
			if err == nil && end != m.ToRevision {
				err = fmt.Errorf("%w: it ends at revision %d instead of %d", ErrDamaged, end, m.ToRevision)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("backup %s: %w", m.ID, err)
		}
		a.last = m.ToRevision
	}
	if err := a.begin(); err != nil {
		return err
	}
	if err := errors.Join(a.keepLeases(target), a.schedule(floorAt(chain, target))); err != nil {
		return err
	}
	return a.commit()
}

// floorAt is where the newest backup up to target had compacted, -1 for not at all.
func floorAt(chain []*Manifest, target int64) int64 {
	floor := int64(-1)
	for _, m := range chain {
		if m.ToRevision <= target {
			floor = max(floor, m.CompactRevision)
		}
	}
	return floor
}

func (a *assembly) begin() (err error) {
	if a.tx == nil {
		a.tx, err = a.db.Begin(true)
	}
	return err
}

func (a *assembly) commit() error {
	tx := a.tx
	a.tx, a.pending = nil, 0
	if tx == nil {
		return nil
	}
	return tx.Commit()
}

func (a *assembly) put(bucket backend.Bucket, k, v []byte) error {
	if err := a.begin(); err != nil {
		return err
	}
	b, err := a.tx.CreateBucketIfNotExists([]byte(bucket.Name()))
	if err != nil {
		return err
	}
	if bucket == backend.Key {
		b.FillPercent = 0.95 // they come in order
	}
	// The transaction keeps the key until it commits.
	if err := b.Put(append([]byte(nil), k...), append([]byte(nil), v...)); err != nil {
		return fmt.Errorf("%w: bucket %s: %w", ErrDamaged, bucket, err)
	}
	if a.pending += len(k) + len(v); a.pending < txBytes {
		return nil
	}
	return a.commit()
}

func (a *assembly) entry(k, v []byte) error {
	rev, _, err := revision.ParseKey(k)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if rev.Main <= a.manifest.FromRevision || rev.Main > a.manifest.ToRevision || rev.Main < a.last {
		return fmt.Errorf("%w: an entry of revision %d where %d to %d were expected", ErrDamaged,
			rev.Main, max(a.last, a.manifest.FromRevision+1), a.manifest.ToRevision)
	}
	a.last = rev.Main
	return a.put(backend.Key, k, v)
}

// beginTable empties a table, and remembers the leases that were in it.
func (a *assembly) beginTable(bucket backend.Bucket) error {
	if err := a.begin(); err != nil {
		return err
	}
	name := []byte(bucket.Name())
	if old := a.tx.Bucket(name); old != nil {
		if bucket == backend.Lease {
			if err := old.ForEach(func(k, v []byte) error {
				a.oldLeases[string(k)] = append([]byte(nil), v...)
				return nil
			}); err != nil {
				return err
			}
		}
		if err := a.tx.DeleteBucket(name); err != nil {
			return err
		}
	}
	_, err := a.tx.CreateBucket(name)
	return err
}

func (a *assembly) row(bucket backend.Bucket, k, v []byte) error { return a.put(bucket, k, v) }

// keepLeases puts back the leases that keys were attached to at target, and that were gone by the end.
func (a *assembly) keepLeases(target int64) error {
	leases, entries := a.tx.Bucket([]byte(backend.Lease.Name())), a.tx.Bucket([]byte(backend.Key.Name()))
	if leases == nil || entries == nil || len(a.oldLeases) == 0 {
		return nil
	}
	wanted := make(map[string]int64) // key to a lease that is gone
	c := entries.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		rev, deletion, err := revision.ParseKey(k)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if rev.Main > target {
			break
		}
		var kv mvccpb.KeyValue
		if err := kv.UnmarshalVT(v); err != nil {
			return fmt.Errorf("%w: value of revision %d: %w", ErrDamaged, rev.Main, err)
		}
		delete(wanted, string(kv.Key))
		if !deletion && kv.Lease != 0 && leases.Get(leaseKey(kv.Lease)) == nil {
			wanted[string(kv.Key)] = kv.Lease
		}
	}
	for _, id := range wanted {
		if row, ok := a.oldLeases[string(leaseKey(id))]; ok {
			if err := leases.Put(leaseKey(id), row); err != nil {
				return err
			}
		}
	}
	return nil
}

func leaseKey(id int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(id)) }

// schedule leaves a compaction for the server that starts on the file.
func (a *assembly) schedule(floor int64) error {
	meta, err := a.tx.CreateBucketIfNotExists([]byte(backend.Meta.Name()))
	if err != nil || floor < 1 {
		return err
	}
	if v := meta.Get([]byte(metaScheduledCompact)); v != nil {
		if rev, _, err := revision.ParseKey(v); err != nil || rev.Main >= floor {
			return err
		}
	}
	return meta.Put([]byte(metaScheduledCompact), revision.AppendKey(nil, revision.Revision{Main: floor}, false))
}

// compareHash compares the history in a database file with the hash that the member had.
func compareHash(ctx context.Context, m *Manifest, path string) error {
	got, err := snapshot.HashKVAt(ctx, path, m.Hash.HashRevision, m.Hash.CompactRevision, snapshot.FileOptions{})
	if err != nil {
		return err
	}
	if got != m.Hash {
		return fmt.Errorf("%w: backup %s: the HashKV of what is restored is %d at revision %d, the member's was %d",
			ErrDamaged, m.ID, got.Hash, got.HashRevision, m.Hash.Hash)
	}
	return nil
}
