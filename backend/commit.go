package backend

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// keyFill is how full pages of bucket Key are made: its keys only grow, so a
// page is never inserted into again.
const keyFill = 0.9

// maxGrowthBytes is bbolt's own step.
const maxGrowthBytes = 16 << 20

// write commits a job in one transaction: the run in revision order, the small
// buckets in key order, the background operations, and the applied position.
// On success b.next is a generation with it.
func (b *Backend) write(j *job) (err error) {
	started := time.Now()
	if b.cfg.BeforeCommit != nil {
		if err := b.cfg.BeforeCommit(); err != nil {
			return err
		}
	}
	tx, err := b.current.db.Begin(true)
	if err != nil {
		return err
	}
	b.current.db.AllocSize = growthBytes(tx.Size())
	committed := false
	defer func() {
		if r := recover(); r != nil { // bbolt met a page that cannot be
			err = corruptf("%s: %v", b.cfg.Path, r)
		}
		if !committed {
			_ = tx.Rollback() // ErrTxClosed after a failed Commit
		}
	}()
	small := smallOps(j)
	if err := writeJob(tx, j, small); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	committed = true
	if b.next, err = newGeneration(b.current); err != nil {
		return err
	}
	b.journals.each(func(jr *journal) { jr.record(small, j) })
	b.account(tx, j, started)
	return nil
}

// growthBytes is how much bbolt lets the file grow beyond what it needs, so that it need not be extended and synced at
// every commit: an eighth of what is there, so that a file that was made small stays so.
func growthBytes(size int64) int {
	return int(min(max(size/8, 256<<10), maxGrowthBytes))
}

// smallOps is what a batch does to small buckets, the last operation on each
// key only, in bucket and key order, the applied position included.
func smallOps(j *job) []Op {
	if j.batch == nil {
		return nil
	}
	ops := slices.Clone(j.batch.ops[:j.batch.sealedOps])
	if j.batch.index != 0 {
		ops = append(ops,
			Op{Bucket: Meta, Key: []byte(metaConsistentIndex), Value: bigEndian(j.batch.index)},
			Op{Bucket: Meta, Key: []byte(metaTerm), Value: bigEndian(j.batch.term)})
	}
	slices.SortStableFunc(ops, compareOps)
	last := ops[:0]
	for i, o := range ops {
		if i+1 == len(ops) || compareOps(o, ops[i+1]) != 0 {
			last = append(last, o)
		}
	}
	return last
}

func compareOps(a, b Op) int {
	if c := cmp.Compare(a.Bucket, b.Bucket); c != 0 {
		return c
	}
	return slices.Compare(a.Key, b.Key)
}

func bigEndian(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func writeJob(tx *bolt.Tx, j *job, small []Op) error {
	keys := tx.Bucket(Key.bytes())
	keys.FillPercent = keyFill
	if j.batch != nil {
		run := j.batch.run.rows()
		for i := range j.batch.sealedRows {
			if err := keys.Put(run.at(i).key, run.at(i).value); err != nil {
				return fmt.Errorf("%w: revision %x: %v", ErrCorrupt, run.at(i).key, err)
			}
		}
	}
	for _, o := range small {
		if err := writeOp(tx, o); err != nil {
			return err
		}
	}
	for _, w := range j.background {
		for _, o := range w.ops {
			if err := writeOp(tx, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeOp's errors are those of bbolt for impossible keys and values, which no
// retry can mend.
func writeOp(tx *bolt.Tx, o Op) error {
	bucket := tx.Bucket(o.Bucket.bytes())
	if bucket == nil {
		if o.Delete {
			return nil
		}
		var err error
		if bucket, err = tx.CreateBucketIfNotExists(o.Bucket.bytes()); err != nil {
			return err
		}
	}
	var err error
	if o.Delete {
		err = bucket.Delete(o.Key)
	} else {
		err = bucket.Put(o.Key, o.Value)
	}
	if err != nil {
		return fmt.Errorf("%w: bucket %s, key %q: %v", ErrCorrupt, o.Bucket.Name(), o.Key, err)
	}
	return nil
}

func (b *Backend) account(tx *bolt.Tx, j *job, started time.Time) {
	stats := tx.Stats()
	now := accountsOf(b.next)
	// All pages are accounted for, so what the transaction freed follows from
	// what it allocated and from what is reachable before and after.
	freed := b.accounts.reachable + stats.GetPageCount() - now.reachable
	b.accounts = now
	b.sizes.set(b.next, now, freed)
	b.info = CommitInfo{
		Applied: b.next.index, Duration: time.Since(started),
		Write: stats.GetWriteTime(), Rebalance: stats.GetRebalanceTime(), Spill: stats.GetSpillTime(),
	}
	if j.batch != nil {
		b.info.Ops, b.info.Bytes = j.batch.sealedCount(), int(j.batch.sealedSize)
	}
	for _, w := range j.background {
		b.info.Ops += len(w.ops)
		for _, o := range w.ops {
			b.info.Bytes += o.bytes()
		}
	}
}
