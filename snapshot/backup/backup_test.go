package backup_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/snapshot"
	"github.com/upkeep-kv/upkeep/snapshot/backup"
)

// TestEveryRevision restores every revision of a random history with compactions, a full backup and incremental ones in
// between, and compares the keys, and the hash where the member's was recorded.
func TestEveryRevision(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	m, r := newMember(t), repository(t)
	states := map[int64]string{}
	hashes := map[int64]mvcc.HashKVResult{}
	first := int64(0)
	for round := range 8 {
		for range 6 {
			var ops []string
			for _, key := range rng.Perm(8)[:1+rng.IntN(3)] {
				op := fmt.Sprintf("k%d=%d", key, rng.IntN(1000))
				if rng.IntN(4) == 0 {
					op = fmt.Sprintf("-k%d", key)
				}
				ops = append(ops, op)
			}
			rev := m.write(ops...)
			states[rev] = state(t, m.store, rev)
		}
		if round%3 == 2 {
			// Never past the last backup, or what is between would be lost.
			m.compact(m.store.Revision() - 6 - int64(rng.IntN(3)))
		}
		kind := backup.Incremental
		if round == 0 || round == 5 {
			kind = backup.Full
		}
		b := m.run(r, kind)
		if b.Kind != kind || !b.Good() {
			t.Fatalf("round %d: %s backup, verification %+v, reason %q", round, b.Kind, b.Verification, b.Reason)
		}
		if first == 0 {
			first = b.ToRevision
		}
		h, err := m.store.ReadHashKV(context.Background(), 0)
		must(t, err)
		hashes[b.ToRevision] = h
	}
	for rev := first; rev <= m.store.Revision(); rev++ {
		got, plan, result := restored(t, r, backup.Target{Revision: rev})
		if want := states[rev]; state(t, got.store, 0) != want || result.Revision != rev {
			t.Fatalf("revision %d, restored to %d by %d backups:\n%s\nwanted\n%s", rev, result.Revision, len(plan.Chain),
				state(t, got.store, 0), want)
		}
		if want, ok := hashes[rev]; ok {
			h, err := got.store.ReadHashKV(context.Background(), 0)
			must(t, err)
			if h.Hash != want.Hash || h.CompactRevision != want.CompactRevision {
				t.Fatalf("revision %d: hash %+v, the member's was %+v", rev, h, want)
			}
		}
	}
	newest, _, _ := restored(t, r, backup.Target{})
	newest.compact(m.store.Revision() - 1)
	m.compact(m.store.Revision() - 1)
	if entries(t, newest) != entries(t, m) {
		t.Fatal("after the same compaction the entries differ")
	}
}

// TestFullInstead: what an incremental backup cannot continue is taken in full, and the manifest says why.
func TestFullInstead(t *testing.T) {
	ctx := context.Background()
	for _, test := range []struct {
		name, reason string
		act          func(m *member) *member
	}{
		{"first", "there is no full backup yet", nil},
		{"compacted", "was compacted at", func(m *member) *member {
			m.write("a=1")
			m.compact(m.write("a=2"))
			return m
		}},
		{"set back", "is not what this member has", func(m *member) *member {
			must(t, m.backend.Flush(ctx))
			other := newMember(t) // same revisions, other history
			other.index = m.index + 100
			for other.store.Revision() < m.store.Revision()+3 {
				other.write("a=other")
			}
			return other
		}},
		{"behind", "the cluster was set back, or the member is behind", func(m *member) *member {
			other := newMember(t)
			other.index = m.index + 100
			other.write("a=1")
			return other
		}},
		{"another log", "the log is not the one", func(m *member) *member {
			other := newMember(t)
			for other.store.Revision() < m.store.Revision()+1 {
				other.index = 0
				other.write("a=1")
			}
			return other
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, r := newMember(t), repository(t)
			for i := range 5 {
				m.write(fmt.Sprintf("a=%d", i))
			}
			if test.act != nil {
				m.run(r, backup.Full)
				m = test.act(m)
			}
			b := m.run(r, backup.Incremental)
			if b.Kind != backup.Full || !strings.Contains(b.Reason, test.reason) {
				t.Fatalf("%s backup, reason %q, wanted a full one because %q", b.Kind, b.Reason, test.reason)
			}
		})
	}
}

