package mvcc

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/backend/pace"
	"github.com/upkeep-kv/upkeep/mvcc/index"
)

var (
	// ErrCompacted is returned for a revision below the compact revision.
	ErrCompacted = errors.New("mvcc: required revision has been compacted")
	// ErrFutureRevision is returned for a revision above the current one.
	ErrFutureRevision = errors.New("mvcc: required revision is a future revision")
	// ErrCorrupt is the class of errors about a backend whose content cannot be
	// what this store wrote.
	ErrCorrupt = errors.New("mvcc: corrupt store")
	// ErrClosed is returned by reads once the backend is closed.
	ErrClosed = errors.New("mvcc: store closed")
)

// Config has a usable zero value.
type Config struct {
	Logger *zap.Logger // nil: none
	// Pace says how large the pieces of compactions and hashes may be and how long
	// they rest between them. nil: large, and not at all.
	Pace *pace.Governor
	// CompactionBatchLimit is how many revisions one piece of a background
	// compaction looks at. 0: what Pace says.
	CompactionBatchLimit int
	// CompactionSleep is the pause after each piece that deleted something. 0: what Pace says.
	CompactionSleep time.Duration
	// OnCompactionPiece is told of each piece, on the background goroutine. May be nil.
	OnCompactionPiece func(CompactionProgress)
	// OnCompaction is told of each compaction that finished, on the background
	// goroutine. May be nil.
	OnCompaction func(CompactionInfo)
}

// Store is a multi-version store on a backend. See the package comment for who
// may call what.
type Store struct {
	backend *backend.Backend
	cfg     Config
	logger  *zap.Logger

	// gate is held shared for the length of a read, and exclusively while the
	// backend is replaced and everything below is rebuilt from it.
	gate     sync.RWMutex
	index    *index.Index
	revision atomic.Int64 // newest complete transaction; written by the apply goroutine

	pins      pins
	hashes    hashCache
	compactor compactor
	txn       WriteTxn // the one write transaction; apply goroutine only
	buffers   sync.Pool
}

// Open reads the index from the backend and goes on with a compaction that was
// interrupted. The backend must stay open until Close.
func Open(b *backend.Backend, cfg Config) (*Store, error) {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.OnCompactionPiece == nil {
		cfg.OnCompactionPiece = func(CompactionProgress) {}
	}
	s := &Store{backend: b, cfg: cfg, logger: cfg.Logger}
	s.pins.init()
	s.compactor.init(s)
	s.buffers.New = func() any { return new(buffer) }
	if err := s.restore(); err != nil {
		return nil, fmt.Errorf("restoring the key index: %w", err)
	}
	s.compactor.start()
	return s, nil
}

// Close stops the background work. A compaction that was under way goes on when
// the backend is opened again.
func (s *Store) Close() {
	s.compactor.stop()
	s.compactor.drop()
}

// Replace holds back new reads, waits for running ones, calls swap, which
// exchanges the content of the backend, and rebuilds the store from it. If swap
// fails the store stays as it was. Pinned reads of revisions that the new
// content does not have end with ErrCompacted. Apply goroutine only.
func (s *Store) Replace(swap func() error) error {
	_, err := s.ReplaceAnd(swap, func() error { return nil })
	return err
}

// ReplaceAnd is Replace, and calls then before it lets readers in again, so that nobody sees what was swapped in before
// then has written to it. then may write, and call AttachedLeasesExclusive, and must not read. swapped tells whether
// there is a way back: once it is true, an error leaves a store that must not be used.
func (s *Store) ReplaceAnd(swap, then func() error) (swapped bool, err error) {
	s.compactor.stop()
	defer s.compactor.start()
	s.gate.Lock()
	defer s.gate.Unlock()
	if err := swap(); err != nil {
		return false, err
	}
	s.compactor.drop()
	s.hashes.clear()
	if err := s.restore(); err != nil {
		return true, fmt.Errorf("restoring the key index: %w", err)
	}
	return true, then()
}

// Reload is Replace for a backend that has been exchanged already. Reads between
// the exchange and Reload may fail with ErrCorrupt; Replace avoids that.
func (s *Store) Reload() error { return s.Replace(func() error { return nil }) }

// Revision is the revision of the newest complete transaction, 1 for an empty store.
func (s *Store) Revision() int64 { return s.revision.Load() }

// CompactRevision is the lowest revision that can be read, -1 if the store was
// never compacted.
func (s *Store) CompactRevision() int64 { return s.pins.floor.Load() }

// AttachedLeases calls fn for each existing key that has a lease attached, in
// key order. Meant for when the store has just been opened or replaced: fn must
// not use the store.
func (s *Store) AttachedLeases(fn func(key string, lease int64)) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	s.index.Leases(fn)
}

// AttachedLeasesExclusive is AttachedLeases for the second function of ReplaceAnd, in which nobody else reads.
func (s *Store) AttachedLeasesExclusive(fn func(key string, lease int64)) { s.index.Leases(fn) }

// Stats is a picture of the store's size.
type Stats struct {
	Keys               int // in the index, deleted but not yet compacted ones included
	Revision           int64
	CompactRevision    int64
	PendingCompactions int
	// OldestRead is the lowest revision that a reader holds on to, 0 for none. If
	// it is below CompactRevision, the deletion waits for that reader.
	OldestRead int64
}

// Stats is cheap.
func (s *Store) Stats() Stats {
	s.gate.RLock()
	defer s.gate.RUnlock()
	return Stats{
		Keys:               s.index.Len(),
		Revision:           s.Revision(),
		CompactRevision:    s.CompactRevision(),
		PendingCompactions: s.compactor.pending(),
		OldestRead:         s.pins.oldest(),
	}
}
