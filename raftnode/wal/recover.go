package wal

import (
	"fmt"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/walpb"
)

// Record is one record as it stands in the log.
type Record struct {
	Type RecordType
	CRC  uint32
	// Data is valid until the callback returns.
	Data   []byte
	File   string
	Offset int64
}

// torn describes what follows the last good record of the log, if that is not the regular end.
type torn struct {
	offset int64
	reason string
}

// Read walks over all records of a log without changing anything, for tools. A torn tail ends the walk and is
// described; corruption is a *CorruptError.
func Read(fsys vfs.FS, dir string, fn func(Record) error) (tornTail string, err error) {
	_, tail, _, err := scan(fsys, dir, fn)
	if tail != nil {
		return tail.reason, err
	}
	return "", err
}

// scan feeds every record of every segment to fn and returns the segments and the decoder at the end of the last one.
func scan(fsys vfs.FS, dir string, fn func(Record) error) ([]segment, *torn, *decoder, error) {
	segs, err := listSegments(fsys, dir)
	if err != nil {
		return nil, nil, nil, err
	}
	if len(segs) == 0 {
		return nil, nil, nil, fmt.Errorf("%w in %s", ErrNotFound, dir)
	}
	d := &decoder{}
	for i, s := range segs {
		path := filepath.Join(dir, s.name())
		if d.seg, err = readSegment(fsys, path, d.seg); err != nil {
			return nil, nil, nil, err
		}
		d.off = 0
		bad, err := scanSegment(d, path, fn)
		if err != nil {
			return nil, nil, nil, err
		}
		if bad == nil {
			continue
		}
		if i < len(segs)-1 {
			return nil, nil, nil, corrupt(path, bad.offset, "%s, and %s follows, which was started after this segment was synced",
				bad.reason, segs[i+1].name())
		}
		return segs, bad, d, nil
	}
	return segs, nil, d, nil
}

// scanSegment reads one segment to its end. What it returns as torn is certainly not corruption only if this is the
// last segment.
func scanSegment(d *decoder, path string, fn func(Record) error) (*torn, error) {
	for {
		at := d.off
		f, err := d.next()
		if err == nil {
			if err := fn(Record{Type: f.typ, CRC: f.crc, Data: f.data, File: path, Offset: at}); err != nil {
				return nil, err
			}
			continue
		}
		if err == errEnd && allZero(d.seg[at:]) {
			return nil, nil
		}
		return d.judge(path, f, err)
	}
}

// judge decides whether a record that cannot be read is the torn end of a write that was never synced, or corruption.
func (d *decoder) judge(path string, f frame, err error) (*torn, error) {
	at := d.off
	reason := err.Error()
	if err == errEnd {
		reason = "the record is missing and others follow"
	}
	if mark := d.laterMark(at); mark >= 0 {
		return nil, corrupt(path, at, "%s; yet everything before offset %d had been synced", reason, mark)
	}
	switch {
	case err == errEnd, err == errBeyond:
	case hasZeroSector(d.seg, at, f.record):
		reason += " and the record has a sector of zeroes"
	case f.record > at && d.seg[f.record-1] == 0 && allZero(d.seg[f.record:]):
		reason += " and the record ends in zeroes, as does the file"
	default:
		return nil, corrupt(path, at, "%s", reason)
	}
	return &torn{at, fmt.Sprintf("%s: %s at offset %d", filepath.Base(path), reason, at)}, nil
}

// laterMark returns the offset of a mark behind at that stands in front of a valid record, or -1. What looks like a mark
// but has another nonce than those before at, or belongs at another offset, is part of somebody's value.
func (d *decoder) laterMark(at int64) int64 {
	for p := (at + lengthBytes) &^ 7; p+lengthBytes <= int64(len(d.seg)); p += lengthBytes {
		// Most of what is no mark is cheaper to rule out than to decode.
		if n := d.seg[p]; n < 4+2+markBytes || n > 8+2+markBytes || d.seg[p+1] != 0 {
			continue
		}
		mark, err := d.peek(p)
		if err != nil {
			continue
		}
		if nonce, ok := mark.mark(p); !ok || d.nonce != 0 && nonce != d.nonce {
			continue
		}
		after := decoder{seg: d.seg, off: mark.end, crc: mark.crc, chained: true}
		if next, err := after.next(); err == nil && next.typ != TypeCRC {
			return p
		}
	}
	return -1
}

// hasZeroSector tells whether the part of [from, to) in any one disk sector is all zeroes. A disk writes sectors whole.
func hasZeroSector(seg []byte, from, to int64) bool {
	for from < to {
		end := min(to, from-from%sectorBytes+sectorBytes)
		if allZero(seg[from:end]) {
			return true
		}
		from = end
	}
	return false
}

// collector rebuilds what raft needs from the records.
type collector struct {
	metadata  *walpb.Metadata
	encoded   []byte
	state     *raftpb.HardState
	snapshots []*walpb.Snapshot
	// runs of entries without gaps. A new run starts where a snapshot from the leader replaced the log.
	runs []run
}

type run struct {
	// base is the index before the first entry.
	base uint64
	ents []*raftpb.Entry
}

