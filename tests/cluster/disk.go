package cluster

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

// errPowerCut is what a member's disk answers after Kill.
var errPowerCut = errors.New("cluster: the member was killed")

// disk stands between a member and its real directory. It writes through, and remembers how to take back whatever has
// not been synced, so that a kill leaves what a power cut would: this is the cache of a disk, kept the other way round.
// Syncs themselves do not reach the real disk, since the test's machine stays up.
//
// A file that is removed or replaced stays so after a kill; the log never needs it back.
type disk struct {
	mu struct {
		sync.Mutex
		nodes map[string]*node // by path
		undo  []undo           // oldest first
		seq   int64            // of the newest step
		cut   bool             // the power is off
		full  bool
		delay time.Duration // of every sync and commit
		// stalled is closed when the disk answers again; nil while it does.
		stalled chan struct{}
	}
}

// node is a file, whatever its name is by now.
type node struct{ path string }

// undo is one step back. Exactly one of data and name describes it.
type undo struct {
	seq  int64
	node *node
	data *dataUndo
	name *nameUndo
}

// dataUndo restores bytes and size as they were before a write or a truncation.
type dataUndo struct {
	off  int64
	old  []byte
	size int64
}

// nameUndo takes a new name away; to is where the file goes, empty for a file that was created.
type nameUndo struct{ dir, to string }

func (d *disk) noteLocked(u undo) {
	d.mu.seq++
	u.seq = d.mu.seq
	d.mu.undo = append(d.mu.undo, u)
}

func newDisk() *disk {
	d := &disk{}
	d.mu.nodes = map[string]*node{}
	return d
}

var _ vfs.FS = (*disk)(nil)

// powerOff makes everything fail from now on. It wakes whoever waits for a stalled disk.
func (d *disk) powerOff() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.cut = true
	d.wakeLocked()
}

func (d *disk) wakeLocked() {
	if d.mu.stalled != nil {
		close(d.mu.stalled)
		d.mu.stalled = nil
	}
}

// powerOn takes back what was never synced, and works again. Nobody may hold a file open.
func (d *disk) powerOn() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, u := range slices.Backward(d.mu.undo) {
		errs = append(errs, u.run())
	}
	d.mu.undo, d.mu.nodes, d.mu.cut = nil, map[string]*node{}, false
	return errors.Join(errs...)
}

func (u undo) run() error {
	if u.name != nil {
		from := u.node.path
		if u.name.to == "" {
			return ignoreMissing(os.Remove(from))
		}
		u.node.path = u.name.to
		return ignoreMissing(os.Rename(from, u.name.to))
	}
	f, err := os.OpenFile(u.node.path, os.O_RDWR, 0)
	if err != nil {
		return ignoreMissing(err)
	}
	_, err = f.WriteAt(u.data.old, u.data.off)
	return errors.Join(err, f.Truncate(u.data.size), f.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (d *disk) setFull(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.full = full
}

func (d *disk) setDelay(delay time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.delay = delay
}

func (d *disk) stall() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.stalled == nil {
		d.mu.stalled = make(chan struct{})
	}
}

func (d *disk) resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wakeLocked()
}

