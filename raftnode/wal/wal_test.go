package wal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/walpb"
)

const testDir = "data/wal"

var testMetadata = &walpb.Metadata{NodeID: new(uint64(0xa)), ClusterID: new(uint64(0xc))}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func decodeConfChange(t *testing.T, e *raftpb.Entry) *raftpb.ConfChange {
	t.Helper()
	cc := &raftpb.ConfChange{}
	must(t, proto.Unmarshal(e.GetData(), cc))
	return cc
}

func entry(term, index uint64, data string) *raftpb.Entry {
	return &raftpb.Entry{Term: new(term), Index: new(index), Data: []byte(data)}
}

func hardState(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: new(term), Vote: new(vote), Commit: new(commit)}
}

func snapshot(index, term uint64) *walpb.Snapshot {
	return &walpb.Snapshot{Index: new(index), Term: new(term)}
}

// describe shows what was recovered.
func describe(rec *Recovered) string {
	var b strings.Builder
	hs := rec.HardState
	fmt.Fprintf(&b, "member %x cluster %x snapshot %d term %d vote %d commit %d\n", rec.Metadata.GetNodeID(),
		rec.Metadata.GetClusterID(), rec.Snapshot.GetIndex(), hs.GetTerm(), hs.GetVote(), hs.GetCommit())
	for _, e := range rec.Entries {
		if e.GetType() == raftpb.EntryConfChange {
			fmt.Fprintf(&b, "%d/%d configuration change\n", e.GetIndex(), e.GetTerm())
			continue
		}
		data := string(e.GetData())
		if len(data) > 20 {
			data = fmt.Sprintf("%s... (%d bytes)", data[:4], len(data))
		}
		fmt.Fprintf(&b, "%d/%d %q\n", e.GetIndex(), e.GetTerm(), data)
	}
	if rec.Repaired != "" {
		fmt.Fprintf(&b, "repaired: %s\n", rec.Repaired)
	}
	return b.String()
}

// script is the state of one datadriven file.
type script struct {
	t    *testing.T
	disk *vfs.Mem
	log  *WAL
}

// TestRecovery runs the scripts in testdata. Commands:
//
//	bootstrap [members=(1,2)] [restored]   a new log
//	open                                   recover; prints what was found, or the error
//	append                                 one line each: entry TERM INDEX DATA [xREPEAT], state TERM VOTE COMMIT, snapshot INDEX TERM
//	sync / flush / close / release index=N
//	dump [file=N]                          the records of the log
//	damage file=N at=OFFSET (zero=N | flip | truncate)
//	files
func TestRecovery(t *testing.T) {
	check := func(t *testing.T, path string) {
		s := &script{t: t}
		t.Cleanup(func() {
			if s.log != nil {
				s.log.Close()
			}
		})
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out, err := s.run(d)
			if err != nil {
				out += fmt.Sprintf("error: %v\n", err)
			}
			if out == "" {
				out = "ok\n"
			}
			return out
		})
	}
	// Beside them lies what fuzzing has found.
	for _, path := range []string{"testdata/recovery", "testdata/segments"} {
		datadriven.Walk(t, path, check)
	}
}

func (s *script) run(d *datadriven.TestData) (string, error) {
	switch d.Cmd {
	case "bootstrap":
		s.disk = vfs.NewMem()
		var st BootstrapState
		for _, arg := range d.CmdArgs {
			if arg.Key != "members" {
				continue
			}
			for _, text := range arg.Vals {
				id, err := strconv.ParseUint(text, 10, 64)
				must(s.t, err)
				st.Members = append(st.Members, BootstrapMember{ID: id, Context: fmt.Appendf(nil, `{"id":%d}`, id)})
			}
		}
		st.Restored = d.HasArg("restored")
		return "", Bootstrap(s.disk, testDir, testMetadata, st)
	case "open":
		w, rec, err := Open(s.disk, testDir, Options{SegmentBytes: 2048})
		if err != nil {
			return "", err
		}
		s.log = w
		return describe(rec), nil
	case "append":
		return "", s.append(d.Input)
	case "sync":
		return "", s.log.Sync()
	case "flush":
		return "", s.log.Flush()
	case "close":
		return "", s.log.Close()
	case "release":
		var index uint64
		d.ScanArgs(s.t, "index", &index)
		return "", s.log.Release(index)
	case "dump":
		return s.dump()
	case "damage":
		return "", s.damage(d)
	case "files":
		return s.files()
	}
	return "", fmt.Errorf("unknown command %s", d.Cmd)
}

