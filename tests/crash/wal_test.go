package crash

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/walpb"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
	"github.com/upkeep-kv/upkeep/tests/longrun"
)

const walDir = "data/member/wal"

// walOptions make segments so small that a run goes through many.
var walOptions = wal.Options{SegmentBytes: 6 << 10}

// logRecord is one record that was appended: an entry, a hard state or a snapshot record.
type logRecord struct {
	entry    *raftpb.Entry
	state    *raftpb.HardState
	snapshot *walpb.Snapshot
}

// history is what was given to a log, record by record, and when it was acknowledged. It is the model: a log may be
// recovered to any prefix of its records that holds all that was acknowledged, and to nothing else.
type history struct {
	records []logRecord
	// moments of the disk's record, in order: by then so many records had been handed over or acknowledged.
	moments []moment
	// described caches describe.
	described map[int]string
}

type moment struct{ at, appended, acknowledged int }

func (h *history) note(at, acknowledged int) {
	h.moments = append(h.moments, moment{at, len(h.records), acknowledged})
}

// bounds says which prefixes may be recovered after a cut at that operation.
func (h *history) bounds(at int) (acknowledged, appended int) {
	for _, m := range h.moments {
		if m.at <= at {
			acknowledged, appended = m.acknowledged, m.appended
		}
	}
	return acknowledged, appended
}

// describe is what a log with the first n records holds, told in the simplest way that can be right.
func (h *history) describe(n int) string {
	if s, ok := h.described[n]; ok {
		return s
	}
	type run struct {
		base uint64
		ents []*raftpb.Entry
	}
	state, start := &raftpb.HardState{}, &walpb.Snapshot{}
	runs := []run{{}}
	var snapshots []*walpb.Snapshot
	for _, r := range h.records[:n] {
		switch {
		case r.state != nil:
			state = r.state
		case r.snapshot != nil:
			snapshots = append(snapshots, r.snapshot)
		default:
			last, index := &runs[len(runs)-1], r.entry.GetIndex()
			if index > last.base+uint64(len(last.ents))+1 {
				runs = append(runs, run{base: index - 1, ents: []*raftpb.Entry{r.entry}})
				continue
			}
			last.ents = append(last.ents[:index-last.base-1:index-last.base-1], r.entry)
		}
	}
	for _, s := range snapshots {
		if s.GetIndex() <= state.GetCommit() && s.GetIndex() >= start.GetIndex() {
			start = s
		}
	}
	var ents []*raftpb.Entry
	for _, r := range runs {
		if i := start.GetIndex(); r.base <= i && i <= r.base+uint64(len(r.ents)) {
			ents = r.ents[i-r.base:]
		} else if r.base <= i {
			ents = nil
		}
	}
	text := describe(state, start, ents)
	if h.described == nil {
		h.described = map[int]string{}
	}
	h.described[n] = text
	return text
}

func describe(hs *raftpb.HardState, start *walpb.Snapshot, ents []*raftpb.Entry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "term %d vote %x commit %d snapshot %d/%d:", hs.GetTerm(), hs.GetVote(), hs.GetCommit(),
		start.GetIndex(), start.GetTerm())
	for _, e := range ents {
		fmt.Fprintf(&b, " %d/%d=%x", e.GetIndex(), e.GetTerm(), sum(e.GetData()))
	}
	return b.String()
}

func sum(b []byte) uint32 {
	h := uint32(2166136261)
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return h ^ uint32(len(b))<<16
}

// walRun drives a log at random, the way raft would.
type walRun struct {
	t    testing.TB
	rng  *rand.Rand
	disk *Recorder
	log  *wal.WAL
	history
	acknowledged int

	term, commit, last, snap uint64
	// base is the lowest index that entries may still be replaced from.
	unsynced bool
}

func newWALRun(t testing.TB, seed uint64) *walRun {
	w := &walRun{t: t, rng: rand.New(rand.NewPCG(seed, 7)), disk: NewRecorder(), term: 1}
	md := &walpb.Metadata{NodeID: new(uint64(0xa)), ClusterID: new(uint64(0xc))}
	must(t, wal.Bootstrap(w.disk, walDir, md, wal.BootstrapState{}))
	w.note(w.disk.Now(), 0)
	w.open()
	return w
}

func (w *walRun) open() {
	var err error
	w.log, _, err = wal.Open(w.disk, walDir, walOptions)
	must(w.t, err)
}

// payload is sometimes random, sometimes all the same, sometimes zeroes, and sometimes what a log itself looks like.
func (w *walRun) payload() []byte {
	size := w.rng.IntN(200)
	switch w.rng.IntN(10) {
	case 0:
		size = 600 + w.rng.IntN(3000)
	case 1:
		size = 0
	}
	data := make([]byte, size)
	switch w.rng.IntN(5) {
	case 0:
	case 1:
		data = w.ownBytes(size)
	case 2:
		copy(data, bytes.Repeat([]byte{'v'}, size))
	default:
		for i := range data {
			data[i] = byte(w.rng.Uint32())
		}
	}
	return data
}

