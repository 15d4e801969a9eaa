package mvcc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// model is the store as one would explain it: the list of all changes ever, and
// everything else worked out from it every time.
type model struct {
	changes  []modelChange
	revision int64
	floor    int64
	hashed   map[int64]HashKVResult // by compactions
}

type modelChange struct {
	rev      revision.Revision
	deletion bool
	kv       *mvccpb.KeyValue // of a deletion only the key
	kept     bool             // not deleted by a compaction
}

func newModel() *model {
	return &model{revision: 1, floor: -1, hashed: map[int64]HashKVResult{}}
}

// at returns the changes that make up the state at rev, by key.
func (m *model) at(rev int64) map[string]*modelChange {
	state := map[string]*modelChange{}
	for i := range m.changes {
		if c := &m.changes[i]; c.rev.Main <= rev {
			state[string(c.kv.Key)] = c
		}
	}
	maps.DeleteFunc(state, func(_ string, c *modelChange) bool { return c.deletion })
	return state
}

func inRange(key, from, end string) bool {
	switch end {
	case "":
		return key == from
	case "\x00":
		return key >= from
	}
	return key >= from && key < end
}

// read returns the KVs of a range at a revision in key order.
func (m *model) read(rev int64, from, end string) (kvs []*mvccpb.KeyValue) {
	for key, c := range m.at(rev) {
		if inRange(key, from, end) {
			kvs = append(kvs, c.kv)
		}
	}
	slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int { return cmp.Compare(string(a.Key), string(b.Key)) })
	return kvs
}

func (m *model) put(rev revision.Revision, key, value string, lease int64) {
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), Lease: lease,
		CreateRevision: rev.Main, ModRevision: rev.Main, Version: 1}
	if old := m.at(rev.Main)[key]; old != nil {
		kv.CreateRevision, kv.Version = old.kv.CreateRevision, old.kv.Version+1
	}
	m.changes = append(m.changes, modelChange{rev: rev, kv: kv, kept: true})
}

// keep is what a compaction at rev keeps at or below rev, by the table.
func (m *model) keep(rev int64) map[revision.Revision]bool {
	newest := map[string]*modelChange{}
	for i := range m.changes {
		if c := &m.changes[i]; c.rev.Main <= rev {
			newest[string(c.kv.Key)] = c
		}
	}
	keep := map[revision.Revision]bool{}
	for _, c := range newest {
		if !c.deletion || c.rev.Main == rev {
			keep[c.rev] = true
		}
	}
	return keep
}

func (m *model) compact(rev int64) {
	keep := m.keep(rev)
	m.hashed[rev] = m.hashWith(rev, keep)
	m.floor = rev
	for i := range m.changes {
		if c := &m.changes[i]; c.rev.Main <= rev && !keep[c.rev] {
			c.kept = false
		}
	}
}

// hash is HashKV by the letter of its definition.
func (m *model) hash(rev int64) HashKVResult {
	if cached, ok := m.hashed[rev]; ok {
		cached.CurrentRevision = m.revision
		return cached
	}
	keep := m.keep(rev)
	for _, c := range m.changes {
		if c.deletion && c.rev.Main == rev {
			delete(keep, c.rev)
		}
	}
	return m.hashWith(rev, keep)
}

func (m *model) hashWith(rev int64, keep map[revision.Revision]bool) HashKVResult {
	stream := []byte("key")
	for _, c := range m.changes {
		switch {
		case !c.kept, c.rev.Main > rev:
		case c.rev.Main <= m.floor && len(keep) > 0 && !keep[c.rev]:
		case c.rev.Main == m.floor && c.deletion:
		default:
			value, _ := c.kv.MarshalVT()
			stream = append(revision.AppendKey(stream, c.rev, c.deletion), value...)
		}
	}
	return HashKVResult{
		Hash:         crc32.Checksum(stream, crc32.MakeTable(crc32.Castagnoli)),
		HashRevision: rev, CompactRevision: m.floor, CurrentRevision: m.revision,
	}
}

