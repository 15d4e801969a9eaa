package backup

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

// partPrefix begins the names of files that are being written; they are not listed.
const partPrefix = ".part-"

// directory is a store of files in one directory. A file is written under a name of its own, synced and renamed.
type directory struct {
	fs  vfs.FS
	dir string
}

// NewDirectory returns the store of a directory, which need not exist yet.
func NewDirectory(fs vfs.FS, dir string) Store { return &directory{fs, dir} }

func (d *directory) Location() string { return d.dir }

func (d *directory) path(name string) string { return filepath.Join(d.dir, name) }

func (d *directory) Put(ctx context.Context, name string, expected int64, write func(io.Writer) error) (err error) {
	if err := d.make(); err != nil {
		return err
	}
	var random [6]byte
	rand.Read(random[:])
	part := d.path(partPrefix + hex.EncodeToString(random[:]) + "-" + name)
	f, err := d.fs.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return d.explain(err)
	}
	buffered := bufio.NewWriterSize(&contextWriter{ctx, f}, 256<<10)
	if err = write(buffered); err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.fs.Rename(part, d.path(name))
	}
	if err != nil {
		return errors.Join(d.explain(err), d.fs.RemoveAll(part))
	}
	return d.fs.SyncDir(d.dir)
}

// make creates the directory durably.
func (d *directory) make() error {
	if ok, err := vfs.Exists(d.fs, d.dir); ok || err != nil {
		return d.explain(err)
	}
	if err := d.fs.MkdirAll(d.dir, 0o700); err != nil {
		return d.explain(err)
	}
	return d.fs.SyncDir(filepath.Dir(d.dir))
}

func (d *directory) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("backup repository %s: %w; let the user that this process runs as write there", d.dir, err)
	case noSpace(err):
		return fmt.Errorf("backup repository %s: %w; make room, or keep fewer backups", d.dir, err)
	}
	return fmt.Errorf("backup repository %s: %w", d.dir, err)
}

func (d *directory) Get(_ context.Context, name string) (io.ReadCloser, error) {
	f, err := d.fs.Open(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s in %s", ErrNotExist, name, d.dir)
	}
	if err != nil {
		return nil, d.explain(err)
	}
	return f, nil
}

func (d *directory) Stat(_ context.Context, name string) (ObjectInfo, error) {
	info, err := d.fs.Stat(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return ObjectInfo{}, fmt.Errorf("%w: %s in %s", ErrNotExist, name, d.dir)
	}
	if err != nil {
		return ObjectInfo{}, d.explain(err)
	}
	return ObjectInfo{Name: name, Size: info.Size(), Modified: info.ModTime()}, nil
}

func (d *directory) List(ctx context.Context) (objects []ObjectInfo, err error) {
	err = d.walk(func(info ObjectInfo) error {
		if !strings.HasPrefix(info.Name, partPrefix) {
			objects = append(objects, info)
		}
		return context.Cause(ctx)
	})
	return objects, err
}

// walk calls fn for the files of the directory; one that goes away meanwhile is left out.
func (d *directory) walk(fn func(ObjectInfo) error) error {
	entries, err := d.fs.ReadDir(d.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return d.explain(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return d.explain(err)
		}
		if err := fn(ObjectInfo{Name: e.Name(), Size: info.Size(), Modified: info.ModTime()}); err != nil {
			return err
		}
	}
	return nil
}

func (d *directory) Delete(_ context.Context, name string) error {
	err := d.fs.Remove(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return d.explain(err)
	}
	return d.fs.SyncDir(d.dir)
}

func (d *directory) Sweep(ctx context.Context, before time.Time) error {
	return d.walk(func(info ObjectInfo) error {
		if !strings.HasPrefix(info.Name, partPrefix) || !info.Modified.Before(before) {
			return nil
		}
		return errors.Join(d.Delete(ctx, info.Name), context.Cause(ctx))
	})
}

// contextWriter ends a long write when its context does.
type contextWriter struct {
	ctx context.Context
	io.Writer
}

func (w *contextWriter) Write(p []byte) (int, error) {
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}

// contextReader ends a long read when its context does.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
