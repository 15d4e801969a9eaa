package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

// sectorBytes divides the size of every database.
const sectorBytes = 512

var (
	// ErrMissingHash is returned for a file without trailer. The text is etcdutl's.
	ErrMissingHash = errors.New("snapshot missing hash but --skip-hash-check=false")
	// ErrHashMismatch is the class of errors about a file that is not what its trailer says.
	ErrHashMismatch = errors.New("snapshot does not match its hash")
)

// hashMismatch carries etcdutl's text.
type hashMismatch struct{ expected, got []byte }

func (e *hashMismatch) Error() string {
	return fmt.Sprintf("expected sha256 %v, got %v", e.expected, e.got)
}

func (e *hashMismatch) Is(target error) bool { return target == ErrHashMismatch }

// hasTrailer tells by its size whether a file ends with a hash.
func hasTrailer(size int64) bool { return size%sectorBytes == sha256.Size }

// Verify reads a snapshot file and compares it with its trailer: ErrMissingHash, ErrHashMismatch.
func Verify(ctx context.Context, path string) error {
	f, err := vfs.OS{}.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file (mode %s)", path, info.Mode())
	}
	if !hasTrailer(info.Size()) {
		return ErrMissingHash
	}
	var t trailerHash
	t.init()
	if _, err := io.Copy(&t, &contextReader{ctx, f}); err != nil {
		return err
	}
	return t.check()
}

// trailerHash is fed a snapshot file and hashes all but the last 32 bytes, which it keeps.
type trailerHash struct {
	hash hash.Hash
	tail []byte
	size int64
}

func (t *trailerHash) init() { t.hash, t.tail = sha256.New(), make([]byte, 0, 2*sha256.Size) }

func (t *trailerHash) Write(p []byte) (int, error) {
	t.size += int64(len(p))
	if len(p) >= sha256.Size {
		t.hash.Write(t.tail)
		t.hash.Write(p[:len(p)-sha256.Size])
		t.tail = append(t.tail[:0], p[len(p)-sha256.Size:]...)
		return len(p), nil
	}
	t.tail = append(t.tail, p...)
	if extra := len(t.tail) - sha256.Size; extra > 0 {
		t.hash.Write(t.tail[:extra])
		t.tail = append(t.tail[:0], t.tail[extra:]...)
	}
	return len(p), nil
}

func (t *trailerHash) check() error {
	if !hasTrailer(t.size) {
		return ErrMissingHash
	}
	if got := t.hash.Sum(nil); string(got) != string(t.tail) {
		return &hashMismatch{expected: t.tail, got: got}
	}
	return nil
}

// contextReader ends a long copy when its context does.
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
