package wal

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

// preparer keeps one segment allocated ahead, so that starting a new one costs a rename. Names alternate between 0.tmp
// and 1.tmp, since the one taken last may still be in the middle of its rename.
type preparer struct {
	fs    vfs.FS
	dir   string
	bytes int64

	ready chan prepared
	stop  chan struct{}
	done  sync.WaitGroup
}

type prepared struct {
	file vfs.File
	path string
	err  error
}

func startPreparer(fsys vfs.FS, dir string, bytes int64) *preparer {
	p := &preparer{fs: fsys, dir: dir, bytes: bytes, ready: make(chan prepared), stop: make(chan struct{})}
	p.done.Add(1)
	go p.run()
	return p
}

func (p *preparer) run() {
	defer p.done.Done()
	for n := 0; ; n++ {
		next := p.prepare(n % 2)
		select {
		case p.ready <- next:
			// After an error the next attempt starts when the next taker asks; a full disk may have room by then.
		case <-p.stop:
			if next.err == nil {
				next.file.Close()
				p.fs.Remove(next.path)
			}
			return
		}
	}
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
func (p *preparer) take() (vfs.File, string, error) {
	next := <-p.ready
	if next.err != nil {
		return nil, "", fmt.Errorf("wal: prepare the next segment: %w", next.err)
	}
	return next.file, next.path, nil
}

// close joins the goroutine and removes what it prepared.
func (p *preparer) close() {
	close(p.stop)
	p.done.Wait()
}
