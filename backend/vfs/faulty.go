package vfs

import (
	"io"
	"io/fs"
	"path/filepath"
	"sync"
)

// Op names the operations that Faulty can make fail.
type Op uint16

// Opening with os.O_CREATE counts as OpOpen, like any other open.
const (
	OpOpen Op = 1 << iota
	OpRename
	OpRemove
	OpMkdir
	OpReadDir
	OpStat
	OpSyncDir
	OpLock
	OpRead
	OpWrite
	OpTruncate
	OpPreallocate
	OpSync // Sync and Datasync

	// OpAny matches everything.
	OpAny Op = 1<<iota - 1
)

// Rule says what fails and how. Give syscall.ENOSPC as Err for a full disk.
type Rule struct {
	Ops Op
	// Match is a pattern of filepath.Match, compared with the path and with its
	// last element. Empty matches all.
	Match string
	// Skip lets the first matching operations through.
	Skip int
	// Times limits how often the rule fires; 0 is without end.
	Times int
	Err   error
	// Short makes a failing write first write that many bytes (at most all but
	// one of them).
	Short int
}

// Faulty passes everything to another FS except what its rules make fail.
type Faulty struct {
	under FS
	mu    sync.Mutex
	rules []*Rule
	count int
}

// NewFaulty wraps an FS. Without rules it changes nothing.
func NewFaulty(under FS) *Faulty { return &Faulty{under: under} }

var _ FS = (*Faulty)(nil)

// Inject adds a rule; earlier rules are asked first.
func (f *Faulty) Inject(r Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, &r)
}

// Clear removes all rules.
func (f *Faulty) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// Count is the number of operations seen so far. A test that wants to fail each
// operation once runs its scenario, reads Count, and repeats it with Skip set
// to 0, 1, 2 and so on.
func (f *Faulty) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

func (r *Rule) matches(op Op, path string) bool {
	if r.Ops&op == 0 {
		return false
	}
	if r.Match == "" {
		return true
	}
	whole, _ := filepath.Match(r.Match, path)
	base, _ := filepath.Match(r.Match, filepath.Base(path))
	return whole || base
}

// check returns the rule that makes this operation fail, or nil.
func (f *Faulty) check(op Op, path string) *Rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	for i, r := range f.rules {
		if !r.matches(op, path) {
			continue
		}
		if r.Skip > 0 {
			r.Skip--
			continue
		}
		if r.Times > 0 {
			if r.Times--; r.Times == 0 {
				f.rules = append(f.rules[:i:i], f.rules[i+1:]...)
			}
		}
		return r
	}
	return nil
}

func (f *Faulty) fail(op Op, verb, path string) error {
	if r := f.check(op, path); r != nil {
		return pathError(verb, path, r.Err)
	}
	return nil
}

func (f *Faulty) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	if err := f.fail(OpOpen, "open", name); err != nil {
		return nil, err
	}
	file, err := f.under.OpenFile(name, flag, perm)
	return f.wrap(file, err)
}

func (f *Faulty) Create(name string) (File, error) {
	if err := f.fail(OpOpen, "open", name); err != nil {
		return nil, err
	}
	file, err := f.under.Create(name)
	return f.wrap(file, err)
}

func (f *Faulty) Open(name string) (File, error) {
	if err := f.fail(OpOpen, "open", name); err != nil {
		return nil, err
	}
	file, err := f.under.Open(name)
	return f.wrap(file, err)
}

func (f *Faulty) wrap(file File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return &faultyFile{File: file, fs: f}, nil
}

func (f *Faulty) Rename(oldname, newname string) error {
	if err := f.fail(OpRename, "rename", newname); err != nil {
		return err
	}
	return f.under.Rename(oldname, newname)
}

func (f *Faulty) Remove(name string) error {
	if err := f.fail(OpRemove, "remove", name); err != nil {
		return err
	}
	return f.under.Remove(name)
}

func (f *Faulty) RemoveAll(name string) error {
	if err := f.fail(OpRemove, "remove", name); err != nil {
		return err
	}
	return f.under.RemoveAll(name)
}

func (f *Faulty) MkdirAll(name string, perm fs.FileMode) error {
	if err := f.fail(OpMkdir, "mkdir", name); err != nil {
		return err
	}
	return f.under.MkdirAll(name, perm)
}

func (f *Faulty) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := f.fail(OpReadDir, "readdir", name); err != nil {
		return nil, err
	}
	return f.under.ReadDir(name)
}

func (f *Faulty) Stat(name string) (fs.FileInfo, error) {
	if err := f.fail(OpStat, "stat", name); err != nil {
		return nil, err
	}
	return f.under.Stat(name)
}

func (f *Faulty) SyncDir(name string) error {
	if err := f.fail(OpSyncDir, "syncdir", name); err != nil {
		return err
	}
	return f.under.SyncDir(name)
}

func (f *Faulty) Lock(name string) (io.Closer, error) {
	if err := f.fail(OpLock, "lock", name); err != nil {
		return nil, err
	}
	return f.under.Lock(name)
}

// faultyFile asks the rules by the name the file was opened with.
type faultyFile struct {
	File
	fs *Faulty
}

func (f *faultyFile) Read(p []byte) (int, error) {
	if err := f.fs.fail(OpRead, "read", f.Name()); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.fail(OpRead, "read", f.Name()); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultyFile) Write(p []byte) (int, error) {
	return f.write(p, f.File.Write)
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	return f.write(p, func(p []byte) (int, error) { return f.File.WriteAt(p, off) })
}

func (f *faultyFile) write(p []byte, do func([]byte) (int, error)) (int, error) {
	r := f.fs.check(OpWrite, f.Name())
	if r == nil {
		return do(p)
	}
	err := pathError("write", f.Name(), r.Err)
	short := min(r.Short, len(p)-1)
	if short <= 0 {
		return 0, err
	}
	n, werr := do(p[:short])
	if werr != nil {
		err = werr
	}
	return n, err
}

func (f *faultyFile) Stat() (fs.FileInfo, error) {
	if err := f.fs.fail(OpStat, "stat", f.Name()); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

func (f *faultyFile) Truncate(size int64) error {
	if err := f.fs.fail(OpTruncate, "truncate", f.Name()); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultyFile) Preallocate(size int64) error {
	if err := f.fs.fail(OpPreallocate, "fallocate", f.Name()); err != nil {
		return err
	}
	return f.File.Preallocate(size)
}

func (f *faultyFile) Sync() error {
	if err := f.fs.fail(OpSync, "sync", f.Name()); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultyFile) Datasync() error {
	if err := f.fs.fail(OpSync, "fdatasync", f.Name()); err != nil {
		return err
	}
	return f.File.Datasync()
}
