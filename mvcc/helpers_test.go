package mvcc

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// fixture is a store on a backend in a temporary directory, with the part that
// the apply goroutine plays.
type fixture struct {
	t       testing.TB
	path    string
	cfg     Config
	backend *backend.Backend
	*Store
	applied uint64
	offline bool // leave the applied index alone
}

func newFixture(t testing.TB, cfg Config) *fixture {
	f := &fixture{t: t, path: filepath.Join(t.TempDir(), "db"), cfg: cfg}
	f.open()
	t.Cleanup(f.close)
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	var err error
	f.backend, err = backend.Open(backend.Config{Path: f.path, BatchInterval: 5 * time.Millisecond, NoSync: true})
	if err != nil {
		f.t.Fatal(err)
	}
	if f.Store, err = Open(f.backend, f.cfg); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) close() {
	f.Store.Close()
	if err := f.backend.Close(); err != nil {
		f.t.Error(err)
	}
}

func (f *fixture) reopen() {
	f.t.Helper()
	f.close()
	f.open()
}

// apply seals one log entry with whatever fn does.
func (f *fixture) apply(fn func(b *backend.Batch)) {
	if !f.offline {
		f.applied++
	}
	b := f.backend.Begin()
	fn(b)
	b.Commit(f.applied, 1)
}

// write applies one transaction and returns the store's revision after it.
func (f *fixture) write(fn func(w *WriteTxn)) (rev int64) {
	f.apply(func(b *backend.Batch) {
		w := f.Begin(b)
		fn(w)
		rev = w.End()
	})
	return rev
}

func (f *fixture) put(key, value string) int64 {
	return f.write(func(w *WriteTxn) { w.Put([]byte(key), []byte(value), 0) })
}

// compact compacts and waits for the background part.
func (f *fixture) compact(rev int64) error {
	done, err := f.startCompaction(rev)
	if done != nil {
		<-done
	}
	return err
}

func (f *fixture) startCompaction(rev int64) (done <-chan struct{}, err error) {
	f.apply(func(b *backend.Batch) { done, err = f.Compact(b, rev) })
	return done, err
}

// stored lists what bucket `key` holds.
func (f *fixture) stored() (entries []string) {
	f.t.Helper()
	view := f.backend.View()
	defer view.Close()
	err := view.Scan(nil, nil, func(k, v []byte) error {
		rev, deletion, err := revision.ParseKey(k)
		if err != nil {
			return err
		}
		mark := ""
		if deletion {
			mark = "t"
		}
		var kv mvccpb.KeyValue
		if err := kv.UnmarshalVT(v); err != nil {
			return err
		}
		entries = append(entries, fmt.Sprintf("%v%s %s", rev, mark, describe(&kv)))
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return entries
}

// marks returns the marks of compaction in bucket `meta`, -1 for none.
func (f *fixture) marks() (scheduled, finished int64) {
	f.t.Helper()
	if err := f.backend.Flush(context.Background()); err != nil {
		f.t.Fatal(err)
	}
	view := f.backend.View()
	defer view.Close()
	scheduled, finished, err := compactRevisions(view)
	if err != nil {
		f.t.Fatal(err)
	}
	return scheduled, finished
}

func describe(kv *mvccpb.KeyValue) string {
	s := fmt.Sprintf("%s=%s", kv.Key, kv.Value)
	if kv.CreateRevision != 0 {
		s += fmt.Sprintf(" created %d", kv.CreateRevision)
	}
	if kv.ModRevision != 0 {
		s += fmt.Sprintf(" modified %d", kv.ModRevision)
	}
	if kv.Version != 0 {
		s += fmt.Sprintf(" version %d", kv.Version)
	}
	if kv.Lease != 0 {
		s += fmt.Sprintf(" lease %d", kv.Lease)
	}
	return s
}

func describeAll(kvs []*mvccpb.KeyValue) (all []string) {
	for _, kv := range kvs {
		all = append(all, describe(kv))
	}
	return all
}

func mustEqual(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s:\n  %s\nwant:\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}
