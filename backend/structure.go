package backend

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"syscall"
)

// A bbolt file, as far as it is checked here. All numbers are little endian on
// the machines we run on.
//
//	page    id u64 | flags u16 | count u16 | overflow u32 | elements
//	meta    page header | magic u32 | version u32 | pageSize u32 | flags u32
//	        | root u64 | sequence u64 | freelist u64 | pages u64 | txid u64 | fnv-1a of all that u64
//	branch  count x (pos u32 | ksize u32 | child u64)           pos is relative to the element
//	leaf    count x (flags u32 | pos u32 | ksize u32 | vsize u32)
//	bucket  the value of a leaf element with flag 1: root u64 | sequence u64, and if root is 0
//	        a page of the bucket's own, inline
//
// bbolt itself trusts all of this and dies of a page that is not what it should
// be, on a goroutine of its own where nobody can catch it. So files are walked
// here before bbolt gets to see them.
const (
	pageHeaderBytes = 16
	elementBytes    = 16
	bucketBytes     = 16
	metaBytes       = 64
	boltMagic       = 0xED0CDAED
	boltVersion     = 2
	flagBranch      = 0x01
	flagLeaf        = 0x02
	maxDepth        = 64
	maxProblems     = 100
)

// checkStructure returns the first problem that a file has, of class
// ErrCorrupt. A file that somebody has open for writing is not looked at:
// opening it will fail for a better reason.
func checkStructure(path string) error {
	problems, err := walkFile(path, 1)
	if errors.Is(err, ErrLocked) {
		return nil
	}
	if err == nil && len(problems) > 0 {
		err = corruptf("%s: %s", path, problems[0])
	}
	return err
}

// walkFile returns up to limit problems.
func walkFile(path string, limit int) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // and the lock with it
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		return nil, lockOwner(path)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file (mode %s)", path, info.Mode())
	}
	if info.Size() < 2*1024 {
		return []string{fmt.Sprintf("the file has only %d bytes", info.Size())}, nil
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	w := &walker{data: data, limit: limit}
	w.walk()
	return w.problems, syscall.Munmap(data)
}

// walker goes through all pages that can be reached and believes nothing.
type walker struct {
	data     []byte
	pageSize uint64
	pages    uint64 // high water mark
	seen     []bool
	problems []string
	limit    int
	// visit, if set, is told how many pages were seen; false ends the walk.
	visit   func(pages uint64) bool
	visited uint64
	stopped bool
}

func (w *walker) report(format string, args ...any) {
	if len(w.problems) < w.limit {
		w.problems = append(w.problems, fmt.Sprintf(format, args...))
	}
}

func (w *walker) full() bool { return w.stopped || len(w.problems) >= w.limit }

type boltMeta struct{ pageSize, root, pages, txid uint64 }

// metaAt returns nil if there is no valid meta page at an offset.
func (w *walker) metaAt(offset uint64) *boltMeta {
	if offset+pageHeaderBytes+metaBytes > uint64(len(w.data)) {
		return nil
	}
	m := w.data[offset+pageHeaderBytes:][:metaBytes]
	le := binary.LittleEndian
	sum := fnv.New64a()
	sum.Write(m[:metaBytes-8])
	if le.Uint32(m) != boltMagic || le.Uint32(m[4:]) != boltVersion || le.Uint64(m[metaBytes-8:]) != sum.Sum64() {
		return nil
	}
	return &boltMeta{pageSize: uint64(le.Uint32(m[8:])), root: le.Uint64(m[16:]), pages: le.Uint64(m[40:]), txid: le.Uint64(m[48:])}
}

// newestMeta finds the valid meta page with the highest transaction. The second
// is one page in, and without the first the page size has to be guessed.
func (w *walker) newestMeta() *boltMeta {
	newest := w.metaAt(0)
	for size := uint64(1024); size <= 1<<24; size *= 2 {
		if newest != nil && newest.pageSize != size {
			continue
		}
		if m := w.metaAt(size); m != nil && m.pageSize == size && (newest == nil || m.txid > newest.txid) {
			newest = m
		}
	}
	return newest
}

func (w *walker) walk() {
	m := w.newestMeta()
	switch {
	case m == nil:
		w.report("neither meta page is valid")
		return
	case m.pageSize < 512 || m.pageSize&(m.pageSize-1) != 0:
		w.report("impossible page size %d", m.pageSize)
		return
	case m.pages > uint64(len(w.data))/m.pageSize:
		w.report("the file has %d bytes, but %d pages of %d bytes are in use: it was cut off",
			len(w.data), m.pages, m.pageSize)
		return
	}
	w.pageSize, w.pages = m.pageSize, m.pages
	w.seen = make([]bool, m.pages)
	w.tree(m.root, nil, nil, 0)
}

// page returns the bytes of a page that is reached for the first time, or nil.
func (w *walker) page(id uint64) []byte {
	if id < metaPages || id >= w.pages {
		w.report("page %d: beyond the %d pages of the file", id, w.pages)
		return nil
	}
	le := binary.LittleEndian
	header := w.data[id*w.pageSize:]
	overflow := uint64(le.Uint32(header[12:]))
	flags := le.Uint16(header[8:])
	switch {
	case le.Uint64(header) != id:
		w.report("page %d: says it is page %d", id, le.Uint64(header))
		return nil
	case flags != flagBranch && flags != flagLeaf:
		w.report("page %d: neither branch nor leaf (flags %#x)", id, flags)
		return nil
	case overflow >= w.pages-id:
		w.report("page %d: runs over the end of the file", id)
		return nil
	}
	for i := id; i <= id+overflow; i++ {
		if w.seen[i] {
			w.report("page %d: referenced twice", i)
			return nil
		}
		w.seen[i] = true
	}
	return header[:(overflow+1)*w.pageSize]
}

