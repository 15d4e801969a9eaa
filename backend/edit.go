package backend

import (
	"errors"

	bolt "go.etcd.io/bbolt"
)

// Edit changes a file that no server has open, in one transaction. Buckets in drop go, with all that is in them.
func Edit(path string, ops []Op, drop ...Bucket) error {
	db, err := openBolt(path, &Config{})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, op := range ops {
			bucket, err := tx.CreateBucketIfNotExists(op.Bucket.bytes())
			if err == nil && op.Delete {
				err = bucket.Delete(op.Key)
			} else if err == nil {
				err = bucket.Put(op.Key, op.Value)
			}
			if err != nil {
				return err
			}
		}
		for _, bucket := range drop {
			if tx.Bucket(bucket.bytes()) == nil {
				continue
			}
			if err := tx.DeleteBucket(bucket.bytes()); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, db.Close())
}
