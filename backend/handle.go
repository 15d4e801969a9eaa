package backend

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// handle is an open bbolt file. The backend holds one reference on the current
// one and every generation holds one; whoever drops the last has the reaper
// close it. After a defragmentation the old file lives, unlinked, until its last
// view is closed.
type handle struct {
	db *bolt.DB
	// file is a descriptor of our own: to read through, and to shorten the file
	// with when it is closed.
	file   *os.File
	refs   atomic.Int64
	reaper *reaper
}

// newHandle owns db, also if it fails.
func newHandle(db *bolt.DB, r *reaper) (*handle, error) {
	file, err := os.OpenFile(db.Path(), os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	h := &handle{db: db, file: file, reaper: r}
	h.refs.Store(1)
	r.opened()
	return h, nil
}

func (h *handle) unref() {
	if h.refs.Add(-1) == 0 {
		h.reaper.add(h.close)
	}
}

// close closes the file. One that has no name any more is shortened bit by bit
// before, on a goroutine of its own, which the reaper waits for: to give back
// gigabytes in one go keeps the file system's journal busy, and the log's syncs
// wait for that.
func (h *handle) close() error {
	err := h.db.Close()
	info, statErr := h.file.Stat()
	stat, ok := (*syscall.Stat_t)(nil), false
	if statErr == nil {
		stat, ok = info.Sys().(*syscall.Stat_t)
	}
	if !ok || stat.Nlink > 0 || info.Size() <= shrinkBytes {
		err = errors.Join(err, statErr, h.file.Close())
		h.reaper.closed(nil)
		return err
	}
	go func() { h.reaper.closed(errors.Join(h.shrink(info.Size()), h.file.Close())) }()
	return err
}

const (
	shrinkBytes = 32 << 20
	shrinkPause = 20 * time.Millisecond
)

func (h *handle) shrink(size int64) error {
	for size > 0 {
		size = max(size-shrinkBytes, 0)
		if err := h.file.Truncate(size); err != nil {
			return err
		}
		h.reaper.pause(shrinkPause)
	}
	return nil
}

// generation is a read transaction shared by all views between two commits.
//
// Invariants: refs is at least 1 while the generation is the current one; once
// it has fallen to 0 it never rises again.
type generation struct {
	refs    atomic.Int64
	handle  *handle
	tx      *bolt.Tx
	buckets [bucketCount]*bolt.Bucket // Upkeep may be nil
	// cursors are kept for Get: a fresh one costs four allocations.
	cursors     sync.Pool
	index, term uint64 // applied position
}

// newGeneration opens a read transaction on what is committed now. The caller
// must hold a reference on the handle.
func newGeneration(h *handle) (*generation, error) {
	g, err := generationOf(h.db)
	if err != nil {
		return nil, err
	}
	g.handle = h
	h.refs.Add(1)
	return g, nil
}

// generationOf is one without a handle: whoever has the file open ends its
// transaction.
func generationOf(db *bolt.DB) (*generation, error) {
	tx, err := db.Begin(false)
	if err != nil {
		return nil, err
	}
	g := &generation{tx: tx}
	g.refs.Store(1)
	// Resolved here, once: looking a bucket up writes to a cache in the
	// transaction, reading from a resolved one does not.
	for b := range bucketCount {
		g.buckets[b] = tx.Bucket(b.bytes())
	}
	g.cursors.New = func() any { return g.buckets[Key].Cursor() }
	g.index = uint64Of(g.buckets[Meta], metaConsistentIndex)
	g.term = uint64Of(g.buckets[Meta], metaTerm)
	return g, nil
}

func uint64Of(b *bolt.Bucket, key string) uint64 {
	if b == nil {
		return 0
	}
	v := b.Get([]byte(key))
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

// lastRevision is the last in bucket Key, 0 if it is empty.
func (g *generation) lastRevision() (main, sub uint64) {
	k, _ := g.buckets[Key].Cursor().Last()
	main, sub, _ = parseRevision(k)
	return main, sub
}

// tryRef takes a reference unless the generation is already gone.
func (g *generation) tryRef() bool {
	for {
		n := g.refs.Load()
		if n <= 0 {
			return false
		}
		if g.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (g *generation) unref() {
	if g.refs.Add(-1) == 0 {
		g.handle.reaper.add(g.end)
	}
}

// unrefHere is unref for the committer, which may take bbolt's locks and wants
// the pages back before its next transaction.
func (g *generation) unrefHere() error {
	if g.refs.Add(-1) == 0 {
		return g.end()
	}
	return nil
}

func (g *generation) end() error {
	err := g.tx.Rollback()
	g.handle.unref()
	return err
}

// get reads bucket Key; nil if absent. The bytes are those of the file's map.
func (g *generation) get(key []byte) []byte {
	c := g.cursors.Get().(*bolt.Cursor)
	k, v := c.Seek(key)
	g.cursors.Put(c)
	if string(k) != string(key) {
		return nil
	}
	return v
}

func (g *generation) scan(bucket Bucket, start, end []byte, fn func(k, v []byte) error) error {
	return scanBolt(g.buckets[bucket], start, end, fn)
}

func scanBolt(b *bolt.Bucket, start, end []byte, fn func(k, v []byte) error) error {
	if b == nil {
		return nil
	}
	c := b.Cursor()
	for k, v := c.Seek(start); k != nil; k, v = c.Next() {
		if end != nil && string(k) >= string(end) {
			return nil
		}
		if err := fn(k, v); err != nil {
			return err
		}
	}
	return nil
}

// reaper closes transactions and files on its own goroutine, because that takes
// locks of bbolt that the committer may hold while it writes: a reader that is
// done must not wait for them.
type reaper struct {
	wake  chan struct{}
	done  chan struct{}
	hurry chan struct{} // closed with closing
	mu    struct {
		sync.Mutex
		queue   []func() error
		open    int // handles not yet closed
		closing bool
		err     error
	}
}

func newReaper() *reaper {
	return &reaper{wake: make(chan struct{}, 1), done: make(chan struct{}), hurry: make(chan struct{})}
}

func (r *reaper) opened() {
	r.mu.Lock()
	r.mu.open++
	r.mu.Unlock()
}

// closed is called once a handle is closed for good, from any goroutine.
func (r *reaper) closed(err error) {
	r.mu.Lock()
	r.mu.open--
	if err != nil {
		r.mu.err = err
	}
	r.mu.Unlock()
	r.kick()
}

// pause waits, unless the backend is being closed.
func (r *reaper) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.hurry:
	}
}

func (r *reaper) add(fn func() error) {
	r.mu.Lock()
	r.mu.queue = append(r.mu.queue, fn)
	r.mu.Unlock()
	r.kick()
}

func (r *reaper) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// close lets run return once the last handle is closed.
func (r *reaper) close() {
	r.mu.Lock()
	r.mu.closing = true
	r.mu.Unlock()
	close(r.hurry)
	r.kick()
}

func (r *reaper) run() {
	defer close(r.done)
	for {
		r.mu.Lock()
		queue := r.mu.queue
		r.mu.queue = nil
		finished := len(queue) == 0 && r.mu.closing && r.mu.open == 0
		r.mu.Unlock()
		if finished {
			return
		}
		if len(queue) == 0 {
			<-r.wake
			continue
		}
		for _, fn := range queue {
			if err := fn(); err != nil {
				r.mu.Lock()
				r.mu.err = err
				r.mu.Unlock()
			}
		}
	}
}