// ownBytes is a value that is a piece of a log.
func (w *walRun) ownBytes(size int) []byte {
	names, err := w.disk.ReadDir(walDir)
	must(w.t, err)
	for _, e := range names {
		if strings.HasSuffix(e.Name(), ".wal") {
			content, err := vfs.ReadFile(w.disk, walDir+"/"+e.Name())
			must(w.t, err)
			at := w.rng.IntN(max(1, len(content)/2))
			return content[at:min(len(content), at+size)]
		}
	}
	return nil
}

func (w *walRun) append(hs *raftpb.HardState, ents []*raftpb.Entry, snap *walpb.Snapshot) {
	if snap != nil {
		w.records = append(w.records, logRecord{snapshot: snap})
	}
	for _, e := range ents {
		w.records = append(w.records, logRecord{entry: e})
	}
	if hs != nil {
		w.records = append(w.records, logRecord{state: hs})
	}
	w.note(w.disk.Now()+1, w.acknowledged)
	must(w.t, w.log.Append(hs, ents, snap))
	w.unsynced = true
}

func (w *walRun) sync() {
	must(w.t, w.log.Sync())
	w.acknowledged, w.unsynced = len(w.records), false
	w.note(w.disk.Now(), w.acknowledged)
}

func (w *walRun) entries(n int) []*raftpb.Entry {
	var ents []*raftpb.Entry
	for range n {
		w.last++
		ents = append(ents, &raftpb.Entry{Term: new(w.term), Index: new(w.last), Data: w.payload()})
	}
	return ents
}

func (w *walRun) state() *raftpb.HardState {
	return &raftpb.HardState{Term: new(w.term), Vote: new(w.term%3 + 1), Commit: new(w.commit)}
}

// step does one thing that raft or its owner would do.
func (w *walRun) step() {
	switch w.rng.IntN(20) {
	default: // entries, and what a majority has by now
		w.commit += uint64(w.rng.Int64N(int64(w.last-w.commit) + 1))
		ents := w.entries(1 + w.rng.IntN(4))
		w.append(w.state(), ents, nil)
		if w.rng.IntN(3) > 0 {
			w.sync()
		}
	case 0: // a new term
		w.term++
		w.append(w.state(), nil, nil)
		w.sync()
	case 1: // a new leader replaces what is not committed
		w.term++
		w.last = w.commit + uint64(w.rng.Int64N(int64(w.last-w.commit)+1))
		w.append(w.state(), w.entries(1+w.rng.IntN(3)), nil)
		w.sync()
	case 2:
		must(w.t, w.log.Flush())
	case 3, 4: // the state machine is durable up to somewhere
		if w.commit > w.snap {
			w.sync() // as the append goroutine: the commit index is in the log before the record
			w.snap += 1 + uint64(w.rng.Int64N(int64(w.commit-w.snap)))
			w.append(nil, nil, &walpb.Snapshot{Index: new(w.snap), Term: new(w.term)})
			w.sync()
			must(w.t, w.log.Release(w.snap))
		}
	case 5: // a snapshot from the leader replaces the log
		if w.rng.IntN(2) == 0 {
			w.last += 5 + uint64(w.rng.IntN(50))
			w.commit, w.snap = w.last, w.last
			w.append(w.state(), nil, &walpb.Snapshot{Index: new(w.snap), Term: new(w.term)})
			w.sync()
			must(w.t, w.log.Release(w.snap))
		}
	case 6: // the process ends in good order and starts again
		if w.rng.IntN(3) == 0 {
			must(w.t, w.log.Close())
			w.acknowledged = len(w.records)
			w.note(w.disk.Now(), w.acknowledged)
			w.open()
		}
	}
}

// check recovers a log from what a cut left and compares it with the model. It returns which prefix of the history
// survived.
func (w *walRun) check(disk vfs.FS, at int) (kept int, err error) {
	acknowledged, appended := w.bounds(at)
	exists, err := wal.Exists(disk, walDir)
	if err != nil {
		return 0, err
	}
	if !exists {
		if len(w.moments) > 0 && at >= w.moments[0].at {
			return 0, fmt.Errorf("the log is gone")
		}
		return 0, nil
	}
	log, rec, err := wal.Open(disk, walDir, walOptions)
	if err != nil {
		return 0, fmt.Errorf("the log is refused: %w", err)
	}
	got := describe(rec.HardState, rec.Snapshot, rec.Entries)
	for kept = acknowledged; kept <= appended; kept++ {
		if w.describe(kept) == got {
			return kept, w.goOn(disk, log, rec)
		}
	}
	return 0, fmt.Errorf("recovered\n  %s\nwhich is no state between what was acknowledged\n  %s\nand what was written\n  %s",
		got, w.describe(acknowledged), w.describe(appended))
}