func (s *script) append(input string) error {
	for line := range strings.Lines(input) {
		var a, b, c uint64
		var data string
		line = strings.TrimSpace(line)
		switch {
		case scan3(line, "entry %d %d %s", &a, &b, &data):
			if text, times, ok := strings.Cut(data, "*"); ok {
				var n int
				fmt.Sscan(times, &n)
				data = strings.Repeat(text, n)
			}
			if err := s.log.Append(nil, []*raftpb.Entry{entry(a, b, data)}, nil); err != nil {
				return err
			}
		case scan3(line, "state %d %d %d", &a, &b, &c):
			if err := s.log.Append(hardState(a, b, c), nil, nil); err != nil {
				return err
			}
		case scan3(line, "snapshot %d %d", &a, &b):
			if err := s.log.Append(nil, nil, snapshot(a, b)); err != nil {
				return err
			}
		default:
			return fmt.Errorf("cannot read %q", line)
		}
	}
	return nil
}

func scan3(line, format string, args ...any) bool {
	n, err := fmt.Sscanf(line, format, args...)
	return err == nil && n == len(args)
}

func (s *script) dump() (string, error) {
	var b strings.Builder
	file := ""
	names := map[RecordType]string{TypeMetadata: "metadata", TypeEntry: "entry", TypeState: "state", TypeCRC: "crc", TypeSnapshot: "snapshot"}
	bad, err := Read(s.disk, testDir, func(r Record) error {
		if r.File != file {
			file = r.File
			fmt.Fprintf(&b, "%s\n", filepath.Base(file))
		}
		fmt.Fprintf(&b, "  %4d %s %d bytes\n", r.Offset, names[r.Type], len(r.Data))
		return nil
	})
	if bad != "" {
		fmt.Fprintf(&b, "torn: %s\n", bad)
	}
	return b.String(), err
}

func (s *script) segmentPath(n int) string {
	segs, err := listSegments(s.disk, testDir)
	must(s.t, err)
	return filepath.Join(testDir, segs[n].name())
}

func (s *script) damage(d *datadriven.TestData) error {
	var file, at, zero int
	d.ScanArgs(s.t, "file", &file)
	d.ScanArgs(s.t, "at", &at)
	f, err := s.disk.OpenFile(s.segmentPath(file), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	switch {
	case d.HasArg("truncate"):
		return f.Truncate(int64(at))
	case d.HasArg("flip"):
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, int64(at)); err != nil {
			return err
		}
		b[0] ^= 0x10
		_, err = f.WriteAt(b, int64(at))
		return err
	}
	d.ScanArgs(s.t, "zero", &zero)
	_, err = f.WriteAt(make([]byte, zero), int64(at))
	return err
}

func (s *script) files() (string, error) {
	infos, err := s.disk.ReadDir(testDir)
	var b strings.Builder
	for _, f := range infos {
		if filepath.Ext(f.Name()) != tempSuffix {
			fmt.Fprintln(&b, f.Name())
		}
	}
	return b.String(), err
}

// threeSyncs writes three groups of entries, each synced, and returns where each group starts and the end.
func threeSyncs(t *testing.T) (disk *vfs.Mem, path string, at []int64) {
	disk = vfs.NewMem()
	w, err := Create(disk, testDir, testMetadata, Options{SegmentBytes: 8192})
	must(t, err)
	index := uint64(0)
	for group := range 3 {
		at = append(at, w.off)
		var ents []*raftpb.Entry
		for range 4 {
			index++
			ents = append(ents, entry(1, index, strings.Repeat(string(rune('a'+group)), int(90+7*index))))
		}
		must(t, w.Append(hardState(1, 0, index), ents, nil))
		must(t, w.Sync())
	}
	at = append(at, w.off)
	must(t, w.Close())
	return disk, filepath.Join(testDir, segment{}.name()), at
}

func rewrite(t *testing.T, path string, data []byte) *vfs.Mem {
	disk := vfs.NewMem()
	must(t, disk.MkdirAll(testDir, 0o700))
	f, err := disk.Create(path)
	must(t, err)
	_, err = f.Write(data)
	must(t, err)
	must(t, f.Close())
	return disk
}

// TestEveryPrefix cuts the log after every byte, with and without the zeroes that preallocation leaves behind. Each
// time the log opens with a prefix of what was written, and takes new entries.
func TestEveryPrefix(t *testing.T) {
	disk, path, at := threeSyncs(t)
	whole, err := vfs.ReadFile(disk, path)
	must(t, err)
	for n := at[0]; n <= at[3]; n++ {
		for _, zeroed := range []bool{false, true} {
			data := append([]byte(nil), whole[:n]...)
			if zeroed {
				data = append(data, make([]byte, int64(len(whole))-n)...)
			}
			d := rewrite(t, path, data)
			w, rec, err := Open(d, testDir, Options{SegmentBytes: 8192})
			if err != nil {
				t.Fatalf("%d bytes, zeroed %v: %v", n, zeroed, err)
			}
			groups := 0
			for _, a := range at[1:] {
				if n >= a {
					groups++
				}
			}
			if len(rec.Entries) < 4*groups {
				t.Fatalf("%d bytes: only %d entries", n, len(rec.Entries))
			}
			next := uint64(len(rec.Entries)) + 1
			must(t, w.Append(nil, []*raftpb.Entry{entry(2, next, "new")}, nil))
			must(t, w.Sync())
			must(t, w.Close())
			rec, err = Load(d, testDir)
			if err != nil || uint64(len(rec.Entries)) != next || rec.Repaired != "" {
				t.Fatalf("%d bytes, after repair: %v, %d entries, %q", n, err, len(rec.Entries), rec.Repaired)
			}
		}
	}
}

