package backend

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sort"
	"sync/atomic"
)

// Revision keys are 17 bytes, main (8, big endian) '_' sub (8, big endian), and
// a tombstone's key has a 't' after them.
const revisionBytes = 17

func parseRevision(key []byte) (main, sub uint64, ok bool) {
	if len(key) < revisionBytes || len(key) > revisionBytes+1 || key[8] != '_' {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(key), binary.BigEndian.Uint64(key[9:]), true
}

// row is one revision in a run; the decoded revision keeps the search within
// the row's own cache line.
type row struct {
	main, sub  uint64
	key, value []byte
}

func (r *row) before(main, sub uint64) bool {
	return r.main < main || r.main == main && r.sub < sub
}

const rowsPerChunk = 256

type rowChunk [rowsPerChunk]row

// run is an append-only list of revisions in ascending order. One goroutine
// appends; any number read without locks.
//
// Invariants: rows [0,length) never change; a chunk is in the directory before
// length covers its first row, so a reader that loads length first and the
// directory second finds every row.
type run struct {
	directory atomic.Pointer[[]*rowChunk]
	length    atomic.Int64
}

func newRun() *run {
	r := &run{}
	r.directory.Store(&[]*rowChunk{})
	return r
}

func (r *run) len() int { return int(r.length.Load()) }

func (r *run) append(main, sub uint64, key, value []byte) {
	n := int(r.length.Load())
	chunks := *r.directory.Load()
	if n == len(chunks)*rowsPerChunk {
		chunks = append(slices.Clip(chunks), new(rowChunk))
		r.directory.Store(&chunks)
	}
	chunks[n/rowsPerChunk][n%rowsPerChunk] = row{main, sub, key, value}
	r.length.Store(int64(n + 1))
}

// rows is the first length rows of a run, as of some moment.
type rows struct {
	chunks []*rowChunk
	length int
}

func (r *run) rows() rows {
	if r == nil {
		return rows{}
	}
	n := r.len()
	return rows{*r.directory.Load(), n}
}

func (s rows) at(i int) *row { return &s.chunks[i/rowsPerChunk][i%rowsPerChunk] }

// get finds a key by its revision. Most entries write one revision, so the
// distance of main revisions is tried as the position before searching.
func (s rows) get(main, sub uint64, key []byte) (value []byte, found bool) {
	if s.length == 0 || main < s.at(0).main {
		return nil, false
	}
	i := main - s.at(0).main
	if i >= uint64(s.length) || s.at(int(i)).main != main || s.at(int(i)).sub != sub {
		i = uint64(sort.Search(s.length, func(i int) bool { return !s.at(i).before(main, sub) }))
	}
	if i == uint64(s.length) || !bytes.Equal(s.at(int(i)).key, key) {
		return nil, false
	}
	return s.at(int(i)).value, true
}

// scan calls fn for keys in [start,end), to the end if end is nil.
func (s rows) scan(start, end []byte, fn func(k, v []byte) error) error {
	from := sort.Search(s.length, func(i int) bool { return bytes.Compare(s.at(i).key, start) >= 0 })
	for i := from; i < s.length; i++ {
		r := s.at(i)
		if end != nil && bytes.Compare(r.key, end) >= 0 {
			return nil
		}
		if err := fn(r.key, r.value); err != nil {
			return err
		}
	}
	return nil
}
