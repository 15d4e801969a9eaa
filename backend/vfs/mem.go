package vfs

import (
	"io"
	"io/fs"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Mem is a disk in memory that can crash. The zero value is not usable; see
// NewMem.
//
// Invariants: every path in dirs and files has its parent in dirs; durable is
// what a crash that loses everything unsynced would leave; dirOps are the
// directory operations since, in order, and replaying all of them on durable
// gives the current tree.
type Mem struct {
	mu      sync.Mutex
	dirs    map[string]bool
	files   map[string]*inode
	durable tree
	dirOps  []dirOp
	locks   map[string]bool
	// epoch grows with every crash; handles of an older one are dead.
	epoch int
}

// tree is a set of directories and names of files.
type tree struct {
	dirs  map[string]bool
	files map[string]*inode
}

func (t tree) clone() tree { return tree{maps.Clone(t.dirs), maps.Clone(t.files)} }

// dirOp is a change of directory entries: link (and so replace) when node is
// set, a new directory when dir is set, else an unlink. Ops of one group (the
// two halves of a rename) reach the disk together.
type dirOp struct {
	path  string
	node  *inode
	dir   bool
	group int
}

func (t tree) apply(op dirOp) {
	switch {
	case op.dir:
		t.dirs[op.path] = true
	case op.node != nil:
		t.files[op.path] = op.node
	default:
		delete(t.files, op.path)
		delete(t.dirs, op.path)
	}
}

// NewMem returns an empty disk with the directories "/" and ".".
func NewMem() *Mem {
	roots := map[string]bool{"/": true, ".": true}
	return &Mem{
		dirs: roots, files: map[string]*inode{}, locks: map[string]bool{},
		durable: tree{maps.Clone(roots), map[string]*inode{}},
	}
}

var _ FS = (*Mem)(nil)

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func (m *Mem) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[name] {
		return nil, pathError("open", name, fs.ErrInvalid)
	}
	node := m.files[name]
	switch {
	case node == nil && flag&os.O_CREATE == 0:
		return nil, pathError("open", name, fs.ErrNotExist)
	case node == nil && !m.dirs[filepath.Dir(name)]:
		return nil, pathError("open", name, fs.ErrNotExist)
	case node != nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, pathError("open", name, fs.ErrExist)
	case node == nil:
		node = newInode(perm)
		m.files[name] = node
		m.recordLocked(dirOp{path: name, node: node})
	}
	if flag&os.O_TRUNC != 0 {
		node.truncate(0)
	}
	return &memFile{disk: m, epoch: m.epoch, node: node, name: name, flag: flag}, nil
}