// TestEveryFlip changes one bit of every byte that is followed by a later sync: the log must refuse to open, unless
// what it reads is unchanged (padding).
func TestEveryFlip(t *testing.T) {
	disk, path, at := threeSyncs(t)
	whole, err := vfs.ReadFile(disk, path)
	must(t, err)
	intact, err := Load(disk, testDir)
	must(t, err)
	refused := 0
	for n := int64(0); n < at[2]; n++ {
		data := append([]byte(nil), whole...)
		data[n] ^= 1 << (n % 8)
		rec, err := Load(rewrite(t, path, data), testDir)
		switch {
		case errors.Is(err, ErrCorrupt):
			refused++
		case err != nil:
			t.Fatalf("flip at %d: %v", n, err)
		case describe(rec) != describe(intact):
			t.Fatalf("flip at %d goes unnoticed:\n%s", n, describe(rec))
		}
	}
	if refused < int(at[2])*9/10 {
		t.Errorf("only %d of %d were refused", refused, at[2])
	}
}

// TestLostSectors zeroes each disk sector in turn. In what was synced before the last sync that is corruption; in the
// last group it is a torn write.
func TestLostSectors(t *testing.T) {
	disk, path, at := threeSyncs(t)
	whole, err := vfs.ReadFile(disk, path)
	must(t, err)
	for n := int64(0); n < at[3]; n += sectorBytes {
		data := append([]byte(nil), whole...)
		clear(data[n : n+sectorBytes])
		rec, err := Load(rewrite(t, path, data), testDir)
		switch {
		// The mark of the last group is itself part of the proof.
		case n+sectorBytes <= at[2] && !errors.Is(err, ErrCorrupt):
			t.Errorf("sector at %d of %v: %v", n, at, err)
		case n >= at[2] && (err != nil || rec.Repaired == "" || len(rec.Entries) < 8):
			t.Errorf("sector at %d of %v: %v %v", n, at, err, rec)
		}
	}
}

// TestPowerCuts loses power after every step of a run over several segments, tears what was not synced, and looks
// whether everything that was synced is there.
func TestPowerCuts(t *testing.T) {
	for seed := range int64(20) {
		disk := vfs.NewMem()
		w, err := Create(disk, testDir, testMetadata, Options{SegmentBytes: 3000})
		must(t, err)
		synced := uint64(0)
		for index := uint64(1); index <= 40; index++ {
			e := entry(1, index, strings.Repeat("x", int(index*37%900)))
			must(t, w.Append(hardState(1, 1, index-1), []*raftpb.Entry{e}, nil))
			switch (int64(index) + seed) % 3 {
			case 0:
				must(t, w.Flush())
			case 1:
				must(t, w.Sync())
				synced = index
			}
			after := disk.CrashClone(seed*1000 + int64(index))
			again, rec, err := Open(after, testDir, Options{SegmentBytes: 3000})
			if err != nil {
				t.Fatalf("seed %d, power cut at entry %d (synced %d): %v", seed, index, synced, err)
			}
			if n := uint64(len(rec.Entries)); n < synced || n > index {
				t.Fatalf("seed %d, power cut at entry %d: %d entries, %d were synced", seed, index, n, synced)
			}
			must(t, again.Close())
		}
		must(t, w.Close())
	}
}

// TestValueThatLooksLikeALog tears a write whose value is a copy of the log. What the copy claims to have been synced
// must not be believed: the log has a torn tail, not damage.
func TestValueThatLooksLikeALog(t *testing.T) {
	for shift := range 8 { // frames start at multiples of 8, the value anywhere
		disk := vfs.NewMem()
		w, err := Create(disk, testDir, testMetadata, Options{SegmentBytes: 64 << 10})
		must(t, err)
		for index := uint64(1); index <= 3; index++ {
			must(t, w.Append(hardState(1, 1, index), []*raftpb.Entry{entry(1, index, strings.Repeat("x", 900))}, nil))
			must(t, w.Sync())
		}
		path := filepath.Join(testDir, segment{}.name())
		whole, err := vfs.ReadFile(disk, path)
		must(t, err)
		at := w.off
		value := strings.Repeat("y", 700+shift) + string(whole[:at])
		must(t, w.Append(nil, []*raftpb.Entry{entry(1, 4, value)}, nil))
		must(t, w.Sync())
		must(t, w.Close())
		whole, err = vfs.ReadFile(disk, path)
		must(t, err)
		for _, from := range []int64{at, (at + sectorBytes) &^ (sectorBytes - 1)} { // the first sector of the write, the second
			data := bytes.Clone(whole)
			clear(data[from : (from+sectorBytes)&^(sectorBytes-1)])
			rec, err := Load(rewrite(t, path, data), testDir)
			if err != nil || rec.Repaired == "" || len(rec.Entries) != 3 {
				t.Errorf("shift %d, lost at %d: %v", shift, from, err)
			}
		}
	}
}