// TestIdle: a store in which nothing happens needs no full backups, even when everything is compacted.
func TestIdle(t *testing.T) {
	for _, last := range []string{"a=2", "-a"} {
		m, r := newMember(t), repository(t)
		m.write("a=1")
		rev := m.write(last)
		m.run(r, backup.Full)
		m.compact(rev)
		kinds := ""
		for range 4 {
			b := m.run(r, backup.Incremental)
			kinds += string(b.Kind[:1])
			if b.ToRevision != rev {
				t.Fatalf("reaches revision %d, not %d", b.ToRevision, rev)
			}
		}
		if kinds != "iiii" {
			t.Errorf("after %q: kinds %s, all were to be incremental", last, kinds)
		}
		restored(t, r, backup.Target{})
	}
	m, r := newMember(t), repository(t) // not even a first write
	m.run(r, backup.Full)
	if b := m.run(r, backup.Incremental); b.Kind != backup.Incremental {
		t.Errorf("empty store: %s because %s", b.Kind, b.Reason)
	}
	restored(t, r, backup.Target{})
}

// TestLeases: a restored database has the leases of the end of the backup, and of those that were gone by then the ones
// that keys are attached to.
func TestLeases(t *testing.T) {
	m, r := newMember(t), repository(t)
	m.grant(1)
	m.grant(2)
	attached := m.write("x=1@1", "y=1@2")
	m.run(r, backup.Full)
	m.grant(3)
	m.grant(4)
	before := m.write("z=1@4")
	m.revoke(4)
	m.revoke(1)
	m.write("-x", "-z")
	m.run(r, backup.Incremental)
	leases := func(m *member) string {
		view := m.backend.View()
		defer view.Close()
		ids := ""
		must(t, view.ScanBucket(backend.Lease, nil, nil, func(k, _ []byte) error {
			ids += fmt.Sprint(k[7])
			return nil
		}))
		return ids
	}
	for _, test := range []struct {
		rev    int64
		leases string
		lost   int
	}{
		{attached, "12", 0},
		{before, "123", 1}, // 1 is known from the full backup; 4 came and went between the two
		{before + 1, "23", 0},
	} {
		got, _, result := restored(t, r, backup.Target{Revision: test.rev})
		if leases(got) != test.leases || result.LostLeases != test.lost {
			t.Errorf("revision %d: leases %s, %d lost; wanted %s, %d", test.rev, leases(got), result.LostLeases, test.leases, test.lost)
		}
	}
}