func (r *run) last() uint64 { return r.base + uint64(len(r.ents)) }

func (c *collector) record(r Record) error {
	bad := func(err error) error {
		return corrupt(r.File, r.Offset, "record of type %d cannot be decoded: %v", r.Type, err)
	}
	switch r.Type {
	case TypeMetadata:
		m := &walpb.Metadata{}
		if err := m.UnmarshalVT(r.Data); err != nil {
			return bad(err)
		}
		if c.metadata != nil && (m.GetNodeID() != c.metadata.GetNodeID() || m.GetClusterID() != c.metadata.GetClusterID()) {
			return corrupt(r.File, r.Offset, "the segment belongs to member %x of cluster %x, those before it to member %x of cluster %x",
				m.GetNodeID(), m.GetClusterID(), c.metadata.GetNodeID(), c.metadata.GetClusterID())
		}
		c.metadata, c.encoded = m, append([]byte(nil), r.Data...)
	case TypeState:
		c.state = &raftpb.HardState{}
		if err := proto.Unmarshal(r.Data, c.state); err != nil {
			return bad(err)
		}
		c.prune()
	case TypeSnapshot:
		s := &walpb.Snapshot{}
		if err := s.UnmarshalVT(r.Data); err != nil {
			return bad(err)
		}
		c.snapshots = append(c.snapshots, s)
		c.prune()
	case TypeEntry:
		e := &raftpb.Entry{}
		if err := proto.Unmarshal(r.Data, e); err != nil {
			return bad(err)
		}
		return c.entry(e, r)
	}
	return nil
}

func (c *collector) entry(e *raftpb.Entry, r Record) error {
	index := e.GetIndex()
	if len(c.runs) == 0 {
		// The oldest segment that is kept may start in the middle of the log.
		c.runs = append(c.runs, run{base: index - 1})
	}
	last := &c.runs[len(c.runs)-1]
	switch {
	case index <= last.base && last.base > c.start().GetIndex() && index == c.start().GetIndex()+1:
		// What came before is the rest of a log that Rebase was replacing: its beginning is gone.
		c.runs = append(c.runs, run{base: index - 1, ents: []*raftpb.Entry{e}})
		return nil
	case index <= last.base:
		// Already covered by a snapshot and pruned; only the tail can have been replaced.
		return nil
	case index <= last.last()+1:
		last.ents = append(last.ents[:index-last.base-1], e)
		return nil
	}
	for _, s := range c.snapshots {
		if s.GetIndex() == index-1 {
			c.runs = append(c.runs, run{base: index - 1, ents: []*raftpb.Entry{e}})
			return nil
		}
	}
	return corrupt(r.File, r.Offset, "entry %d follows entry %d: entries are missing", index, last.last())
}

// start is the newest snapshot record that is known to be committed.
func (c *collector) start() *walpb.Snapshot {
	best := &walpb.Snapshot{}
	for _, s := range c.snapshots {
		if s.GetIndex() >= best.GetIndex() && s.GetIndex() <= c.state.GetCommit() {
			best = s
		}
	}
	return best
}

// prune forgets the entries that the start covers already, so that a long log does not fill the memory.
func (c *collector) prune() {
	index := c.start().GetIndex()
	for i := range c.runs {
		if r := &c.runs[i]; index > r.base {
			n := min(index-r.base, uint64(len(r.ents)))
			r.ents = append([]*raftpb.Entry(nil), r.ents[n:]...)
			r.base += n
		}
	}
}

// finish assembles what was recovered.
func (c *collector) finish(dir string) (*Recovered, error) {
	if c.metadata == nil {
		return nil, corrupt(dir, 0, "no metadata record says whose log this is")
	}
	rec := &Recovered{Metadata: c.metadata, HardState: c.state, Snapshot: c.start()}
	if rec.HardState == nil {
		rec.HardState = &raftpb.HardState{}
	}
	index := rec.Snapshot.GetIndex()
	for i := len(c.runs) - 1; i >= 0; i-- {
		r := c.runs[i]
		if r.base > index && i > 0 {
			// This run follows a snapshot whose commit never reached the disk: it was not acknowledged.
			continue
		}
		if r.base > index {
			return nil, corrupt(dir, 0, "the log starts at entry %d, the newest usable snapshot record is at %d", r.base+1, index)
		}
		if r.last() > index {
			rec.Entries = r.ents[index-r.base:]
		}
		break
	}
	last := index + uint64(len(rec.Entries))
	if commit := rec.HardState.GetCommit(); commit > last {
		return nil, corrupt(dir, 0, "the log ends at entry %d, but entries up to %d are committed", last, commit)
	}
	return rec, nil
}

// Load recovers without changing anything, for tools; a torn tail is reported in Repaired, though left as it is.
func Load(fsys vfs.FS, dir string) (*Recovered, error) {
	c := &collector{}
	_, bad, _, err := scan(fsys, dir, c.record)
	if err != nil {
		return nil, err
	}
	rec, err := c.finish(dir)
	if err == nil && bad != nil {
		rec.Repaired = bad.reason
	}
	return rec, err
}
