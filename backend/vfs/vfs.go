package vfs

import (
	"errors"
	"io"
	"io/fs"
)

var (
	// ErrLocked is returned by FS.Lock when somebody else holds the lock.
	ErrLocked = errors.New("vfs: file is locked")
	// ErrCrashed is returned by every handle that was open on a Mem disk when
	// it crashed.
	ErrCrashed = errors.New("vfs: disk crashed while the file was open")
)

// FS is a tree of files. Paths are slash or OS separated and are cleaned; an
// FS may be used from several goroutines at once. Errors satisfy errors.Is
// with fs.ErrNotExist, fs.ErrExist and friends, as those of package os do.
type FS interface {
	// OpenFile opens with the flags of package os (os.O_RDWR|os.O_CREATE...).
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Create makes or truncates a file for reading and writing, mode 0600.
	Create(name string) (File, error)
	// Open opens for reading.
	Open(name string) (File, error)
	// Rename replaces newname atomically. Durable after SyncDir of the
	// directories concerned.
	Rename(oldname, newname string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// RemoveAll removes a tree and does not mind if it is absent.
	RemoveAll(name string) error
	MkdirAll(name string, perm fs.FileMode) error
	// ReadDir lists a directory in file name order.
	ReadDir(name string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
	// Lock creates the file if need be and takes an exclusive advisory lock on
	// it without waiting: ErrLocked if it is taken. Closing releases it.
	Lock(name string) (io.Closer, error)
}

// File is an open file. ReadAt and WriteAt may be used concurrently; Read,
// Write and Seek share one offset and may not.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.WriterAt
	io.Seeker
	io.Closer
	// Name is the path the file was opened with.
	Name() string
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	// Preallocate reserves disk space up to size and extends the file to it,
	// reading as zeroes. It never shrinks a file. Where the file system cannot
	// reserve, the file is only extended.
	Preallocate(size int64) error
	// Sync makes data and metadata durable, Datasync the data and as much
	// metadata (the size) as is needed to read it back.
	Sync() error
	Datasync() error
}

// ReadFile returns the content of a file.
func ReadFile(fsys FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// Exists tells whether name is there. An error other than absence is returned.
func Exists(fsys FS, name string) (bool, error) {
	_, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
