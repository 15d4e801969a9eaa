package backups

import (
	"context"
	"errors"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/snapshot"
	"github.com/upkeep-kv/upkeep/snapshot/backup"
)

// Source is a live member, as backups read it.
type Source struct {
	Backend *backend.Backend
	Store   *mvcc.Store
	// Pin pins an image that is written at the pace that the member can bear.
	Pin func(ctx context.Context) (backup.Image, error)
	// Known returns samples of which revision was current when, for revisions above after; may be nil.
	Known func(after int64) []backup.Sample
}

// Image implements backup.Source.
func (s *Source) Image(ctx context.Context) (backup.Image, error) { return s.Pin(ctx) }

// Entries implements backup.Source.
func (s *Source) Entries(ctx context.Context, after, to int64, fn func(k, v []byte) error) error {
	return compacted(s.Store.Entries(ctx, after, to, fn))
}

// Tables implements backup.Source. What is committed to the file is one moment of all buckets.
func (s *Source) Tables(ctx context.Context, fn func(at backup.Position, scan backup.Scan) error) error {
	if err := s.Backend.Flush(ctx); err != nil {
		return err
	}
	view := s.Backend.View()
	defer view.Close()
	if err := view.Err(); err != nil {
		return err
	}
	scan := backup.Scan(view.ScanBucket)
	at, err := backup.PositionOf(scan)
	if err != nil {
		return err
	}
	at.Index, at.Term = view.Applied()
	return fn(at, scan)
}

// HashKV implements backup.Source.
func (s *Source) HashKV(ctx context.Context, rev int64) (snapshot.KVHash, error) {
	h, err := s.Store.ReadHashKV(ctx, rev)
	if err != nil {
		return snapshot.KVHash{}, compacted(err)
	}
	return snapshot.KVHash{Hash: h.Hash, HashRevision: h.HashRevision, CompactRevision: h.CompactRevision}, nil
}

// CompactRevision implements backup.Source.
func (s *Source) CompactRevision() int64 { return s.Store.CompactRevision() }

// Samples implements backup.Source.
func (s *Source) Samples(after int64) []backup.Sample {
	if s.Known == nil {
		return nil
	}
	return s.Known(after)
}

// compacted turns the store's refusal into that of backups.
func compacted(err error) error {
	if errors.Is(err, mvcc.ErrCompacted) {
		return backup.ErrCompacted
	}
	return err
}