// reach waits as long as the disk takes to answer.
func (d *disk) reach() error {
	d.mu.Lock()
	delay, stalled := d.mu.delay, d.mu.stalled
	d.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
	if delay > 0 {
		time.Sleep(delay) // this is the fault itself, not a wait for something
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stateLocked()
}

func (d *disk) stateLocked() error {
	if d.mu.cut {
		return errPowerCut
	}
	return nil
}

// beforeCommit is the database's share of the disk's faults.
func (d *disk) beforeCommit() error {
	if err := d.reach(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.full {
		return &fs.PathError{Op: "write", Path: "db", Err: syscall.ENOSPC}
	}
	return nil
}

func (d *disk) freeBytes(dir string) (int64, error) {
	d.mu.Lock()
	full := d.mu.full
	d.mu.Unlock()
	if full {
		return 0, nil
	}
	return vfs.FreeBytes(dir)
}

func (d *disk) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	name = filepath.Clean(name)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.stateLocked(); err != nil {
		return nil, err
	}
	_, err := os.Stat(name)
	created := errors.Is(err, fs.ErrNotExist) && flag&os.O_CREATE != 0
	if created && d.mu.full {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOSPC}
	}
	f, err := vfs.OS{}.OpenFile(name, flag&^os.O_TRUNC, perm)
	if err != nil {
		return nil, err
	}
	n := d.mu.nodes[name]
	if n == nil || created {
		n = &node{path: name}
		d.mu.nodes[name] = n
	}
	if created {
		d.noteLocked(undo{node: n, name: &nameUndo{dir: filepath.Dir(name)}})
	}
	file := &diskFile{File: f, disk: d, node: n, appends: flag&os.O_APPEND != 0}
	if flag&os.O_TRUNC != 0 {
		if err := file.truncateLocked(0); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return file, nil
}

func (d *disk) Create(name string) (vfs.File, error) {
	return d.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

func (d *disk) Open(name string) (vfs.File, error) { return d.OpenFile(name, os.O_RDONLY, 0) }

func (d *disk) Rename(oldname, newname string) error {
	oldname, newname = filepath.Clean(oldname), filepath.Clean(newname)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.stateLocked(); err != nil {
		return err
	}
	_, err := os.Stat(newname)
	replaces := err == nil
	if err := os.Rename(oldname, newname); err != nil {
		return err
	}
	n := d.mu.nodes[oldname]
	if n == nil {
		n = &node{}
	}
	n.path = newname
	delete(d.mu.nodes, oldname)
	d.mu.nodes[newname] = n
	if !replaces {
		d.noteLocked(undo{node: n, name: &nameUndo{dir: filepath.Dir(newname), to: oldname}})
	}
	return nil
}

func (d *disk) Remove(name string) error {
	return d.remove(name, os.Remove)
}

func (d *disk) RemoveAll(name string) error { return d.remove(name, os.RemoveAll) }

func (d *disk) remove(name string, do func(string) error) error {
	name = filepath.Clean(name)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.stateLocked(); err != nil {
		return err
	}
	if n := d.mu.nodes[name]; n != nil {
		delete(d.mu.nodes, name)
		d.mu.undo = slices.DeleteFunc(d.mu.undo, func(u undo) bool { return u.node == n })
	}
	return do(name)
}

func (d *disk) MkdirAll(name string, perm fs.FileMode) error { return vfs.OS{}.MkdirAll(name, perm) }

func (d *disk) ReadDir(name string) ([]fs.DirEntry, error) { return vfs.OS{}.ReadDir(name) }

func (d *disk) Stat(name string) (fs.FileInfo, error) { return vfs.OS{}.Stat(name) }

func (d *disk) Lock(name string) (io.Closer, error) { return vfs.OS{}.Lock(name) }

// SyncDir makes the names in a directory durable.
func (d *disk) SyncDir(name string) error {
	if err := d.reach(); err != nil {
		return err
	}
	name = filepath.Clean(name)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.undo = slices.DeleteFunc(d.mu.undo, func(u undo) bool { return u.name != nil && u.name.dir == name })
	return nil
}

// diskFile is an open file of a disk.
type diskFile struct {
	vfs.File
	disk    *disk
	node    *node
	appends bool
}

func (f *diskFile) Write(p []byte) (int, error) {
	whence := io.SeekCurrent
	if f.appends {
		whence = io.SeekEnd
	}
	off, err := f.Seek(0, whence)
	if err != nil {
		return 0, err
	}
	return f.write(off, p, func() (int, error) { return f.File.Write(p) })
}

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	return f.write(off, p, func() (int, error) { return f.File.WriteAt(p, off) })
}

func (f *diskFile) write(off int64, p []byte, do func() (int, error)) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.stateLocked(); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	// What lies inside the file has its place on the disk already.
	if f.disk.mu.full && off+int64(len(p)) > info.Size() {
		return 0, &fs.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
	}
	if err := f.rememberLocked(off, min(int64(len(p)), info.Size()-off), info.Size()); err != nil {
		return 0, err
	}
	return do()
}

// rememberLocked notes how to undo a change of length bytes at off, as far as they are inside the file.
func (f *diskFile) rememberLocked(off, length, size int64) error {
	old := make([]byte, max(0, length))
	if _, err := f.ReadAt(old, off); err != nil && len(old) > 0 && !errors.Is(err, io.EOF) {
		return err
	}
	f.disk.noteLocked(undo{node: f.node, data: &dataUndo{off: off, old: old, size: size}})
	return nil
}

func (f *diskFile) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return f.truncateLocked(size)
}

func (f *diskFile) truncateLocked(size int64) error {
	if err := f.disk.stateLocked(); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	switch {
	case size == info.Size():
		return nil
	case size > info.Size() && f.disk.mu.full:
		return &fs.PathError{Op: "truncate", Path: f.Name(), Err: syscall.ENOSPC}
	}
	if err := f.rememberLocked(size, info.Size()-size, info.Size()); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

// Preallocate only extends the file: a sparse one is made at once.
func (f *diskFile) Preallocate(size int64) error {
	info, err := f.Stat()
	if err != nil || info.Size() >= size {
		return err
	}
	return f.Truncate(size)
}

func (f *diskFile) Sync() error { return f.Datasync() }

func (f *diskFile) Datasync() error {
	// What is written while the disk takes its time is not part of this sync.
	f.disk.mu.Lock()
	written := f.disk.mu.seq
	f.disk.mu.Unlock()
	if err := f.disk.reach(); err != nil {
		return err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.mu.undo = slices.DeleteFunc(f.disk.mu.undo, func(u undo) bool {
		return u.data != nil && u.node == f.node && u.seq <= written
	})
	return nil
}
