package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/snapshot"
)

// chain returns a backup with all that it builds on, the full one first. ErrDamaged if something is missing.
func (i *Inventory) chain(m *Manifest) ([]*Manifest, error) {
	chain := []*Manifest{m}
	for chain[0].Kind != Full {
		parent := i.Find(chain[0].Parent)
		switch {
		case parent == nil:
			return nil, fmt.Errorf("%w: backup %s continues %s, which is missing", ErrDamaged, chain[0].ID, chain[0].Parent)
		case len(chain) > len(i.Backups):
			return nil, fmt.Errorf("%w: backup %s continues itself", ErrDamaged, m.ID)
		case parent.ToRevision != chain[0].FromRevision || parent.ClusterID != m.ClusterID:
			return nil, fmt.Errorf("%w: backup %s does not continue %s", ErrDamaged, chain[0].ID, parent.ID)
		}
		chain = append([]*Manifest{parent}, chain...)
	}
	for _, part := range chain {
		if i.Broken[part.ID] {
			return nil, fmt.Errorf("%w: backup %s needs %s, whose data are missing or cut off", ErrDamaged, m.ID, part.ID)
		}
	}
	return chain, nil
}

// Chain is a backup with all that it builds on, the full one first. ErrDamaged if something is missing.
func (i *Inventory) Chain(m *Manifest) ([]*Manifest, error) { return i.chain(m) }

// nothing is a sink that only wants to know whether it can be read.
type nothing struct{}

func (nothing) entry(_, _ []byte) error                 { return nil }
func (nothing) beginTable(backend.Bucket) error         { return nil }
func (nothing) row(_ backend.Bucket, _, _ []byte) error { return nil }

// VerifyByReading reads the data of a backup from the first byte to the last and compares all checksums. Damage is in
// the result; an error is what kept it from looking.
func (r *Repository) VerifyByReading(ctx context.Context, m *Manifest) (*Verification, error) {
	start := time.Now()
	err := r.download(ctx, m, func(content io.Reader) error {
		if m.Kind == Full {
			return nil
		}
		end, err := readHistory(content, nothing{})
		if err == nil && end != m.ToRevision {
			err = fmt.Errorf("%w: %s ends at revision %d instead of %d", ErrDamaged, m.Object.Name, end, m.ToRevision)
		}
		return err
	})
	return result(MethodRead, start, err)
}

func result(method string, start time.Time, err error) (*Verification, error) {
	v := &Verification{At: time.Now().UTC(), Method: method, TookSeconds: time.Since(start).Seconds()}
	for _, class := range []error{ErrDamaged, ErrNotExist, snapshot.ErrNotDatabase, snapshot.ErrFutureRevision} {
		if errors.Is(err, class) {
			v.Error, err = err.Error(), nil
		}
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

// VerifyByRestoring restores the last backup of a chain into a new directory in scratch, compares the HashKV of that
// with what the member had, and removes it. ErrNoRoom, without having begun, if there is not enough space.
func (r *Repository) VerifyByRestoring(ctx context.Context, chain []*Manifest, scratch string) (_ *Verification, err error) {
	start := time.Now()
	if err := checkRoom(scratch, roomFor(chain)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(scratch, scratchPattern)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return result(MethodRestored, start, r.rehearse(ctx, chain, dir))
}

// scratchPattern is what scratch directories are called; Tidy removes those that a crash left.
const scratchPattern = "upkeep-verify-*"

// Tidy removes what verifications that were cut off have left in a scratch directory that nobody else uses now.
func Tidy(scratch string) error {
	left, err := filepath.Glob(filepath.Join(scratch, scratchPattern))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// rehearse does what a restore does, for a cluster that never will be.
func (r *Repository) rehearse(ctx context.Context, chain []*Manifest, dir string) error {
	last := chain[len(chain)-1]
	assembled, data := filepath.Join(dir, "db"), filepath.Join(dir, "data")
	if err := r.assemble(ctx, chain, last.ToRevision, assembled); err != nil {
		return err
	}
	_, err := snapshot.Restore(ctx, snapshot.RestoreOptions{
		SnapshotPath: assembled, DataDir: data, SkipHashCheck: true, InitialMmapBytes: 2*last.Object.ContentBytes + 64<<20,
	})
	if err != nil {
		return err
	}
	return compareHash(ctx, last, filepath.Join(data, "member", "snap", "db"))
}

// roomFor is how much space a restore of a chain takes: the assembled database, and the one made of it.
func roomFor(chain []*Manifest) (bytes int64) {
	for _, m := range chain {
		bytes += m.Object.ContentBytes
	}
	return 2 * bytes
}

// Record keeps the result of a verification with the backup.
func (r *Repository) Record(ctx context.Context, m *Manifest, v *Verification) error {
	verified := *m
	verified.Verification = v
	return r.publish(ctx, &verified)
}
