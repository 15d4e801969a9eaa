package vfs

import (
	"io"
	"io/fs"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

const (
	chunkBytes  = 4096 // unit of memory
	sectorBytes = 512  // unit that a disk writes whole or not at all
)

type chunk [chunkBytes]byte

// inode is a sparse file: an absent chunk reads as zeroes, so a preallocated
// log segment costs nothing.
//
// Invariants: a chunk that is not in dirty is the same in current and durable;
// bytes past size in a chunk of current are zero.
type inode struct {
	mu          sync.Mutex
	perm        fs.FileMode
	size        int64
	durableSize int64
	current     map[int64]*chunk
	durable     map[int64]*chunk
	dirty       map[int64]bool
}

func newInode(perm fs.FileMode) *inode {
	return &inode{
		perm: perm, current: map[int64]*chunk{},
		durable: map[int64]*chunk{}, dirty: map[int64]bool{},
	}
}

func (n *inode) info(path string) memInfo {
	n.mu.Lock()
	defer n.mu.Unlock()
	return memInfo{name: filepath.Base(path), size: n.size, mode: n.perm}
}

func (n *inode) readAt(p []byte, off int64) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if off >= n.size {
		return 0, io.EOF
	}
	want := len(p)
	p = p[:min(int64(want), n.size-off)]
	for done := 0; done < len(p); {
		at := off + int64(done)
		rest := p[done:min(len(p), done+int(chunkBytes-at%chunkBytes))]
		if c := n.current[at/chunkBytes]; c != nil {
			copy(rest, c[at%chunkBytes:])
		} else {
			clear(rest)
		}
		done += len(rest)
	}
	if len(p) < want {
		return len(p), io.EOF
	}
	return len(p), nil
}

// writeAt writes at off, or at the end when off is negative, and returns where
// it wrote.
func (n *inode) writeAt(p []byte, off int64) int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if off < 0 {
		off = n.size
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		c := n.current[at/chunkBytes]
		if c == nil {
			c = new(chunk)
			n.current[at/chunkBytes] = c
		}
		n.dirty[at/chunkBytes] = true
		done += copy(c[at%chunkBytes:], p[done:])
	}
	n.size = max(n.size, off+int64(len(p)))
	return off
}

func (n *inode) truncate(size int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.truncateLocked(size)
}

func (n *inode) truncateLocked(size int64) {
	for i, c := range n.current {
		switch start := i * chunkBytes; {
		case start >= size:
			delete(n.current, i)
			n.dirty[i] = true
		case start+chunkBytes > size:
			clear(c[size-start:])
			n.dirty[i] = true
		}
	}
	n.size = size
}

func (n *inode) sync() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.dirty {
		if c := n.current[i]; c != nil {
			kept := *c
			n.durable[i] = &kept
		} else {
			delete(n.durable, i)
		}
	}
	clear(n.dirty)
	n.durableSize = n.size
}

// afterCrash is the file as found after a power failure, as a new inode that is
// wholly durable. Chance decides only if torn is set.
func (n *inode) afterCrash(rng *rand.Rand, torn bool) *inode {
	n.mu.Lock()
	defer n.mu.Unlock()
	left := newInode(n.perm)
	for i, c := range n.durable {
		kept := *c
		left.current[i] = &kept
	}
	left.size = n.durableSize
	if torn {
		for _, i := range slices.Sorted(maps.Keys(n.dirty)) {
			n.tearChunk(left, i, rng)
		}
		if n.size != n.durableSize && rng.Intn(2) == 0 {
			left.size = n.size
		}
	}
	left.truncateLocked(left.size)
	left.dirty = map[int64]bool{}
	for i := range left.current {
		left.dirty[i] = true
	}
	left.sync()
	return left
}

func (n *inode) tearChunk(left *inode, i int64, rng *rand.Rand) {
	var zero chunk
	now := n.current[i]
	if now == nil {
		now = &zero
	}
	c := left.current[i]
	if c == nil {
		c = new(chunk)
		left.current[i] = c
	}
	for s := 0; s < chunkBytes; s += sectorBytes {
		if rng.Intn(2) == 0 {
			copy(c[s:s+sectorBytes], now[s:])
		}
	}
}

// memFile is a handle on an inode.
type memFile struct {
	disk  *Mem
	epoch int
	node  *inode
	name  string
	flag  int

	mu     sync.Mutex
	offset int64
	closed bool
}

var _ File = (*memFile)(nil)

// usable refuses handles that were closed or that a crash has killed.
func (f *memFile) usable(op string, writes bool) error {
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	if closed {
		return pathError(op, f.name, fs.ErrClosed)
	}
	f.disk.mu.Lock()
	dead := f.epoch != f.disk.epoch
	f.disk.mu.Unlock()
	if dead {
		return pathError(op, f.name, ErrCrashed)
	}
	if writes && f.flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		return pathError(op, f.name, fs.ErrPermission)
	}
	return nil
}

func (f *memFile) Name() string { return f.name }

func (f *memFile) Read(p []byte) (int, error) {
	if err := f.usable("read", false); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.node.readAt(p, f.offset)
	f.offset += int64(n)
	if n > 0 || len(p) == 0 {
		err = nil
	}
	return n, err
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.usable("read", false); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError("read", f.name, fs.ErrInvalid)
	}
	return f.node.readAt(p, off)
}

func (f *memFile) Write(p []byte) (int, error) {
	if err := f.usable("write", true); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	at := f.offset
	if f.flag&os.O_APPEND != 0 {
		at = -1
	}
	f.offset = f.node.writeAt(p, at) + int64(len(p))
	return len(p), nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.usable("write", true); err != nil {
		return 0, err
	}
	if off < 0 || f.flag&os.O_APPEND != 0 {
		return 0, pathError("write", f.name, fs.ErrInvalid)
	}
	f.node.writeAt(p, off)
	return len(p), nil
}

func (f *memFile) Seek(offset int64, whence int) (int64, error) {
	if err := f.usable("seek", false); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += f.offset
	case io.SeekEnd:
		offset += f.node.info(f.name).size
	}
	if offset < 0 {
		return 0, pathError("seek", f.name, fs.ErrInvalid)
	}
	f.offset = offset
	return offset, nil
}

func (f *memFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	return nil
}

func (f *memFile) Stat() (fs.FileInfo, error) {
	if err := f.usable("stat", false); err != nil {
		return nil, err
	}
	return f.node.info(f.name), nil
}

func (f *memFile) Truncate(size int64) error {
	if err := f.usable("truncate", true); err != nil {
		return err
	}
	if size < 0 {
		return pathError("truncate", f.name, fs.ErrInvalid)
	}
	f.node.truncate(size)
	return nil
}

func (f *memFile) Preallocate(size int64) error {
	if err := f.usable("fallocate", true); err != nil {
		return err
	}
	if f.node.info(f.name).size < size {
		f.node.truncate(size)
	}
	return nil
}

func (f *memFile) Sync() error {
	if err := f.usable("sync", false); err != nil {
		return err
	}
	f.node.sync()
	return nil
}

func (f *memFile) Datasync() error { return f.Sync() }