// TestDamage flips a bit and cuts off bytes in every object of a repository; each time the backup is named, and nothing
// is restored from it.
func TestDamage(t *testing.T) {
	ctx := context.Background()
	m, r := newMember(t), repository(t)
	m.write("a=1")
	full := m.run(r, backup.Full)
	m.write("a=2")
	increment := m.run(r, backup.Incremental)
	for _, b := range []*backup.Manifest{full, increment} {
		path := filepath.Join(r.Location(), b.Object.Name)
		whole, err := os.ReadFile(path)
		must(t, err)
		for at := 0; at < len(whole); at += 1 + len(whole)/40 {
			damaged := append([]byte(nil), whole...)
			damaged[at] ^= 0x10
			for _, content := range [][]byte{damaged, whole[:at]} {
				must(t, os.WriteFile(path, content, 0o600))
				v, err := r.VerifyByReading(ctx, b)
				must(t, err)
				if !strings.Contains(v.Error, b.Object.Name) {
					t.Fatalf("byte %d of %s: %q", at, b.Object.Name, v.Error)
				}
			}
		}
		plan, err := r.PlanRestore(ctx, backup.Target{})
		if err == nil {
			_, err = plan.Run(ctx, snapshot.RestoreOptions{DataDir: filepath.Join(t.TempDir(), "d")})
		}
		if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrNotHeld) {
			// A cut off one is noticed by its size: then the full one before it is the newest.
			if b.Kind == backup.Full {
				t.Fatalf("restore from a damaged backup: %v", err)
			}
		}
		must(t, os.WriteFile(path, whole, 0o600))
	}
	must(t, os.Remove(filepath.Join(r.Location(), full.Object.Name)))
	inventory, err := r.List(ctx)
	must(t, err)
	if len(inventory.Problems) != 1 || !strings.Contains(inventory.Problems[0], full.ID) {
		t.Errorf("problems %q", inventory.Problems)
	}
	if _, err = r.PlanRestore(ctx, backup.Target{}); !errors.Is(err, backup.ErrNotHeld) || !strings.Contains(err.Error(), full.ID) {
		t.Errorf("restore without the full backup: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(r.Location(), increment.ID+".json"), []byte("{"), 0o600))
	if inventory, err = r.List(ctx); err != nil || !strings.Contains(fmt.Sprint(inventory.Problems), increment.ID) {
		t.Errorf("%v, %v", inventory, err)
	}
}

// TestTimes: the samples tell which revision a moment has.
func TestTimes(t *testing.T) {
	ctx := context.Background()
	m, r := newMember(t), repository(t)
	start := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	minute := func(n int) time.Time { return start.Add(time.Duration(n) * time.Minute) }
	for i := range 10 {
		m.known = append(m.known, backup.Sample{Time: minute(i), Revision: m.write(fmt.Sprintf("a=%d", i))})
		if i == 3 {
			m.run(r, backup.Full) // it was taken an hour later, by its own clock
		}
	}
	last := m.run(r, backup.Incremental)
	for i := range 10 {
		for _, second := range []time.Duration{0, 59 * time.Second} {
			plan, err := r.PlanRestore(ctx, backup.Target{At: minute(i).Add(second)})
			must(t, err)
			if want := m.known[i].Revision; plan.Revision != want || !plan.Known.Equal(minute(i)) {
				t.Fatalf("%v: revision %d known at %v, wanted %d", minute(i).Add(second), plan.Revision, plan.Known, want)
			}
			if want := 1 + min(1, max(0, i-3)); len(plan.Chain) != want {
				t.Fatalf("%v: %d backups, wanted %d", minute(i), len(plan.Chain), want)
			}
		}
	}
	held := fmt.Sprintf("%s to %s, revisions 1 to 11", minute(0).Format(time.RFC3339), last.TakenAt.Format(time.RFC3339))
	for _, at := range []time.Time{minute(-1), last.TakenAt.Add(time.Second), last.TakenAt.Add(time.Hour)} {
		if _, err := r.PlanRestore(ctx, backup.Target{At: at}); !errors.Is(err, backup.ErrNotHeld) || !strings.Contains(err.Error(), held) {
			t.Errorf("%v: %v, wanted %q", at, err, held)
		}
	}
	for _, rev := range []int64{12, -3} {
		if _, err := r.PlanRestore(ctx, backup.Target{Revision: rev}); !errors.Is(err, backup.ErrNotHeld) {
			t.Errorf("revision %d: %v", rev, err)
		}
	}
}

// TestOtherCluster: clusters do not share a repository unless that is forced.
func TestOtherCluster(t *testing.T) {
	ctx := context.Background()
	m, r := newMember(t), repository(t)
	m.write("a=1")
	m.run(r, backup.Full)
	o := m.options(r, backup.Full)
	o.ClusterID = 0xc2
	if _, err := backup.Run(ctx, o); !errors.Is(err, backup.ErrOtherCluster) || !strings.Contains(err.Error(), "c1") {
		t.Fatalf("%v", err)
	}
	o.Force = true
	_, err := backup.Run(ctx, o)
	must(t, err)
	if _, err = r.PlanRestore(ctx, backup.Target{}); !errors.Is(err, backup.ErrOtherCluster) {
		t.Fatalf("%v", err)
	}
	plan, err := r.PlanRestore(ctx, backup.Target{ClusterID: 0xc2})
	if err != nil || plan.Chain[0].ClusterID != 0xc2 {
		t.Fatalf("%v, %v", plan, err)
	}
}
