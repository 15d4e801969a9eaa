package backend

import (
	"context"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"

	"github.com/upkeep-kv/upkeep/backend/pace"
)

// hashCheckEvery is after how many keys a long walk looks at its context.
const hashCheckEvery = 4096

// hashSizes bounds a piece of a hash in bytes of keys and values.
var hashSizes = pace.Sizes{First: 1 << 20, Least: 128 << 10, Most: 16 << 20}

// Hash is etcd's Maintenance.Hash: CRC-32C over every bucket's name, keys and
// values in order, pending writes included. The applied position and the
// storage version are left out, and so is our own bucket: members must compare
// equal with etcd's, and when one has applied more entries that changed nothing.
func (b *Backend) Hash(ctx context.Context) (uint32, error) {
	ctx, done, err := b.jobs.start(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := b.Flush(ctx); err != nil {
		return 0, err
	}
	g, err := b.pin()
	if err != nil {
		return 0, err
	}
	defer g.unref()
	return hashBuckets(ctx, b.cfg.Pace, g.tx, func(bucket, key string) bool {
		switch bucket {
		case Upkeep.Name():
			return true
		case Meta.Name():
			return key == metaConsistentIndex || key == metaTerm || key == metaStorageVersion
		}
		return false
	})
}

// hashBuckets hashes a whole file, resting in between as the governor says. A bucket is left out if skip says so for the
// empty key.
func hashBuckets(ctx context.Context, g *pace.Governor, tx *bolt.Tx, skip func(bucket, key string) bool) (uint32, error) {
	table := crc32.MakeTable(crc32.Castagnoli)
	var sum uint32
	job := g.Start(hashSizes)
	defer job.Close()
	budget := job.Size()
	err := tx.ForEach(func(name []byte, bucket *bolt.Bucket) error {
		if bucket == nil || skip(string(name), "") {
			return nil
		}
		sum = crc32.Update(sum, table, name)
		return bucket.ForEach(func(k, v []byte) error {
			if budget -= len(k) + len(v) + keyOverhead; budget <= 0 {
				if err := job.Rest(ctx); err != nil {
					return err
				}
				budget = job.Size()
			}
			if string(name) != Key.Name() && skip(string(name), string(k)) {
				return nil
			}
			sum = crc32.Update(sum, table, k)
			sum = crc32.Update(sum, table, v)
			return nil
		})
	})
	return sum, err
}
