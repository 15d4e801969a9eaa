package backend

import (
	"context"

	bolt "go.etcd.io/bbolt"
)

// Census counts what the pages of the file are used for.
type Census struct {
	PageSize int
	// Pages is all, and the sum of the following: meta pages, inner and outer
	// pages of trees, the continuation of pages that hold something large,
	// pages free for reuse, and pages that an older state still holds.
	Pages, Meta, Branch, Leaf, Overflow, Free, Pending int64
	Buckets                                            []BucketCensus
}

// BucketCensus is one bucket. A small bucket may live inside the root's page
// and then has no pages of its own.
type BucketCensus struct {
	Name                   string
	Keys                   int64
	Branch, Leaf, Overflow int64
	// AllocBytes is the size of its pages, UsedBytes what is in them; Fill is
	// their quotient, 0 without pages.
	AllocBytes, UsedBytes int64
	Fill                  float64
}

// Census walks the file on a private transaction. It reads every page.
func (b *Backend) Census(ctx context.Context) (Census, error) {
	ctx, done, err := b.jobs.start(ctx)
	if err != nil {
		return Census{}, err
	}
	defer done()
	g, err := b.pin()
	if err != nil {
		return Census{}, err
	}
	defer g.unref()
	return censusOf(ctx, g.tx)
}

func censusOf(ctx context.Context, tx *bolt.Tx) (Census, error) {
	c := Census{PageSize: tx.DB().Info().PageSize, Meta: metaPages}
	c.Pages = tx.Size() / int64(c.PageSize)
	c.Free = int64(tx.DB().Stats().FreePageN)
	err := tx.ForEach(func(name []byte, bucket *bolt.Bucket) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if bucket == nil {
			return nil
		}
		s := bucket.Stats()
		bc := BucketCensus{
			Name: string(name), Keys: int64(s.KeyN),
			Branch: int64(s.BranchPageN), Leaf: int64(s.LeafPageN),
			Overflow:   int64(s.BranchOverflowN + s.LeafOverflowN),
			AllocBytes: int64(s.BranchAlloc + s.LeafAlloc), UsedBytes: int64(s.BranchInuse + s.LeafInuse),
		}
		if bc.AllocBytes > 0 {
			bc.Fill = float64(bc.UsedBytes) / float64(bc.AllocBytes)
		}
		c.Branch += bc.Branch
		c.Leaf += bc.Leaf
		c.Overflow += bc.Overflow
		c.Buckets = append(c.Buckets, bc)
		return nil
	})
	// The root bucket is a leaf page: ten names fit in one.
	c.Leaf++
	c.Pending = c.Pages - c.Meta - c.Branch - c.Leaf - c.Overflow - c.Free
	return c, err
}
