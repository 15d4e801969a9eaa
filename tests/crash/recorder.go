package crash

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

// Recorder is a vfs.FS in memory that writes down every change. It is safe for concurrent use.
type Recorder struct {
	under vfs.FS
	mu    struct {
		sync.Mutex
		ops []op
		// names is the present tree; inodes are numbered from 1.
		names map[string]int
		last  int
	}
}

type opKind uint8

const (
	opMkdir  opKind = iota // path
	opLink                 // path -> inode: a new file
	opUnlink               // path
	opRename               // path -> to
	opSyncDir
	opWrite // inode, off, data
	opSize  // inode, off: the new size
	opSync  // inode
)

type op struct {
	kind     opKind
	inode    int
	path, to string
	off      int64
	data     []byte
}

func (o op) String() string {
	switch o.kind {
	case opMkdir:
		return "mkdir " + o.path
	case opLink:
		return fmt.Sprintf("create %s as #%d", o.path, o.inode)
	case opUnlink:
		return "remove " + o.path
	case opRename:
		return "rename " + o.path + " to " + o.to
	case opSyncDir:
		return "sync directory " + o.path
	case opWrite:
		return fmt.Sprintf("write #%d at %d, %d bytes", o.inode, o.off, len(o.data))
	case opSize:
		return fmt.Sprintf("resize #%d to %d", o.inode, o.off)
	default:
		return fmt.Sprintf("sync #%d", o.inode)
	}
}

// NewRecorder returns an empty disk.
func NewRecorder() *Recorder {
	r := &Recorder{under: vfs.NewMem()}
	r.mu.names = map[string]int{}
	return r
}

var _ vfs.FS = (*Recorder)(nil)

// Now is the number of changes so far.
func (r *Recorder) Now() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.mu.ops)
}

// changed runs do and, if it succeeds, writes o down. Both happen under the lock, so that the order of the record is
// the order of the changes.
func (r *Recorder) changed(o op, do func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := do(); err != nil {
		return err
	}
	r.mu.ops = append(r.mu.ops, o)
	return nil
}

// OpenFile implements vfs.FS.
func (r *Recorder) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	name = filepath.Clean(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := r.under.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	id, old := r.mu.names[name]
	if !old {
		r.mu.last++
		id = r.mu.last
		r.mu.names[name] = id
		r.mu.ops = append(r.mu.ops, op{kind: opLink, inode: id, path: name})
	} else if flag&os.O_TRUNC != 0 {
		r.mu.ops = append(r.mu.ops, op{kind: opSize, inode: id})
	}
	return &file{File: f, recorder: r, inode: id}, nil
}

// Create implements vfs.FS.
func (r *Recorder) Create(name string) (vfs.File, error) {
	return r.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

// Open implements vfs.FS.
func (r *Recorder) Open(name string) (vfs.File, error) { return r.OpenFile(name, os.O_RDONLY, 0) }

// Rename implements vfs.FS, for files.
func (r *Recorder) Rename(oldname, newname string) error {
	oldname, newname = filepath.Clean(oldname), filepath.Clean(newname)
	return r.changed(op{kind: opRename, path: oldname, to: newname}, func() error {
		id, ok := r.mu.names[oldname]
		if !ok {
			return &fs.PathError{Op: "rename", Path: oldname, Err: fs.ErrNotExist} // directories are not recorded
		}
		if err := r.under.Rename(oldname, newname); err != nil {
			return err
		}
		delete(r.mu.names, oldname)
		r.mu.names[newname] = id
		return nil
	})
}

// Remove implements vfs.FS.
func (r *Recorder) Remove(name string) error {
	name = filepath.Clean(name)
	return r.changed(op{kind: opUnlink, path: name}, func() error {
		if err := r.under.Remove(name); err != nil {
			return err
		}
		delete(r.mu.names, name)
		return nil
	})
}

// RemoveAll implements vfs.FS, for files and empty directories: nothing under test removes a tree.
func (r *Recorder) RemoveAll(name string) error {
	if _, err := r.under.Stat(name); err != nil {
		return nil
	}
	return r.Remove(name)
}

// MkdirAll implements vfs.FS.
func (r *Recorder) MkdirAll(name string, perm fs.FileMode) error {
	name = filepath.Clean(name)
	if _, err := r.under.Stat(name); err == nil {
		return nil
	}
	if parent := filepath.Dir(name); parent != name {
		if err := r.MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	return r.changed(op{kind: opMkdir, path: name}, func() error { return r.under.MkdirAll(name, perm) })
}

// ReadDir implements vfs.FS.
func (r *Recorder) ReadDir(name string) ([]fs.DirEntry, error) { return r.under.ReadDir(name) }

// Stat implements vfs.FS.
func (r *Recorder) Stat(name string) (fs.FileInfo, error) { return r.under.Stat(name) }

// SyncDir implements vfs.FS.
func (r *Recorder) SyncDir(name string) error {
	name = filepath.Clean(name)
	return r.changed(op{kind: opSyncDir, path: name}, func() error { return r.under.SyncDir(name) })
}

// Lock implements vfs.FS. The lock file is not recorded: it holds nothing.
func (r *Recorder) Lock(name string) (io.Closer, error) { return r.under.Lock(name) }

// file is an open file. Its offset is that of the file underneath.
type file struct {
	vfs.File
	recorder *Recorder
	inode    int
}

func (f *file) Write(p []byte) (n int, err error) {
	f.recorder.mu.Lock()
	defer f.recorder.mu.Unlock()
	n, err = f.File.Write(p)
	if err != nil {
		return n, err
	}
	// Behind the write, so that it is right for O_APPEND too.
	end, err := f.File.Seek(0, io.SeekCurrent)
	if err == nil {
		f.recorder.mu.ops = append(f.recorder.mu.ops, op{
			kind: opWrite, inode: f.inode, off: end - int64(n), data: append([]byte(nil), p...),
		})
	}
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.recorder.changed(op{kind: opWrite, inode: f.inode, off: off, data: append([]byte(nil), p...)}, func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *file) Truncate(size int64) error {
	return f.recorder.changed(op{kind: opSize, inode: f.inode, off: size}, func() error { return f.File.Truncate(size) })
}

func (f *file) Preallocate(size int64) error {
	info, err := f.File.Stat()
	if err != nil || info.Size() >= size {
		return err
	}
	return f.Truncate(size)
}

func (f *file) Sync() error {
	return f.recorder.changed(op{kind: opSync, inode: f.inode}, f.File.Sync)
}

func (f *file) Datasync() error { return f.Sync() }