// goOn appends to a recovered log and reads all back.
func (w *walRun) goOn(disk vfs.FS, log *wal.WAL, rec *wal.Recovered) error {
	next := rec.Snapshot.GetIndex() + uint64(len(rec.Entries)) + 1
	e := &raftpb.Entry{Term: new(rec.HardState.GetTerm() + 1), Index: new(next), Data: []byte("after the cut")}
	if err := log.Append(nil, []*raftpb.Entry{e}, nil); err != nil {
		return err
	}
	if err := log.Sync(); err != nil {
		return err
	}
	if err := log.Close(); err != nil {
		return err
	}
	again, err := wal.Load(disk, walDir)
	if err != nil {
		return fmt.Errorf("read again after an append: %w", err)
	}
	want := describe(rec.HardState, rec.Snapshot, append(rec.Entries, e))
	if got := describe(again.HardState, again.Snapshot, again.Entries); got != want || again.Repaired != "" {
		return fmt.Errorf("after an append the log holds\n  %s\nwant\n  %s\nrepaired: %q", got, want, again.Repaired)
	}
	return nil
}

// TestLog cuts the power after each operation of random runs, and now and then again while the log recovers from that.
func TestLog(t *testing.T) {
	disks, repeated := newTally(), 0
	end := time.Now().Add(longrun.Length(t, 3*time.Second))
	const wanted = 4500
	for seed := firstSeed(t); len(disks.seen) < wanted || time.Now().Before(end); seed++ {
		w := newWALRun(t, seed)
		for range 40 {
			w.step()
		}
		must(t, w.log.Close())
		for cuts := w.disk.Cuts(); cuts.Next(); {
			for choice := range uint64(4) {
				if choice > 1 {
					choice = seed*1000 + choice
				}
				acknowledged, _ := w.bounds(cuts.At())
				left := disks.disk(cuts, choice, seed, acknowledged)
				if left == nil {
					continue
				}
				if _, err := w.check(left, cuts.At()); err != nil {
					t.Fatalf("seed %d, power cut after operation %d, choice %d: %v\nbefore the cut:\n%s", seed, cuts.At(), choice, err, cuts.Recent(20))
				}
			}
			if cuts.At()%16 == int(seed%16) {
				repeated += w.cutRecovery(disks, cuts, seed)
			}
		}
	}
	disks.report(t, fmt.Sprintf("log (%d of them cut a second time, during recovery)", repeated))
}

// cutRecovery cuts the power during the recovery from a cut. Nothing that the first recovery had found may be lost: it
// may have told others.
func (w *walRun) cutRecovery(disks *tally, first *Cuts, seed uint64) (tried int) {
	again := recorderOn(w.t, first.Disk(seed*1000+2))
	begin := again.Now()
	if _, err := w.check(again, first.At()); err != nil {
		w.t.Fatal(err)
	}
	for cuts := again.Cuts(); cuts.Next(); {
		if cuts.At() < begin {
			continue
		}
		// goOn writes an entry of its own, so only the lower bound can be compared.
		acknowledged, _ := w.bounds(first.At())
		left := disks.disk(cuts, seed+2, seed, acknowledged)
		if left == nil {
			continue
		}
		tried++
		exists, err := wal.Exists(left, walDir)
		if err == nil && exists {
			err = w.atLeast(left, acknowledged)
		}
		if err != nil {
			w.t.Fatalf("seed %d, power cut after operation %d and again after operation %d of the recovery: %v\n%s",
				seed, first.At(), cuts.At()-begin, err, cuts.Recent(15))
		}
	}
	return tried
}

// atLeast checks that a log opens and holds the acknowledged entries.
func (w *walRun) atLeast(disk vfs.FS, acknowledged int) error {
	log, rec, err := wal.Open(disk, walDir, walOptions)
	if err != nil {
		return fmt.Errorf("the log is refused: %w", err)
	}
	defer log.Close()
	for n := acknowledged; n <= len(w.records); n++ {
		if strings.HasPrefix(describe(rec.HardState, rec.Snapshot, rec.Entries), w.describe(n)) {
			return nil
		}
	}
	return fmt.Errorf("recovered\n  %s\nacknowledged was\n  %s", describe(rec.HardState, rec.Snapshot, rec.Entries),
		w.describe(acknowledged))
}

// recorderOn is a recorder whose disk begins with the contents of another, all durable.
func recorderOn(t testing.TB, disk *vfs.Mem) *Recorder {
	r := NewRecorder()
	copyTree(t, disk, r, ".")
	return r
}

func copyTree(t testing.TB, from vfs.FS, to *Recorder, dir string) {
	must(t, to.MkdirAll(dir, 0o700))
	entries, err := from.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		path := dir + "/" + e.Name()
		if e.IsDir() {
			copyTree(t, from, to, path)
			continue
		}
		content, err := vfs.ReadFile(from, path)
		must(t, err)
		f, err := to.Create(path)
		must(t, err)
		_, err = f.Write(content)
		must(t, err)
		must(t, f.Sync())
		must(t, f.Close())
	}
	must(t, to.SyncDir(dir))
}
