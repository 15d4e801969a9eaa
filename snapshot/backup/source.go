package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
	"github.com/upkeep-kv/upkeep/snapshot"
)

// ErrCompacted is returned by a Source for history that it no longer has in full.
var ErrCompacted = snapshot.ErrCompacted

// Source is the member that is backed up. Nothing that it does may hold up requests.
type Source interface {
	// Image pins the database as it is now. The caller closes it.
	Image(ctx context.Context) (Image, error)
	// Entries calls fn for the entries of bucket `key` with after < revision <= to, as they are stored and in ascending
	// order. ErrCompacted if a compaction has, or may have, taken some of them away.
	Entries(ctx context.Context, after, to int64, fn func(k, v []byte) error) error
	// Tables yields one moment of the database: its newest revision and position in the log, and then scan, which is valid
	// during the call of fn, for the small buckets as they were at that revision.
	Tables(ctx context.Context, fn func(at Position, scan Scan) error) error
	// HashKV hashes the history up to rev by reading it. ErrCompacted.
	HashKV(ctx context.Context, rev int64) (snapshot.KVHash, error)
	// CompactRevision is the lowest revision that can be read, -1 if nothing was compacted.
	CompactRevision() int64
	// Samples are what is known of which revision was current when, for revisions above after, in ascending order.
	Samples(after int64) []Sample
}

// Scan calls fn for the keys of a bucket in [start,end) in ascending order; a nil end means to the last. An error of
// fn ends it and is returned.
type Scan func(bucket backend.Bucket, start, end []byte, fn func(k, v []byte) error) error

// Image is a database at one moment.
type Image interface {
	// Size is how many bytes WriteTo writes, as far as that is known beforehand.
	Size() int64
	// WriteTo writes the database, at the source's pace.
	io.WriterTo
	Scan(bucket backend.Bucket, start, end []byte, fn func(k, v []byte) error) error
	// Applied is the position in the log.
	Applied() (index, term uint64)
	Close() error
}

// Position is a moment of a member.
type Position struct {
	Revision        int64
	CompactRevision int64 // -1 for none
	Index, Term     uint64
}

// PositionOf finds out which revision a database is at.
func PositionOf(scan Scan) (p Position, err error) {
	p = Position{Revision: 1, CompactRevision: -1}
	newest, err := newestRevision(scan)
	if err != nil {
		return p, err
	}
	p.Revision = max(p.Revision, newest)
	err = scan(backend.Meta, nil, nil, func(k, v []byte) error {
		switch string(k) {
		case metaScheduledCompact, metaFinishedCompact:
			rev, _, err := revision.ParseKey(v)
			p.CompactRevision = max(p.CompactRevision, rev.Main)
			return err
		case "consistent_index":
			p.Index = numberOf(v)
		case "term":
			p.Term = numberOf(v)
		}
		return nil
	})
	p.Revision = max(p.Revision, p.CompactRevision)
	return p, err
}

const (
	metaScheduledCompact = "scheduledCompactRev"
	metaFinishedCompact  = "finishedCompactRev"
)

func numberOf(v []byte) uint64 {
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

var errStop = errors.New("seen enough")

// newestRevision searches for the last entry by asking, in halves, whether there is anything from here on: a database
// is read forwards only.
func newestRevision(scan Scan) (newest int64, err error) {
	for step := int64(1) << 62; step > 0; step >>= 1 {
		start := revision.AppendKey(nil, revision.Revision{Main: newest + step}, false)
		switch err := scan(backend.Key, start, nil, func(k, _ []byte) error { return errStop }); err {
		case errStop:
			newest += step
		case nil:
		default:
			return 0, err
		}
	}
	return newest, nil
}

// maxMarks is how many entries at the end of a backup are marked.
const maxMarks = 32

// marker makes the marks of the newest entries of what it is fed in ascending order.
type marker struct{ marks []Mark }

func (m *marker) entry(k, v []byte) error {
	rev, _, err := revision.ParseKey(k)
	if err != nil {
		return err
	}
	if len(m.marks) == maxMarks {
		m.marks = append(m.marks[:0], m.marks[1:]...)
	}
	sum := crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, v)
	m.marks = append(m.marks, Mark{Revision: rev.Main, Sub: rev.Sub, CRC32C: sum})
	return nil
}

// entriesAfter is where the entries of revisions above rev begin.
func entriesAfter(rev int64) []byte {
	return revision.AppendKey(nil, revision.Revision{Main: max(rev, 0) + 1}, false)
}

// marksOf marks the newest entries of a database.
func marksOf(scan Scan, p Position) ([]Mark, error) {
	var m marker
	// Revisions are nearly dense; gaps only mean fewer marks.
	err := scan(backend.Key, entriesAfter(p.Revision-maxMarks), nil, m.entry)
	return m.marks, err
}

// sameHistory tells whether a database that is at p, or later, has what marks were made of. Up to the compact revision
// entries may be missing, but none may be different.
func sameHistory(scan Scan, p Position, marks []Mark, to int64) (same, comparable bool, err error) {
	if len(marks) == 0 {
		return true, false, nil
	}
	expected := make(map[revision.Revision]uint32, len(marks))
	missing := 0
	for _, m := range marks {
		expected[revision.Revision{Main: m.Revision, Sub: m.Sub}] = m.CRC32C
		if m.Revision > p.CompactRevision {
			missing++
		}
	}
	found := 0
	// The oldest marked revision may be marked in part.
	first := marks[0].Revision
	err = scan(backend.Key, entriesAfter(first-1), entriesAfter(to), func(k, v []byte) error {
		rev, _, err := revision.ParseKey(k)
		if err != nil {
			return err
		}
		sum, ok := expected[rev]
		switch {
		case !ok && rev.Main == first:
			return nil
		case !ok || sum != crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, v):
			found = -1
			return errStop
		}
		found++
		if rev.Main > p.CompactRevision {
			missing--
		}
		return nil
	})
	if err != nil && err != errStop {
		return false, false, err
	}
	return found >= 0 && missing == 0, found > 0, nil
}
