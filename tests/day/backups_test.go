package day

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/snapshot"
	"github.com/upkeep-kv/upkeep/snapshot/backup"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

func backedUp(repository string, compress bool) cluster.Option {
	return cluster.Upkeep(func(u *config.Upkeep) {
		u.BackupTo, u.BackupFullInterval, u.BackupIncrementalInterval = repository, fullInterval, incrementEvery
		u.BackupKeepCount, u.BackupCompress = keepFull, compress
	})
}

// keeper looks at the repository after every backup.
type keeper struct {
	repository *backup.Repository
	dir        string

	mu     sync.Mutex
	newest *backup.Manifest // the newest good full one that was ever there
	most   int
}

func newKeeper(t *testing.T, dir string) *keeper {
	r, err := backup.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &keeper{repository: r, dir: t.TempDir()}
}

// look checks that the newest good full backup that there ever was is there, or a newer one.
func (k *keeper) look() error {
	inventory, err := k.repository.List(context.Background())
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.most = max(k.most, len(inventory.Backups))
	if len(inventory.Problems) > 0 {
		return fmt.Errorf("the repository has problems: %v", inventory.Problems)
	}
	var newest *backup.Manifest
	fulls := 0
	for _, m := range inventory.Backups {
		if m.Kind != backup.Full {
			continue
		}
		fulls++
		if m.Good() && (newest == nil || m.TakenAt.After(newest.TakenAt)) {
			newest = m
		}
	}
	switch {
	case newest == nil:
		return fmt.Errorf("there is no good full backup among %d", len(inventory.Backups))
	case k.newest != nil && newest.TakenAt.Before(k.newest.TakenAt):
		return fmt.Errorf("the newest good full backup %s is gone; the newest one is %s", k.newest.ID, newest.ID)
	case fulls > keepFull+1:
		return fmt.Errorf("there are %d full backups, %d are to be kept", fulls, keepFull)
	}
	k.newest = newest
	return nil
}

// restores goes back to random moments and revisions, and compares with what there was.
func (k *keeper) restores(d *day, n int) (done int) {
	d.t.Helper()
	ctx := context.Background()
	inventory, err := k.repository.List(ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := k.look(); err != nil {
		d.t.Error(err)
	}
	oldest, newest := inventory.Backups[0], inventory.Backups[0]
	for _, m := range inventory.Backups {
		if m.TakenAt.Before(oldest.TakenAt) {
			oldest = m
		}
		if m.TakenAt.After(newest.TakenAt) {
			newest = m
		}
		if !m.Good() {
			d.t.Errorf("backup %s is not verified", m.ID)
		}
	}
	for i := range n {
		target := backup.Target{Revision: oldest.ToRevision + d.rng.Int64N(newest.ToRevision-oldest.ToRevision+1)}
		if i%2 == 0 {
			target = backup.Target{At: oldest.TakenAt.Add(time.Duration(d.rng.Int64N(int64(newest.TakenAt.Sub(oldest.TakenAt)))))}
		}
		k.restore(ctx, d, target)
		done++
	}
	return done
}

func (k *keeper) restore(ctx context.Context, d *day, target backup.Target) {
	d.t.Helper()
	what := fmt.Sprintf("revision %d", target.Revision)
	if target.Revision == 0 {
		what = clock(target.At)
	}
	plan, err := k.repository.PlanRestore(ctx, target)
	if errors.Is(err, backup.ErrNotHeld) && target.Revision != 0 && d.load.history.hole(target.Revision) {
		return
	}
	if err != nil {
		d.t.Errorf("restoring %s: %v", what, err)
		return
	}
	if !target.At.IsZero() {
		if plan.Known.After(target.At) {
			d.t.Errorf("restoring %s gives %s", what, clock(plan.Known))
		}
		if err := d.load.history.checkMoment(plan.Known, plan.Revision); err != nil {
			d.t.Errorf("restoring %s: %v", what, err)
		}
	}
	dir := filepath.Join(k.dir, "restored")
	defer os.RemoveAll(dir)
	_, err = plan.Run(ctx, snapshot.RestoreOptions{DataDir: dir, InitialMmapBytes: 1 << 26})
	if err != nil {
		d.t.Errorf("restoring %s: %v", what, err)
		return
	}
	got, err := contents(ctx, filepath.Join(dir, "member", "snap", "db"), plan.Revision)
	if err != nil {
		d.t.Errorf("restoring %s: %v", what, err)
		return
	}
	want := d.load.history.State(plan.Revision)
	if diff := difference(got, want); diff != "" {
		d.t.Errorf("restoring %s, revision %d from %d backups: %s", what, plan.Revision, len(plan.Chain), diff)
	}
}

// contents reads all keys of a restored database.
func contents(ctx context.Context, file string, rev int64) (map[string]string, error) {
	b, err := backend.Open(backend.Config{Path: file, NoSync: true})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	store, err := mvcc.Open(b, mvcc.Config{})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	if at := store.Revision(); at != rev {
		return nil, fmt.Errorf("the database is at revision %d, the plan says %d", at, rev)
	}
	result, err := store.Range(ctx, []byte{0}, []byte{0}, mvcc.RangeOptions{})
	if err != nil {
		return nil, err
	}
	state := map[string]string{}
	for _, kv := range result.KVs {
		state[string(kv.Key)] = string(kv.Value)
	}
	return state, nil
}