func (m *model) stored() (entries []string) {
	for _, c := range m.changes {
		if mark := map[bool]string{true: "t"}[c.deletion]; c.kept {
			entries = append(entries, fmt.Sprintf("%v%s %s", c.rev, mark, describe(c.kv)))
		}
	}
	return entries
}

func (m *model) leases() map[string]int64 {
	leases := map[string]int64{}
	for key, c := range m.at(m.revision) {
		if c.kv.Lease != 0 {
			leases[key] = c.kv.Lease
		}
	}
	return leases
}

// trial drives a store and the model with the same random operations.
type trial struct {
	*fixture
	model *model
	rng   *rand.Rand
	// pinned reads that were begun at some time, with what they must return.
	reads map[*ReadTxn][]string
}

func TestAgainstModel(t *testing.T) {
	steps := 400
	if testing.Short() {
		steps = 100
	}
	for seed := range int64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			tr := &trial{
				fixture: newFixture(t, Config{CompactionBatchLimit: 1 + int(seed)*3, CompactionSleep: time.Microsecond}),
				model:   newModel(),
				rng:     rand.New(rand.NewSource(seed)),
				reads:   map[*ReadTxn][]string{},
			}
			for range steps {
				tr.step()
			}
			tr.closeReads()
		})
	}
}

func (tr *trial) step() {
	switch n := tr.rng.Intn(100); {
	case n < 45:
		tr.randomEntry()
	case n < 50:
		tr.randomCompaction()
	case n < 75:
		tr.randomRange()
	case n < 82:
		tr.checkHash(tr.rng.Int63n(tr.model.revision+3) - 1)
	case n < 90:
		tr.checkEvents(tr.rng.Int63n(tr.model.revision + 3))
	case n < 95:
		tr.randomPin()
	case n < 97:
		tr.checkPins()
	default:
		tr.restart()
	}
	if got := [2]int64{tr.Revision(), tr.CompactRevision()}; got != [2]int64{tr.model.revision, tr.model.floor} {
		tr.t.Fatalf("revision and floor are %v, want %v", got, [2]int64{tr.model.revision, tr.model.floor})
	}
}

// bounds of a random range over few keys: collisions are what is interesting.
func (tr *trial) bounds() (key, end string) {
	key = string(rune('a' + tr.rng.Intn(12)))
	switch tr.rng.Intn(4) {
	case 0:
		return key, "\x00"
	case 1:
		return key, string(rune('a' + tr.rng.Intn(14)))
	}
	return key, ""
}

func (tr *trial) randomEntry() {
	tr.apply(func(b *backend.Batch) {
		for range 1 + tr.rng.Intn(3) {
			tr.randomTxn(b)
		}
	})
}

func (tr *trial) randomTxn(b *backend.Batch) {
	m := tr.model
	w := tr.Begin(b)
	rev := revision.Revision{Main: m.revision + 1}
	for range tr.rng.Intn(5) {
		key, end := tr.bounds()
		before := m.read(rev.Main, key, end)
		// Half of the time, look before each write: a transaction sees itself.
		if tr.rng.Intn(2) == 0 {
			res, err := w.Range([]byte(key), []byte(end), RangeOptions{})
			if err != nil || res.Rev != m.revision+min(rev.Sub, 1) {
				tr.t.Fatalf("range in a transaction: %v, revision %d", err, res.Rev)
			}
			mustEqual(tr.t, "range in a transaction", describeAll(res.KVs), describeAll(before))
		}
		if tr.rng.Intn(3) == 0 {
			deleted, at := w.DeleteRange([]byte(key), []byte(end))
			for _, kv := range before {
				m.changes = append(m.changes, modelChange{rev: rev, deletion: true, kept: true, kv: &mvccpb.KeyValue{Key: kv.Key}})
				rev.Sub++
			}
			if deleted != int64(len(before)) || at != m.revision+min(rev.Sub, 1) {
				tr.t.Fatalf("deleted %d at %d, want %d", deleted, at, len(before))
			}
			continue
		}
		lease := max(0, tr.rng.Int63n(6)-2)
		value := fmt.Sprint("v", tr.rng.Intn(1000))
		var leaseBefore int64
		if old := m.at(rev.Main)[key]; old != nil {
			leaseBefore = old.kv.Lease
		}
		if prev, at := w.Put([]byte(key), []byte(value), lease); prev != leaseBefore || at != rev.Main {
			tr.t.Fatalf("put returned lease %d, revision %d; want %d, %d", prev, at, leaseBefore, rev.Main)
		}
		m.put(rev, key, value, lease)
		rev.Sub++
	}
	tr.checkChanges(w, rev.Main)
	m.revision += min(rev.Sub, 1)
	if got := w.End(); got != m.revision {
		tr.t.Fatalf("End returned %d, want %d", got, m.revision)
	}
}

