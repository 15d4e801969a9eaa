package crash

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

const sectorBytes = 512

// Cuts walks over the record of a disk, one operation at a time. It does not see what is recorded later.
//
// Invariants: durable is what is left by a cut that loses everything unsynced; pending are the changes since then, per
// directory and per file, in order.
type Cuts struct {
	ops []op
	at  int

	dirs    map[string]bool // durable
	names   map[string]int  // durable
	entries map[string][]op // pending changes of a directory's entries
	files   map[int]*inode
	// current is the tree without a cut, needed to know what a rename renames.
	current map[string]int
}

// inode is a file's content as of the last sync, and what has been done to it since.
type inode struct {
	durable []byte
	pending []op
}

// Cuts begins before the first operation.
func (r *Recorder) Cuts() *Cuts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &Cuts{
		ops: slices.Clone(r.mu.ops), dirs: map[string]bool{"/": true, ".": true}, names: map[string]int{},
		entries: map[string][]op{}, files: map[int]*inode{}, current: map[string]int{},
	}
}

// At is how many operations came before the cut.
func (c *Cuts) At() int { return c.at }

// Recent describes the last operations before the cut.
func (c *Cuts) Recent(n int) string {
	var b strings.Builder
	for i := max(0, c.at-n); i < c.at; i++ {
		fmt.Fprintf(&b, "  %d %v\n", i+1, c.ops[i])
	}
	return b.String()
}

// Next moves behind one more operation; false at the end.
func (c *Cuts) Next() bool {
	if c.at == len(c.ops) {
		return false
	}
	o := c.ops[c.at]
	c.at++
	switch o.kind {
	case opLink:
		c.files[o.inode] = &inode{}
		c.current[o.path] = o.inode
		c.pend(o)
	case opRename:
		o.inode = c.current[o.path]
		delete(c.current, o.path)
		c.current[o.to] = o.inode
		c.pend(o)
	case opMkdir:
		c.pend(o)
	case opUnlink:
		delete(c.current, o.path)
		c.pend(o)
	case opSyncDir:
		c.syncDir(o.path)
	case opWrite, opSize:
		f := c.files[o.inode]
		f.pending = append(f.pending, o)
	case opSync:
		f := c.files[o.inode]
		for _, p := range f.pending {
			f.durable = p.apply(f.durable)
		}
		f.pending = nil
	}
	return true
}

// pend notes a change of a directory. A rename between directories counts as one of the target's.
func (c *Cuts) pend(o op) {
	dir := filepath.Dir(o.path)
	if o.kind == opRename {
		dir = filepath.Dir(o.to)
	}
	c.entries[dir] = append(c.entries[dir], o)
}

// syncDir makes the entries of dir durable, and its own entry with those of its parents: the journals of the file
// systems in use do not commit a directory without them.
func (c *Cuts) syncDir(dir string) {
	for _, o := range c.entries[dir] {
		o.link(c.dirs, c.names)
	}
	delete(c.entries, dir)
	for child := dir; ; child = filepath.Dir(child) {
		parent := filepath.Dir(child)
		c.entries[parent] = slices.DeleteFunc(c.entries[parent], func(o op) bool {
			own := o.kind == opMkdir && o.path == child
			if own {
				o.link(c.dirs, c.names)
			}
			return own
		})
		if parent == child {
			return
		}
	}
}

// link applies a change of a directory.
func (o op) link(dirs map[string]bool, names map[string]int) {
	switch o.kind {
	case opMkdir:
		dirs[o.path] = true
	case opLink:
		names[o.path] = o.inode
	case opUnlink:
		delete(names, o.path)
		delete(dirs, o.path)
	case opRename:
		if names[o.path] == o.inode {
			delete(names, o.path)
		}
		names[o.to] = o.inode
	}
}

// apply changes a file's content.
func (o op) apply(b []byte) []byte {
	if o.kind == opSize {
		return resize(b, o.off)
	}
	if end := o.off + int64(len(o.data)); end > int64(len(b)) {
		b = resize(b, end)
	}
	copy(b[o.off:], o.data)
	return b
}

func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

