package wal

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

// preparer keeps one segment allocated and filled ahead, so that starting a new one costs a rename. Names alternate
// between 0.tmp and 1.tmp, since the one taken last may still be in the middle of its rename.
type preparer struct {
	fs    vfs.FS
	dir   string
	bytes int64
	fill  bool

	ready chan prepared
	stop  chan struct{}
	done  sync.WaitGroup
}

type prepared struct {
	file   vfs.File
	path   string
	filled int64 // so far, zeroes are written
	err    error
}

// fillRest follows each piece that is filled, so that a segment takes a second or two and the log's syncs hardly feel it.
const fillRest = 10 * time.Millisecond

func startPreparer(fsys vfs.FS, dir string, options Options) *preparer {
	p := &preparer{
		fs: fsys, dir: dir, bytes: options.segmentBytes(), fill: !options.NoSync,
		ready: make(chan prepared), stop: make(chan struct{}),
	}
	p.done.Add(1)
	go p.run()
	return p
}

func (p *preparer) run() {
	defer p.done.Done()
	for n := 0; ; n++ {
		next := p.prepare(n % 2)
		if !p.offer(&next) {
			if next.err == nil {
				next.file.Close()
				p.fs.Remove(next.path)
			}
			return
		}
	}
}

// offer hands the segment over as soon as it is asked for, and fills it until then. After an error the next attempt
// starts when the next taker asks; a full disk may have room by then. It returns false if nobody will ask any more.
func (p *preparer) offer(next *prepared) bool {
	timer := time.NewTimer(fillRest)
	defer timer.Stop()
	for {
		rest := timer.C
		if next.err != nil || !p.fill || next.filled == p.bytes {
			rest = nil
		}
		select {
		case p.ready <- *next:
			return true
		case <-p.stop:
			return false
		case <-rest:
			next.fillMore(p.fs, p.bytes)
			timer.Reset(fillRest)
		}
	}
}

// fillMore fills one piece. What cannot be filled cannot be used.
func (n *prepared) fillMore(fsys vfs.FS, size int64) {
	end := min(n.filled+fillBytes, size)
	err := fill(n.file, n.filled, end)
	if err == nil {
		err = n.file.Datasync()
	}
	if err != nil {
		n.err = errors.Join(err, n.file.Close(), fsys.Remove(n.path))
		return
	}
	n.filled = end
}

func (p *preparer) prepare(n int) prepared {
	path := filepath.Join(p.dir, fmt.Sprintf("%d%s", n, tempSuffix))
	f, err := p.fs.Create(path)
	if err != nil {
		return prepared{err: err}
	}
	err = f.Preallocate(p.bytes)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return prepared{err: errors.Join(err, f.Close(), p.fs.Remove(path))}
	}
	return prepared{file: f, path: path}
}

// take waits for the prepared segment, which is the caller's from then on.
func (p *preparer) take() (prepared, error) {
	next := <-p.ready
	if next.err != nil {
		return prepared{}, fmt.Errorf("wal: prepare the next segment: %w", next.err)
	}
	return next, nil
}

// close joins the goroutine and removes what it prepared.
func (p *preparer) close() {
	close(p.stop)
	p.done.Wait()
}