func TestFailedSyncIsFinal(t *testing.T) {
	disk := vfs.NewFaulty(vfs.NewMem())
	w, err := Create(disk, testDir, testMetadata)
	must(t, err)
	must(t, w.Append(nil, []*raftpb.Entry{entry(1, 1, "a")}, nil))
	disk.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Times: 1, Err: syscall.EIO})
	if err := w.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("got %v", err)
	}
	if err := w.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("the second sync: %v", err)
	}
	if err := w.Append(nil, nil, nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("append: %v", err)
	}
	must(t, w.Close())
	if err := w.Append(nil, nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
}

// TestFullDisk: no room for the next segment is no reason to fail as long as the current one can grow.
func TestFullDisk(t *testing.T) {
	disk := vfs.NewFaulty(vfs.NewMem())
	must(t, Bootstrap(disk, testDir, testMetadata, BootstrapState{}))
	disk.Inject(vfs.Rule{Ops: vfs.OpPreallocate, Match: "*.tmp", Err: syscall.ENOSPC})
	w, _, err := Open(disk, testDir, Options{SegmentBytes: 1000})
	must(t, err)
	for i := range uint64(10) {
		must(t, w.Append(nil, []*raftpb.Entry{entry(1, i+1, strings.Repeat("x", 300))}, nil))
		must(t, w.Sync())
	}
	if w.Segments() != 1 {
		t.Errorf("%d segments", w.Segments())
	}
	disk.Clear()
	for i := range uint64(3) { // the first attempt may still answer with the old failure
		must(t, w.Append(nil, []*raftpb.Entry{entry(1, i+11, "y")}, nil))
		must(t, w.Sync())
	}
	if w.Segments() != 2 {
		t.Errorf("%d segments after room was made", w.Segments())
	}
	must(t, w.Close())
	rec, err := Load(disk, testDir)
	if err != nil || len(rec.Entries) != 13 {
		t.Errorf("%v %v", err, rec)
	}
}

func TestEncodingMatchesProtobuf(t *testing.T) {
	for _, e := range []*raftpb.Entry{
		{},
		{Data: []byte{}},
		entry(1, 2, "data"),
		{Type: raftpb.EntryConfChange.Enum(), Term: new(uint64(1 << 40)), Index: new(uint64(1 << 63)), Data: bytes.Repeat([]byte{7}, 300)},
		{Type: raftpb.EntryNormal.Enum(), Term: new(uint64(0)), Index: new(uint64(0))},
	} {
		want, err := proto.Marshal(e)
		must(t, err)
		enc := &encoder{}
		enc.entry(e)
		d := &decoder{seg: enc.buf, chained: true}
		f, err := d.next()
		must(t, err)
		record, err := (&walpb.Record{Type: new(int64(f.typ)), Crc: new(f.crc), Data: want}).MarshalVT()
		must(t, err)
		if !bytes.Equal(f.data, want) || !bytes.Equal(enc.buf[lengthBytes:f.record], record) {
			t.Errorf("%v:\n%x\n%x", e, enc.buf, record)
		}
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	w, err := Create(vfs.NewMem(), testDir, testMetadata, Options{NoSync: true})
	must(t, err)
	defer w.Close()
	ents := []*raftpb.Entry{entry(1, 1, strings.Repeat("x", 500))}
	must(t, w.Append(nil, ents, nil))
	must(t, w.Sync())
	if n := testing.AllocsPerRun(100, func() {
		w.Append(nil, ents, nil)
		w.enc.buf = w.enc.buf[:0]
	}); n > 0 {
		t.Errorf("%v allocations per entry", n)
	}
}

func BenchmarkAppend(b *testing.B) {
	w, err := Create(vfs.OS{}, b.TempDir(), testMetadata, Options{NoSync: true})
	must(b, err)
	defer w.Close()
	ents := []*raftpb.Entry{entry(1, 1, strings.Repeat("x", 300))}
	b.SetBytes(300)
	for b.Loop() {
		must(b, w.Append(nil, ents, nil))
		must(b, w.Sync())
	}
}