// Disk builds what a power cut at this moment may have left, wholly durable.
func (c *Cuts) Disk(seed uint64) *vfs.Mem {
	disk, _ := c.build(seed)
	return disk
}

// build also returns a digest of the disk's contents, by which equal disks are told.
func (c *Cuts) build(seed uint64) (*vfs.Mem, [sha256.Size]byte) {
	rng := rand.New(rand.NewPCG(seed, uint64(c.at)))
	dirs, names := maps.Clone(c.dirs), maps.Clone(c.names)
	for _, dir := range slices.Sorted(maps.Keys(c.entries)) {
		changes := c.entries[dir]
		for _, o := range changes[:someOf(len(changes), seed, rng)] {
			o.link(dirs, names)
		}
	}
	disk, hash := vfs.NewMem(), sha256.New()
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if reachable(dirs, dir) {
			disk.MkdirAll(dir, 0o700)
			fmt.Fprintln(hash, dir)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !reachable(dirs, filepath.Dir(name)) {
			continue
		}
		content := c.files[names[name]].left(seed, rng)
		fmt.Fprintln(hash, name, len(content))
		hash.Write(content)
		put(disk, name, content)
	}
	for dir := range dirs {
		if reachable(dirs, dir) {
			disk.SyncDir(dir)
		}
	}
	return disk, [sha256.Size]byte(hash.Sum(nil))
}

// put writes a whole file. A disk in memory cannot fail at this.
func put(disk *vfs.Mem, name string, content []byte) {
	f, err := disk.Create(name)
	if err != nil {
		panic(err)
	}
	f.WriteAt(content, 0)
	f.Sync()
	f.Close()
}

func reachable(dirs map[string]bool, dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		if !dirs[dir] {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// someOf picks how many of n pending changes were kept.
func someOf(n int, seed uint64, rng *rand.Rand) int {
	switch seed {
	case 0:
		return 0
	case 1:
		return n
	}
	return rng.IntN(n + 1)
}

// left is the content that a cut leaves.
func (f *inode) left(seed uint64, rng *rand.Rand) []byte {
	b := slices.Clone(f.durable)
	if len(f.pending) == 0 || seed == 0 {
		return b
	}
	if seed == 1 {
		for _, o := range f.pending {
			b = o.apply(b)
		}
		return b
	}
	switch rng.IntN(3) {
	case 0: // a prefix of the writes, the last of them torn
		n := rng.IntN(len(f.pending) + 1)
		for _, o := range f.pending[:n] {
			b = o.apply(b)
		}
		if n < len(f.pending) {
			b = f.pending[n].tear(b, 50, rng)
		}
		return b
	case 1: // every sector by itself
		for _, o := range f.pending {
			b = o.tear(b, 50, rng)
		}
	default: // nearly everything, or nearly nothing
		keep := 5 + 90*rng.IntN(2)
		for _, o := range f.pending {
			b = o.tear(b, keep, rng)
		}
	}
	// The length by itself: that before, or that after.
	switch whole := resized(f.durable, f.pending); rng.IntN(4) {
	case 0:
		b = resize(b, int64(len(f.durable)))
	case 1:
		b = resize(b, whole)
	}
	return b
}

// resized is the length after the pending changes.
func resized(durable []byte, pending []op) int64 {
	size := int64(len(durable))
	for _, o := range pending {
		if o.kind == opSize {
			size = o.off
		} else {
			size = max(size, o.off+int64(len(o.data)))
		}
	}
	return size
}

// tear applies each sector of a write with a chance of keep percent.
func (o op) tear(b []byte, keep int, rng *rand.Rand) []byte {
	if o.kind == opSize {
		if rng.IntN(100) < keep {
			b = resize(b, o.off)
		}
		return b
	}
	for done := int64(0); done < int64(len(o.data)); {
		at := o.off + done
		n := min(sectorBytes-at%sectorBytes, int64(len(o.data))-done)
		if rng.IntN(100) < keep {
			b = op{kind: opWrite, off: at, data: o.data[done : done+n]}.apply(b)
		}
		done += n
	}
	return b
}