func (tr *trial) checkChanges(w *WriteTxn, main int64) {
	var got, want []string
	for _, c := range w.Changes() {
		got = append(got, c.Type.String()+" "+describe(c.KV))
	}
	for _, c := range tr.model.changes {
		if c.rev.Main == main {
			want = append(want, modelEvent(c))
		}
	}
	mustEqual(tr.t, "changes", got, want)
}

func modelEvent(c modelChange) string {
	if c.deletion {
		return fmt.Sprintf("DELETE %s= modified %d", c.kv.Key, c.rev.Main)
	}
	return "PUT " + describe(c.kv)
}

func (tr *trial) randomCompaction() {
	m := tr.model
	rev := m.revision - tr.rng.Int63n(min(20, m.revision)) + tr.rng.Int63n(2)
	done, err := tr.startCompaction(rev)
	switch {
	case rev <= m.floor:
		if !errors.Is(err, ErrCompacted) {
			tr.t.Fatalf("compacting at %d with floor %d: %v", rev, m.floor, err)
		}
	case rev > m.revision:
		if !errors.Is(err, ErrFutureRevision) {
			tr.t.Fatalf("compacting at %d with revision %d: %v", rev, m.revision, err)
		}
	case err != nil:
		tr.t.Fatal(err)
	default:
		m.compact(rev)
		if tr.rng.Intn(3) > 0 {
			tr.closeReads()
			<-done
			mustEqual(tr.t, fmt.Sprint("stored after compaction at ", rev), tr.stored(), m.stored())
			if s, f := tr.marks(); s != rev || f != rev {
				tr.t.Fatalf("scheduled %d, finished %d after compaction at %d", s, f, rev)
			}
		}
	}
}

func (tr *trial) randomRange() {
	m := tr.model
	key, end := tr.bounds()
	opt := RangeOptions{
		Rev:       max(0, m.revision-tr.rng.Int63n(12)+1),
		Limit:     tr.rng.Int63n(4),
		CountOnly: tr.rng.Intn(5) == 0,
		KeysOnly:  tr.rng.Intn(3) == 0,
	}
	if tr.rng.Intn(2) == 0 {
		opt.Rev = 0
	}
	res, err := tr.Range(context.Background(), []byte(key), []byte(end), opt)
	rev := opt.Rev
	switch {
	case rev == 0:
		rev = m.revision
	case rev > m.revision:
		if !errors.Is(err, ErrFutureRevision) {
			tr.t.Fatalf("reading %d at revision %d: %v", rev, m.revision, err)
		}
		return
	case rev < m.floor:
		if !errors.Is(err, ErrCompacted) {
			tr.t.Fatalf("reading %d with floor %d: %v", rev, m.floor, err)
		}
		return
	}
	if err != nil {
		tr.t.Fatal(err)
	}
	want := m.read(rev, key, end)
	if res.Count != int64(len(want)) || res.Rev != m.revision {
		tr.t.Fatalf("count %d, revision %d; want %d, %d", res.Count, res.Rev, len(want), m.revision)
	}
	if opt.CountOnly {
		want = nil
	}
	if opt.Limit > 0 && end != "" {
		want = want[:min(int(opt.Limit), len(want))]
	}
	if opt.KeysOnly {
		for i, kv := range want {
			want[i] = &mvccpb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version}
		}
	}
	mustEqual(tr.t, fmt.Sprintf("range %q %q %+v", key, end, opt), describeAll(res.KVs), describeAll(want))
	for _, kv := range want {
		if opt.KeysOnly || rev < 1 {
			break
		}
		if got := tr.PrevKV(kv.Key, rev); got == nil || describe(got) != describe(kv) {
			tr.t.Fatalf("PrevKV(%s, %d) = %v", kv.Key, rev, got)
		}
	}
}

