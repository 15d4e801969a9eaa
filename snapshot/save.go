package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

// partSuffix marks a file that is being saved.
const partSuffix = ".part"

// ErrIncomplete is returned when a stream ended without the trailer that a snapshot must have.
var ErrIncomplete = errors.New("snapshot: stream ended before the snapshot was complete")

// Source yields a snapshot, trailer included, piece by piece, as the Snapshot call of Maintenance sends it.
type Source interface {
	// Next returns the next piece, valid until the next call, and how many bytes follow it; 0 if that is not known.
	// The error is io.EOF behind the last piece.
	Next() (piece []byte, remaining uint64, err error)
}

// SourceFunc makes a Source of a function, such as one around a gRPC stream's Recv.
type SourceFunc func() (piece []byte, remaining uint64, err error)

// Next implements Source.
func (f SourceFunc) Next() ([]byte, uint64, error) { return f() }

// FromReader is the Source of a reader that yields database and trailer, such as that of etcd's client.
func FromReader(r io.Reader) Source {
	buffer := make([]byte, 128<<10)
	return SourceFunc(func() ([]byte, uint64, error) {
		n, err := r.Read(buffer)
		if n > 0 {
			err = nil // if it lasts, the next call says so
		}
		return buffer[:n], 0, err
	})
}

// Image is a database as the server pins it, without trailer.
type Image interface {
	Size() int64
	io.WriterTo
}

// SaveOptions of Save and SaveImage.
type SaveOptions struct {
	// FS is where the file is saved; nil means the real disk.
	FS vfs.FS
	// Compress makes the file a zstd stream of what it would be otherwise. Save only.
	Compress bool
	// Progress, if set, is called after every piece; total is 0 while it is not known.
	Progress func(received, total int64)
}

func (o *SaveOptions) fill() {
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
}

// Saved describes a finished file.
type Saved struct {
	// Size of the file, trailer included, before it was compressed.
	Size   int64
	SHA256 [sha256.Size]byte // of the database, as in the trailer
}

// Save writes a snapshot to path. It is received into path.part, compared with its trailer, synced and renamed, so
// what stands at path is whole and durable. On an error nothing is left behind, and an older file at path stays.
// Errors: ErrIncomplete, ErrHashMismatch, those of the source, the disk and ctx.
func Save(ctx context.Context, source Source, path string, options SaveOptions) (Saved, error) {
	options.fill()
	var t trailerHash
	t.init()
	err := writePart(options.FS, path, func(f vfs.File) error {
		out, finish := io.Writer(f), func() error { return nil }
		if options.Compress {
			stream, err := compressor(f)
			if err != nil {
				return err
			}
			out, finish = stream, stream.Close
		}
		for {
			piece, remaining, err := source.Next()
			if err == nil {
				err = context.Cause(ctx)
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
			if _, err := out.Write(piece); err != nil {
				return err
			}
			t.Write(piece)
			total := int64(0)
			if remaining > 0 {
				total = t.size + int64(remaining)
			}
			options.Progress(t.size, total)
		}
		if err := t.check(); err == ErrMissingHash {
			return fmt.Errorf("%w: received %d bytes", ErrIncomplete, t.size)
		} else if err != nil {
			return err
		}
		return finish()
	})
	if err != nil {
		return Saved{}, err
	}
	return Saved{Size: t.size, SHA256: [sha256.Size]byte(t.tail)}, nil
}

// SaveImage is Save for a database that this process has pinned. It adds the trailer.
func SaveImage(ctx context.Context, image Image, path string, options SaveOptions) (Saved, error) {
	options.fill()
	var saved Saved
	err := writePart(options.FS, path, func(f vfs.File) error {
		w := &imageWriter{ctx: ctx, file: f, progress: options.Progress, total: image.Size() + sha256.Size}
		hash := sha256.New()
		if _, err := image.WriteTo(io.MultiWriter(w, hash)); err != nil {
			return err
		}
		if w.written != image.Size() {
			return fmt.Errorf("%w: %d of %d bytes", ErrIncomplete, w.written, image.Size())
		}
		hash.Sum(saved.SHA256[:0])
		_, err := w.Write(saved.SHA256[:])
		saved.Size = w.written
		return err
	})
	if err != nil {
		return Saved{}, err
	}
	return saved, nil
}

type imageWriter struct {
	ctx            context.Context
	file           vfs.File
	progress       func(int64, int64)
	written, total int64
}

func (w *imageWriter) Write(p []byte) (int, error) {
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	n, err := w.file.Write(p)
	w.written += int64(n)
	w.progress(w.written, w.total)
	return n, err
}

// writePart makes path appear with what fill writes, all or nothing.
func writePart(fs vfs.FS, path string, fill func(vfs.File) error) (err error) {
	part := path + partSuffix
	f, err := fs.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = fs.Rename(part, path)
	}
	if err != nil {
		return errors.Join(err, fs.RemoveAll(part))
	}
	return fs.SyncDir(filepath.Dir(path))
}
