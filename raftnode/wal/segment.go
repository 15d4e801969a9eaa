package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

// DefaultSegmentBytes is the size at which etcd starts a new segment, and to which it preallocates.
const DefaultSegmentBytes = 64 * 1000 * 1000

const (
	segmentSuffix = ".wal"
	brokenSuffix  = ".broken"
	tempSuffix    = ".tmp"
)

// segment names one file of the log.
type segment struct {
	seq uint64
	// first is the lowest index that an entry in this segment had when the segment was started. Entries that
	// override older ones may have lower ones.
	first uint64
}

func (s segment) name() string { return fmt.Sprintf("%016x-%016x%s", s.seq, s.first, segmentSuffix) }

func parseSegment(name string) (segment, bool) {
	var s segment
	if len(name) != 33+len(segmentSuffix) || !strings.HasSuffix(name, segmentSuffix) {
		return s, false
	}
	if n, err := fmt.Sscanf(name, "%016x-%016x", &s.seq, &s.first); err != nil || n != 2 {
		return s, false
	}
	return s, s.name() == name
}

// Exists tells whether dir holds a log, which is what makes a member initialized.
func Exists(fsys vfs.FS, dir string) (bool, error) {
	segs, err := listSegments(fsys, dir)
	return len(segs) > 0, err
}

// listSegments returns the segments in order. A directory that is absent has none.
func listSegments(fsys vfs.FS, dir string) ([]segment, error) {
	files, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var segs []segment
	for _, f := range files {
		if s, ok := parseSegment(f.Name()); ok {
			segs = append(segs, s)
		}
	}
	for i := 1; i < len(segs); i++ {
		prev, next := segs[i-1], segs[i]
		if next.seq != prev.seq+1 {
			return nil, corrupt(filepath.Join(dir, next.name()), 0,
				"the segment before it is %s: segments %d to %d are missing", prev.name(), prev.seq+1, next.seq-1)
		}
	}
	return segs, nil
}

// readSegment reads a whole segment into buf, growing it if need be.
func readSegment(fsys vfs.FS, path string, buf []byte) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if int64(cap(buf)) < info.Size() {
		buf = make([]byte, info.Size())
	}
	buf = buf[:info.Size()]
	if _, err := io.ReadFull(f, buf); err != nil {
		return nil, fmt.Errorf("wal: read %s: %w", path, err)
	}
	return buf, nil
}

// removeTemps deletes segments that were prepared and never used.
func removeTemps(fsys vfs.FS, dir string) error {
	files, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), tempSuffix) && !f.IsDir() {
			if err := fsys.Remove(filepath.Join(dir, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
