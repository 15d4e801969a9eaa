package mvcc

import (
	"context"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/backend/pace"
	"github.com/upkeep-kv/upkeep/mvcc/index"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
)

// HashKVResult is the hash of the history up to HashRevision.
type HashKVResult struct {
	Hash            uint32
	HashRevision    int64
	CompactRevision int64 // the floor that the hash was made with, -1 for none
	CurrentRevision int64
}

// hasher computes a HashKV. Members that compacted at different times, or are
// not through with it, must agree: so entries are left out that a compaction may
// or may not have deleted already.
type hasher struct {
	sum      uint32
	table    *crc32.Table
	rev      int64 // H: hash up to here
	floor    int64 // C: compacted up to here
	kept     *index.Kept
	cursor   int
	keptSome bool
}

// newHasher prepares the hash at rev of a store compacted at floor. kept holds
// at least those revisions up to floor that a compaction at rev would keep, and
// keptSome says whether it would keep any at all. Whether the deletions in rev
// itself count for that is settled by etcd: they do in the hash that a
// compaction makes in passing, and do not in a hash that is asked for.
func newHasher(rev, floor int64, kept *index.Kept, keptSome bool) *hasher {
	h := &hasher{table: crc32.MakeTable(crc32.Castagnoli), rev: rev, floor: floor, kept: kept, keptSome: keptSome}
	h.sum = crc32.Update(0, h.table, []byte(backend.Key.Name()))
	return h
}

// add takes the entries of bucket `key` in ascending order.
func (h *hasher) add(k, v []byte, rev revision.Revision, deletion bool) {
	switch {
	case rev.Main > h.rev:
		return
	case rev.Main <= h.floor && h.keptSome && !h.kept.Contains(rev, &h.cursor):
		return
	case rev.Main == h.floor && deletion:
		return
	}
	h.sum = crc32.Update(crc32.Update(h.sum, h.table, k), h.table, v)
}

// cachedHashes is how many hashes of compactions are remembered.
const cachedHashes = 10

// hashCache holds the hashes that compactions have computed in passing, oldest
// first. They can be asked for even when their revision is compacted.
type hashCache struct {
	mu     sync.Mutex
	hashes []HashKVResult
}

func (c *hashCache) add(h HashKVResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hashes = append(c.hashes, h); len(c.hashes) > cachedHashes {
		c.hashes = slices.Delete(c.hashes, 0, 1)
	}
}

func (c *hashCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hashes = nil
}

func (c *hashCache) find(rev int64) (HashKVResult, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.hashes, func(h HashKVResult) bool { return h.HashRevision == rev })
	if i < 0 {
		return HashKVResult{}, false
	}
	return c.hashes[i], true
}

// CompactionHashes are the hashes that the newest compactions made in passing, oldest first. They say something even
// where what they cover is deleted, and so can still be compared between members.
func (s *Store) CompactionHashes() []HashKVResult {
	s.hashes.mu.Lock()
	defer s.hashes.mu.Unlock()
	return slices.Clone(s.hashes.hashes)
}

// hashSizes bounds a piece of a hash in bytes of keys and values; keyOverhead is
// what a key counts beside its bytes.
var hashSizes = pace.Sizes{First: 1 << 20, Least: 128 << 10, Most: 16 << 20}

const keyOverhead = 64

// HashKV hashes the history up to rev, 0 for the current revision. A revision that
// is given, and at which one of the newest compactions was made, gives the hash from
// before that compaction. Equal histories have equal hashes, here and in etcd, if hash and
// compact revision are equal. Errors: ErrCompacted, ErrFutureRevision, the context's.
func (s *Store) HashKV(ctx context.Context, rev int64) (HashKVResult, error) {
	if cached, ok := s.hashes.find(rev); ok && rev != 0 {
		cached.CurrentRevision = s.Revision()
		return cached, nil
	}
	return s.ReadHashKV(ctx, rev)
}

// ReadHashKV is HashKV of what the store holds now, whatever compactions have computed in passing. Of a copy of the
// store such a hash can be computed again; that of a compaction counts deletions in another way.
func (s *Store) ReadHashKV(ctx context.Context, rev int64) (HashKVResult, error) {
	current := s.Revision()
	if rev == 0 {
		rev = current
	}
	if rev > current {
		return HashKVResult{}, ErrFutureRevision
	}
	view, h, err := s.prepareHash(ctx, rev)
	if err != nil {
		return HashKVResult{}, err
	}
	defer view.Close()
	from := revision.AppendKey(nil, revision.Revision{}, false)
	end := revision.AppendKey(nil, revision.Revision{Main: max(rev, 0) + 1}, false)
	job := s.cfg.Pace.Start(hashSizes)
	defer job.Close()
	budget := job.Size()
	err = view.Scan(from, end, func(k, v []byte) error {
		rev, deletion, err := revision.ParseKey(k)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		h.add(k, v, rev, deletion)
		if budget -= len(k) + len(v) + keyOverhead; budget > 0 {
			return nil
		}
		err = job.Rest(ctx)
		budget = job.Size()
		return err
	})
	if err != nil {
		return HashKVResult{}, err
	}
	return HashKVResult{Hash: h.sum, HashRevision: rev, CompactRevision: h.floor, CurrentRevision: current}, nil
}

// prepareHash returns a view from before any deletion by a compaction above the
// hasher's floor, and the hasher.
func (s *Store) prepareHash(ctx context.Context, rev int64) (*backend.View, *hasher, error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if rev < 0 { // etcd's answer: an empty history, whatever the floor
		return s.backend.View(), newHasher(rev, s.CompactRevision(), &index.Kept{}, false), nil
	}
	for {
		floor, err := s.pins.pin(rev)
		if err != nil {
			return nil, nil, err
		}
		live, keptSome, err := s.index.Live(ctx, rev, floor)
		view := s.backend.View()
		s.pins.unpin(rev)
		switch {
		case err != nil:
			view.Close()
			return nil, nil, err
		case s.CompactRevision() != floor:
			// Another compaction may have begun to delete before the view was taken.
			view.Close()
			continue
		}
		return view, newHasher(rev, floor, live, keptSome), nil
	}
}