func (tr *trial) checkHash(rev int64) {
	m := tr.model
	if rev == 0 {
		rev = m.revision
	}
	_, cached := m.hashed[rev]
	got, err := tr.HashKV(context.Background(), rev)
	switch {
	case rev > m.revision:
		if !errors.Is(err, ErrFutureRevision) {
			tr.t.Fatalf("hash of %d at revision %d: %v", rev, m.revision, err)
		}
	case cached && (err != nil || got.CompactRevision != m.floor):
		// A remembered hash: the model remembers all, the store the newest, and
		// only once the compaction is through. What it has must be right.
		if err == nil && got != m.hash(rev) {
			tr.t.Fatalf("hash of %d: %+v, want %+v", rev, got, m.hash(rev))
		}
	case rev >= 0 && rev < m.floor:
		if !errors.Is(err, ErrCompacted) {
			tr.t.Fatalf("hash of %d with floor %d: %v", rev, m.floor, err)
		}
	default:
		delete(m.hashed, rev) // below the remembered one
		if want := m.hash(rev); err != nil || got != want {
			tr.t.Fatalf("hash of %d: %+v (%v), want %+v", rev, got, err, want)
		}
	}
}

func (tr *trial) checkEvents(from int64) {
	m := tr.model
	if from < m.floor {
		if _, err := tr.Events(from, 3, nil); !errors.Is(err, ErrCompacted) {
			tr.t.Fatalf("events from %d with floor %d: %v", from, m.floor, err)
		}
		return
	}
	var got, want []string
	last := int64(0)
	for next := from; next <= m.revision; {
		calls := 0
		to, err := tr.Events(next, 3, func(rev int64, events []*mvccpb.Event) error {
			if calls++; rev <= last || rev < next || len(events) == 0 {
				tr.t.Fatalf("%d events of revision %d after %d", len(events), rev, last)
			}
			last = rev
			for _, e := range events {
				if rev > m.floor { // at the floor some may be gone, some going
					got = append(got, e.Type.String()+" "+describe(e.Kv))
				}
			}
			return nil
		})
		if err != nil || to <= next || calls > 3 {
			tr.t.Fatalf("events from %d to %d in %d calls: %v", next, to, calls, err)
		}
		next = to
	}
	for _, c := range m.changes {
		if c.rev.Main >= from && c.rev.Main > m.floor {
			want = append(want, modelEvent(c))
		}
	}
	mustEqual(tr.t, fmt.Sprint("events from ", from), got, want)
}

func (tr *trial) randomPin() {
	r, err := tr.Read(0)
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.reads[r] = describeAll(tr.model.read(tr.model.revision, "a", "\x00"))
}

func (tr *trial) checkPins() {
	for r, want := range tr.reads {
		res, err := r.Range(context.Background(), []byte("a"), []byte{0}, RangeOptions{})
		if err != nil || res.Rev != r.Rev() {
			tr.t.Fatalf("pinned read of %d: %v", r.Rev(), err)
		}
		mustEqual(tr.t, fmt.Sprint("pinned read of ", r.Rev()), describeAll(res.KVs), want)
	}
}

func (tr *trial) closeReads() {
	tr.checkPins()
	for r := range tr.reads {
		r.Close()
	}
	clear(tr.reads)
}

func (tr *trial) restart() {
	tr.closeReads()
	if tr.rng.Intn(2) == 0 {
		tr.reopen()
		clear(tr.model.hashed) // they live in memory
	} else {
		if err := tr.backend.Flush(context.Background()); err != nil {
			tr.t.Fatal(err)
		}
		if err := tr.Reload(); err != nil {
			tr.t.Fatal(err)
		}
		clear(tr.model.hashed)
	}
	leases := map[string]int64{}
	tr.AttachedLeases(func(key string, lease int64) { leases[key] = lease })
	if want := tr.model.leases(); !maps.Equal(leases, want) {
		tr.t.Fatalf("leases after a restart: %v, want %v", leases, want)
	}
}
