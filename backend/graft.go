package backend

import (
	"context"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// Graft makes a database file fit to replace this one in the middle of the log: the buckets in keep become those of the
// state that is applied now, and ops are added. It is called on the apply goroutine, between entries. The file is synced
// when it returns. Doing it again, after a crash, to a file that was done half or whole gives the same file.
func (b *Backend) Graft(ctx context.Context, file string, keep []Bucket, ops []Op) error {
	if err := b.Flush(ctx); err != nil {
		return err
	}
	g, err := b.pin()
	if err != nil {
		return err
	}
	defer g.unref()
	db, err := openBolt(file, &b.cfg)
	if err != nil {
		return fmt.Errorf("graft %s: %w", file, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, bucket := range keep {
			if err := graftBucket(tx, g, bucket); err != nil {
				return err
			}
		}
		for _, op := range ops {
			to, err := tx.CreateBucketIfNotExists(op.Bucket.bytes())
			if err != nil {
				return err
			}
			if err := to.Put(op.Key, op.Value); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = db.Sync()
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("graft %s: %w", file, err)
	}
	return nil
}

// graftBucket replaces a bucket by the one of g, or removes it where g has none.
func graftBucket(tx *bolt.Tx, g *generation, bucket Bucket) error {
	if tx.Bucket(bucket.bytes()) != nil {
		if err := tx.DeleteBucket(bucket.bytes()); err != nil {
			return err
		}
	}
	from := g.buckets[bucket]
	if from == nil {
		return nil
	}
	to, err := tx.CreateBucket(bucket.bytes())
	if err != nil {
		return err
	}
	return from.ForEach(to.Put)
}