// tree checks the pages below id, whose keys must be in [low,high).
func (w *walker) tree(id uint64, low, high []byte, depth int) {
	if w.full() {
		return
	}
	if depth > maxDepth {
		w.report("page %d: the tree is deeper than %d pages", id, maxDepth)
		return
	}
	p := w.page(id)
	if p == nil {
		return
	}
	if w.visited++; w.visit != nil && !w.visit(w.visited) {
		w.stopped = true
		return
	}
	if binary.LittleEndian.Uint16(p[8:]) == flagLeaf {
		w.leaf(fmt.Sprintf("page %d", id), p, low, high, depth)
		return
	}
	w.branch(id, p, low, high, depth)
}

func (w *walker) branch(id uint64, p, low, high []byte, depth int) {
	le := binary.LittleEndian
	count := uint64(le.Uint16(p[10:]))
	if count == 0 || pageHeaderBytes+count*elementBytes > uint64(len(p)) {
		w.report("page %d: impossible number of children %d", id, count)
		return
	}
	element := func(i uint64) (key []byte, child uint64, ok bool) {
		e := p[pageHeaderBytes+i*elementBytes:]
		pos, size := uint64(le.Uint32(e)), uint64(le.Uint32(e[4:]))
		if pos+size > uint64(len(e)) {
			w.report("page %d: key %d lies outside of the page", id, i)
			return nil, 0, false
		}
		return e[pos : pos+size], le.Uint64(e[8:]), true
	}
	for i := range count {
		key, child, ok := element(i)
		if !ok {
			return
		}
		until := high
		if i+1 < count {
			if until, _, ok = element(i + 1); !ok {
				return
			}
		}
		if until != nil && bytes.Compare(key, until) >= 0 {
			w.report("page %d: key %d is out of order", id, i)
			return
		}
		// The first key of a branch may be above its parent's entry, never
		// below; what is in the child is compared with this entry.
		if i == 0 && low != nil && bytes.Compare(key, low) < 0 {
			w.report("page %d: first key is below the parent's", id)
			return
		}
		w.tree(child, key, until, depth+1)
	}
}

// leaf checks a leaf page, also an inline one, and the buckets in it.
func (w *walker) leaf(where string, p, low, high []byte, depth int) {
	le := binary.LittleEndian
	count := uint64(le.Uint16(p[10:]))
	if pageHeaderBytes+count*elementBytes > uint64(len(p)) {
		w.report("%s: impossible number of keys %d", where, count)
		return
	}
	last := low
	for i := range count {
		e := p[pageHeaderBytes+i*elementBytes:]
		flags, pos := le.Uint32(e), uint64(le.Uint32(e[4:]))
		ksize, vsize := uint64(le.Uint32(e[8:])), uint64(le.Uint32(e[12:]))
		if pos+ksize+vsize > uint64(len(e)) {
			w.report("%s: key %d lies outside of the page", where, i)
			return
		}
		key, value := e[pos:pos+ksize], e[pos+ksize:pos+ksize+vsize]
		order := bytes.Compare(last, key)
		if last != nil && (order > 0 || order == 0 && i > 0) || high != nil && bytes.Compare(key, high) >= 0 {
			w.report("%s: key %d (%x) is out of order", where, i, key)
			return
		}
		last = key
		if flags&1 != 0 {
			w.bucket(string(key), value, depth)
		}
	}
}

func (w *walker) bucket(name string, value []byte, depth int) {
	if len(value) < bucketBytes {
		w.report("bucket %q: header is too short", name)
		return
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		w.tree(root, nil, nil, depth+1)
		return
	}
	inline := value[bucketBytes:]
	if len(inline) < pageHeaderBytes || binary.LittleEndian.Uint16(inline[8:]) != flagLeaf {
		w.report("bucket %q: inline page is damaged", name)
		return
	}
	w.leaf(fmt.Sprintf("bucket %q", name), inline, nil, nil, depth+1)
}

// Check verifies a file that no server has open: its pages, the order of its
// keys, that etcd's buckets are there and that bucket Key holds revisions. It
// returns up to 100 problems, none for a sound file; the error says that the
// file could not be read at all.
func Check(ctx context.Context, path string) ([]string, error) {
	problems, err := walkFile(path, maxProblems)
	if err != nil || len(problems) > 0 {
		return problems, err
	}
	f, err := OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	report := func(format string, args ...any) {
		if len(problems) < maxProblems {
			problems = append(problems, fmt.Sprintf(format, args...))
		}
	}
	for b := range Upkeep {
		if !f.Has(b) {
			report("bucket %q is missing", b.Name())
		}
	}
	n := 0
	err = f.Scan(Key, nil, nil, func(k, _ []byte) error {
		if n++; n%hashCheckEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, _, ok := parseRevision(k); !ok || len(k) > revisionBytes && k[revisionBytes] != 't' {
			report("bucket %q: key %x is not a revision", Key.Name(), k)
		}
		return nil
	})
	return problems, err
}
