package backup_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/mvcc/lease"
	"github.com/upkeep-kv/upkeep/server/backups"
	"github.com/upkeep-kv/upkeep/snapshot"
	"github.com/upkeep-kv/upkeep/snapshot/backup"
)

// member is a store that can be backed up, with the part that the apply goroutine plays.
type member struct {
	t       testing.TB
	path    string
	backend *backend.Backend
	store   *mvcc.Store
	index   uint64
	source  *backups.Source
	known   []backup.Sample
}

func newMember(t testing.TB) *member { return openMember(t, filepath.Join(t.TempDir(), "db")) }

func openMember(t testing.TB, path string) *member {
	t.Helper()
	m := &member{t: t, path: path}
	var err error
	m.backend, err = backend.Open(backend.Config{Path: path, BatchInterval: time.Millisecond, NoSync: true})
	must(t, err)
	m.store, err = mvcc.Open(m.backend, mvcc.Config{CompactionSleep: time.Microsecond})
	must(t, err)
	view := m.backend.View()
	m.index, _ = view.Applied()
	view.Close()
	t.Cleanup(m.close)
	m.source = &backups.Source{
		Backend: m.backend, Store: m.store,
		Pin:   func(ctx context.Context) (backup.Image, error) { return m.backend.Snapshot(ctx) },
		Known: func(after int64) []backup.Sample { return m.known },
	}
	return m
}

func (m *member) close() {
	m.store.Close()
	must(m.t, m.backend.Close())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *member) apply(fn func(b *backend.Batch)) {
	m.index++
	b := m.backend.Begin()
	fn(b)
	b.Commit(m.index, 1)
}

// write applies one transaction of "key=value", "-key" and "key=value@lease".
func (m *member) write(ops ...string) int64 {
	var rev int64
	m.apply(func(b *backend.Batch) {
		w := m.store.Begin(b)
		for _, op := range ops {
			if key, ok := strings.CutPrefix(op, "-"); ok {
				w.DeleteRange([]byte(key), nil)
				continue
			}
			key, value, _ := strings.Cut(op, "=")
			value, attached, _ := strings.Cut(value, "@")
			var id int64
			if attached != "" {
				fmt.Sscan(attached, &id)
			}
			w.Put([]byte(key), []byte(value), id)
		}
		rev = w.End()
	})
	return rev
}

func (m *member) compact(rev int64) {
	m.t.Helper()
	var done <-chan struct{}
	m.apply(func(b *backend.Batch) {
		var err error
		done, err = m.store.Compact(b, rev)
		must(m.t, err)
	})
	<-done
}

// grant puts a lease into the table, as the lessor would.
func (m *member) grant(id int64) {
	m.t.Helper()
	lessor, err := lease.Open(m.backend, lease.Config{})
	must(m.t, err)
	defer lessor.Close()
	m.apply(func(b *backend.Batch) {
		_, err := lessor.Grant(b, id, 600)
		must(m.t, err)
	})
}

func (m *member) revoke(id int64) {
	m.t.Helper()
	must(m.t, m.backend.Flush(context.Background()))
	lessor, err := lease.Open(m.backend, lease.Config{})
	must(m.t, err)
	defer lessor.Close()
	m.apply(func(b *backend.Batch) { lessor.Remove(b, id) })
}

// state is all keys at a revision.
func state(t testing.TB, store *mvcc.Store, rev int64) string {
	t.Helper()
	result, err := store.Range(context.Background(), []byte{0}, []byte{0}, mvcc.RangeOptions{Rev: rev})
	must(t, err)
	var b strings.Builder
	for _, kv := range result.KVs {
		fmt.Fprintf(&b, "%s=%s@%d v%d c%d m%d\n", kv.Key, kv.Value, kv.Lease, kv.Version, kv.CreateRevision, kv.ModRevision)
	}
	return b.String()
}

func (m *member) options(r *backup.Repository, kind backup.Kind) backup.Options {
	return backup.Options{
		Repository: r, Source: m.source, ClusterID: 0xc1, MemberID: 0xa1, MemberName: "m1", Kind: kind,
		Verify: true, Compress: true, Scratch: filepath.Join(m.t.TempDir(), "scratch"),
	}
}

func (m *member) run(r *backup.Repository, kind backup.Kind) *backup.Manifest {
	m.t.Helper()
	o := m.options(r, kind)
	manifest, err := backup.Run(context.Background(), o)
	must(m.t, err)
	if left, _ := os.ReadDir(o.Scratch); len(left) > 0 {
		m.t.Fatalf("the scratch directory still holds %v", left)
	}
	return manifest
}

func repository(t testing.TB) *backup.Repository {
	t.Helper()
	r, err := backup.Open(filepath.Join(t.TempDir(), "repository"))
	must(t, err)
	return r
}

// restored restores a moment and opens the database that came of it, as a server would.
func restored(t testing.TB, r *backup.Repository, target backup.Target) (*member, *backup.RestorePlan, snapshot.RestoreResult) {
	t.Helper()
	plan, err := r.PlanRestore(context.Background(), target)
	must(t, err)
	dir := filepath.Join(t.TempDir(), "data")
	result, err := plan.Run(context.Background(), snapshot.RestoreOptions{DataDir: dir, InitialMmapBytes: 1 << 24})
	must(t, err)
	if left, _ := filepath.Glob(dir + ".*"); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
	return openMember(t, filepath.Join(dir, "member", "snap", "db")), plan, result
}

// entries is bucket `key`, hashed.
func entries(t testing.TB, m *member) string {
	t.Helper()
	must(t, m.backend.Flush(context.Background()))
	view := m.backend.View()
	defer view.Close()
	h := sha256.New()
	must(t, view.Scan(nil, nil, func(k, v []byte) error {
		fmt.Fprintf(h, "%x %x\n", k, v)
		return nil
	}))
	return fmt.Sprintf("%x", h.Sum(nil))
}

func readAll(t testing.TB, r io.ReadCloser, err error) string {
	t.Helper()
	must(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	must(t, err)
	return string(b)
}
