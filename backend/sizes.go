package backend

import "sync/atomic"

// Sizes are in bytes.
type Sizes struct {
	// File is the size of the database: its highest page ever used, as etcd's
	// dbSize. The file on disk may be longer, it grows in steps.
	File int64
	// InUse is File without the pages that are free, as etcd's dbSizeInUse.
	// Pages that only an open view still sees do not count as in use.
	InUse int64
	// Freed is what the last commit has freed, and is still counted in InUse: it
	// is free as of the next commit, and gone after a defragmentation.
	Freed int64
	// Pending is accepted and not yet in the file.
	Pending int64
	// OpenReadTxs is the number of open views and snapshots.
	OpenReadTxs int64
}

// sizeGauges are written by the committer and read by anyone.
type sizeGauges struct {
	file, inUse, free, freed atomic.Int64
}

// pageAccounts says what becomes of the pages of a file: two are meta pages,
// reachable are the trees, and the rest is free or will be when the last reader
// of an older state has gone.
type pageAccounts struct {
	pageSize  int64
	total     int64
	reachable int64
	free      int64
}

const metaPages = 2

func accountsOf(g *generation) pageAccounts {
	stats := g.handle.db.Stats()
	a := pageAccounts{pageSize: int64(g.handle.db.Info().PageSize), free: int64(stats.FreePageN)}
	a.total = g.tx.Size() / a.pageSize
	a.reachable = a.total - metaPages - a.free - int64(stats.PendingPageN)
	return a
}

// set publishes the sizes after a transaction that freed so many pages. Those
// count as in use until the next, as they do in etcd: the state before must
// survive until the state after is durable.
func (s *sizeGauges) set(g *generation, a pageAccounts, freed int64) {
	s.file.Store(g.tx.Size())
	s.inUse.Store((metaPages + a.reachable + freed) * a.pageSize)
	s.free.Store(a.free * a.pageSize)
	s.freed.Store(freed * a.pageSize)
}

// Sizes reads atomics only. The figures are of the last commit.
func (b *Backend) Sizes() Sizes {
	return Sizes{
		File: b.sizes.file.Load(), InUse: b.sizes.inUse.Load(), Freed: b.sizes.freed.Load(),
		Pending: b.pipeline.pendingBytes.Load(), OpenReadTxs: b.views.Load(),
	}
}

// QuotaBytes is what the file would measure with what is pending: the size that
// admission compares with the quota.
func (b *Backend) QuotaBytes() int64 {
	return b.sizes.file.Load() + max(0, b.pipeline.pendingBytes.Load()-b.sizes.free.Load())
}