func (m *Mem) Create(name string) (File, error) {
	return m.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

func (m *Mem) Open(name string) (File, error) { return m.OpenFile(name, os.O_RDONLY, 0) }

// recordLocked notes directory operations that a crash may lose as one.
func (m *Mem) recordLocked(ops ...dirOp) {
	group := 1
	if n := len(m.dirOps); n > 0 {
		group = m.dirOps[n-1].group + 1
	}
	for _, op := range ops {
		op.group = group
		m.dirOps = append(m.dirOps, op)
	}
}

func (m *Mem) Rename(oldname, newname string) error {
	oldname, newname = filepath.Clean(oldname), filepath.Clean(newname)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[oldname] {
		return m.renameDirLocked(oldname, newname)
	}
	node := m.files[oldname]
	if node == nil || !m.dirs[filepath.Dir(newname)] {
		return pathError("rename", oldname, fs.ErrNotExist)
	}
	if m.dirs[newname] {
		return pathError("rename", newname, fs.ErrExist)
	}
	if oldname == newname {
		return nil
	}
	delete(m.files, oldname)
	m.files[newname] = node
	m.recordLocked(dirOp{path: newname, node: node}, dirOp{path: oldname})
	return nil
}

func (m *Mem) renameDirLocked(oldname, newname string) error {
	if m.files[newname] != nil || m.dirs[newname] && len(m.childrenLocked(newname)) > 0 {
		return pathError("rename", newname, fs.ErrExist)
	}
	if !m.dirs[filepath.Dir(newname)] {
		return pathError("rename", newname, fs.ErrNotExist)
	}
	under := oldname + string(filepath.Separator)
	ops := []dirOp{{path: newname, dir: true}, {path: oldname}}
	for _, d := range slices.Sorted(maps.Keys(m.dirs)) {
		if strings.HasPrefix(d, under) {
			ops = append(ops, dirOp{path: newname + d[len(oldname):], dir: true}, dirOp{path: d})
		}
	}
	for _, f := range slices.Sorted(maps.Keys(m.files)) {
		if strings.HasPrefix(f, under) {
			ops = append(ops, dirOp{path: newname + f[len(oldname):], node: m.files[f]}, dirOp{path: f})
		}
	}
	for _, op := range ops {
		tree{m.dirs, m.files}.apply(op)
	}
	m.recordLocked(ops...)
	return nil
}

func (m *Mem) Remove(name string) error {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.removeLocked(name)
}

func (m *Mem) removeLocked(name string) error {
	if m.files[name] == nil && !m.dirs[name] {
		return pathError("remove", name, fs.ErrNotExist)
	}
	if m.dirs[name] && len(m.childrenLocked(name)) > 0 {
		return pathError("remove", name, fs.ErrExist)
	}
	delete(m.files, name)
	delete(m.dirs, name)
	m.recordLocked(dirOp{path: name})
	return nil
}

func (m *Mem) RemoveAll(name string) error {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	var doomed []string
	under := name + string(filepath.Separator)
	for p := range m.files {
		if p == name || strings.HasPrefix(p, under) {
			doomed = append(doomed, p)
		}
	}
	for p := range m.dirs {
		if p == name || strings.HasPrefix(p, under) {
			doomed = append(doomed, p)
		}
	}
	slices.Sort(doomed)
	for _, p := range slices.Backward(doomed) { // children before parents
		if err := m.removeLocked(p); err != nil {
			return err
		}
	}
	return nil
}

func (m *Mem) MkdirAll(name string, _ fs.FileMode) error {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	var missing []string
	for p := name; !m.dirs[p]; p = filepath.Dir(p) {
		if m.files[p] != nil {
			return pathError("mkdir", p, fs.ErrExist)
		}
		missing = append(missing, p)
	}
	for _, p := range slices.Backward(missing) {
		m.dirs[p] = true
		m.recordLocked(dirOp{path: p, dir: true})
	}
	return nil
}

func (m *Mem) childrenLocked(dir string) []fs.DirEntry {
	var entries []fs.DirEntry
	for p := range m.dirs {
		if p != dir && filepath.Dir(p) == dir {
			entries = append(entries, fs.FileInfoToDirEntry(memInfo{name: filepath.Base(p), mode: fs.ModeDir | 0o700}))
		}
	}
	for p, node := range m.files {
		if filepath.Dir(p) == dir {
			entries = append(entries, fs.FileInfoToDirEntry(node.info(p)))
		}
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries
}

func (m *Mem) ReadDir(name string) ([]fs.DirEntry, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[name] {
		return nil, pathError("readdir", name, fs.ErrNotExist)
	}
	return m.childrenLocked(name), nil
}

func (m *Mem) Stat(name string) (fs.FileInfo, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[name] {
		return memInfo{name: filepath.Base(name), mode: fs.ModeDir | 0o700}, nil
	}
	if node := m.files[name]; node != nil {
		return node.info(name), nil
	}
	return nil, pathError("stat", name, fs.ErrNotExist)
}

// SyncDir makes the entries of this one directory durable (a rename between two
// directories therefore needs both), and the directory itself with its parents.
func (m *Mem) SyncDir(name string) error {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[name] {
		return pathError("syncdir", name, fs.ErrNotExist)
	}
	m.dirOps = slices.DeleteFunc(m.dirOps, func(op dirOp) bool {
		synced := filepath.Dir(op.path) == name || op.dir && op.path == name
		if synced {
			m.durable.apply(op)
		}
		return synced
	})
	return nil
}

type memLock struct {
	m     *Mem
	epoch int
	name  string
	once  sync.Once
}

func (l *memLock) Close() error {
	l.once.Do(func() {
		l.m.mu.Lock()
		defer l.m.mu.Unlock()
		if l.epoch == l.m.epoch {
			delete(l.m.locks, l.name)
		}
	})
	return nil
}

func (m *Mem) Lock(name string) (io.Closer, error) {
	f, err := m.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[name] {
		return nil, pathError("lock", name, ErrLocked)
	}
	m.locks[name] = true
	return &memLock{m: m, epoch: m.epoch, name: name}, nil
}

// Crash cuts the power: open handles and locks die, and the disk holds what
// CrashClone(seed) would.
func (m *Mem) Crash(seed int64) {
	after := m.CrashClone(seed)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dirs, m.files, m.durable, m.dirOps = after.dirs, after.files, after.durable, nil
	m.locks = map[string]bool{}
	m.epoch++
}

// CrashClone returns a new disk with what would be left if the power failed
// now; this disk goes on undisturbed. With seed 0 nothing survives that was not
// synced. Any other seed picks, reproducibly, how much of the unsynced work made
// it all the same: a prefix of the directory operations, for each file the old
// or the new length, and each unsynced 512-byte sector by itself.
func (m *Mem) CrashClone(seed int64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	rng := rand.New(rand.NewSource(seed))
	left := m.durable.clone()
	if n := len(m.dirOps); seed != 0 && n > 0 {
		first := m.dirOps[0].group
		kept := first + rng.Intn(m.dirOps[n-1].group-first+2)
		for _, op := range m.dirOps {
			if op.group < kept {
				left.apply(op)
			}
		}
	}
	after := &Mem{dirs: map[string]bool{}, files: map[string]*inode{}, locks: map[string]bool{}}
	for d := range left.dirs {
		after.dirs[d] = true
	}
	for _, p := range slices.Sorted(maps.Keys(left.files)) {
		if after.hasParents(p) {
			after.files[p] = left.files[p].afterCrash(rng, seed != 0)
		}
	}
	after.durable = tree{maps.Clone(after.dirs), maps.Clone(after.files)}
	return after
}

// hasParents is false for what a crash cut off from the root: an entry in a
// directory whose own entry never reached the disk.
func (m *Mem) hasParents(p string) bool {
	for d := filepath.Dir(p); ; d = filepath.Dir(d) {
		if !m.dirs[d] {
			return false
		}
		if d == filepath.Dir(d) {
			return true
		}
	}
}

// memInfo implements fs.FileInfo.
type memInfo struct {
	name string
	size int64
	mode fs.FileMode
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) Mode() fs.FileMode  { return i.mode }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return i.mode.IsDir() }
func (i memInfo) Sys() any           { return nil }
