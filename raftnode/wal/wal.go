package wal

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/walpb"
)

// flushBytes is how much Append buffers before it writes whole pages ahead of Sync, and how much buffer is kept.
const flushBytes = 4 << 20

// Options change a log's ways; the zero value is right for a server.
type Options struct {
	// SegmentBytes starts a new segment; 0 means DefaultSegmentBytes.
	SegmentBytes int64
	// KeepSegments is how many segments Release leaves in any case.
	KeepSegments int
	// NoSync skips every sync: for throwaway data only.
	NoSync bool
	// OnWrite and OnSync are told about each write and sync; may be nil. They run on the caller of Sync.
	OnWrite func(bytes int, d time.Duration)
	OnSync  func(d time.Duration)
	// OnCramped is told, once, when the next segment cannot be prepared, most likely for want of space: the current one
	// goes on growing for as long as it can. May be nil; runs on the caller of Sync.
	OnCramped func(error)
}

func (o Options) segmentBytes() int64 {
	if o.SegmentBytes > 0 {
		return o.SegmentBytes
	}
	return DefaultSegmentBytes
}

// WAL is an open log. One goroutine at a time may use it.
//
// Invariants: the file holds valid frames up to off and zeroes behind; enc.buf is what comes next; up to filled, which
// is never less than off, everything was written and not merely allocated; after any error that leaves the state of
// the file in doubt, err is set and every later call returns it.
type WAL struct {
	fs       vfs.FS
	dir      string
	options  Options
	metadata []byte // encoded

	segments []segment // in order; the last one is open
	file     vfs.File
	off      int64
	filled   int64
	enc      encoder

	// state is the last hard state appended, lastIndex the last entry's or snapshot's index.
	state     *raftpb.HardState
	lastIndex uint64

	// mustSync: what was appended since the last sync must be durable before raft may speak of it.
	mustSync bool
	// nonce of the marks, the same for as long as the log exists.
	nonce uint64
	// marked: a mark was written since the last sync.
	marked bool
	// cramped: the last attempt to start a new segment failed.
	cramped bool
	err     error

	prep *preparer
	size atomic.Int64
}

// Recovered is what a log held when it was opened.
type Recovered struct {
	Metadata *walpb.Metadata
	// HardState is never nil; it is empty in a log that raft has not written to.
	HardState *raftpb.HardState
	// Entries behind Snapshot, in order and without gaps.
	Entries []*raftpb.Entry
	// Snapshot is the newest snapshot record that the hard state's commit index covers.
	Snapshot *walpb.Snapshot
	// Repaired says in prose what was cut off a torn tail; empty if nothing was.
	Repaired string
}

// Append buffers a snapshot record, entries and a hard state, in this order, any of which may be absent. It keeps no
// reference to them. What does not fit the buffer is written early.
func (w *WAL) Append(hs *raftpb.HardState, ents []*raftpb.Entry, snap *walpb.Snapshot) error {
	if w.err != nil {
		return w.err
	}
	w.mark()
	if snap != nil {
		b, err := snap.MarshalVT()
		if err != nil {
			return err
		}
		w.enc.record(TypeSnapshot, b, nil)
		w.lastIndex = max(w.lastIndex, snap.GetIndex())
		w.mustSync = true
	}
	for _, e := range ents {
		w.enc.entry(e)
		w.lastIndex = e.GetIndex()
		w.mustSync = true
		if len(w.enc.buf) >= flushBytes {
			if err := w.flushPages(); err != nil {
				return err
			}
		}
	}
	if !raft.IsEmptyHardState(hs) {
		w.enc.state(hs)
		// A commit index alone may be lost: raft finds it again.
		w.mustSync = w.mustSync || hs.GetTerm() != w.state.GetTerm() || hs.GetVote() != w.state.GetVote()
		w.state = &raftpb.HardState{Term: new(hs.GetTerm()), Vote: new(hs.GetVote()), Commit: new(hs.GetCommit())}
	}
	return nil
}

// mark writes the record by which recovery knows that everything before it had been synced.
func (w *WAL) mark() {
	if !w.marked {
		w.enc.mark(w.nonce, w.off+int64(len(w.enc.buf)))
		w.marked = true
	}
}

// Flush hands everything appended to the operating system, so that it survives the end of this process.
func (w *WAL) Flush() error {
	if w.err != nil {
		return w.err
	}
	return w.write(len(w.enc.buf))
}

// flushPages writes up to the last page boundary, so that no page is written twice on the way to a sync.
func (w *WAL) flushPages() error {
	end := w.off + int64(len(w.enc.buf))
	return w.write(int(end - end%pageBytes - w.off))
}

func (w *WAL) write(n int) error {
	if n <= 0 {
		return nil
	}
	start := time.Now()
	if _, err := w.file.WriteAt(w.enc.buf[:n], w.off); err != nil {
		// What the write left of itself is no torn record that a restart would have to repair, with a copy of the
		// segment, on a disk that may be full.
		return w.fail(errors.Join(fmt.Errorf("wal: write: %w", err), w.file.Truncate(w.off)))
	}
	if w.options.OnWrite != nil {
		w.options.OnWrite(n, time.Since(start))
	}
	w.off += int64(n)
	w.size.Store(w.off)
	w.fillAhead()
	left := copy(w.enc.buf, w.enc.buf[n:])
	if cap(w.enc.buf) > 2*flushBytes {
		w.enc.buf = append(make([]byte, 0, flushBytes), w.enc.buf[:left]...)
	}
	w.enc.buf = w.enc.buf[:left]
	return nil
}

// Sync writes everything appended and, if there is more than a new commit index, makes it durable: one write and one
// fdatasync. A segment that is full is then left for the next one. An error is final, because after a failed sync
// nobody knows what is on the disk.
func (w *WAL) Sync() error {
	if err := w.Flush(); err != nil {
		return err
	}
	if !w.mustSync {
		return nil
	}
	if err := w.datasync(); err != nil {
		return err
	}
	if w.off < w.options.segmentBytes() {
		return nil
	}
	return w.cut()
}

func (w *WAL) datasync() error {
	start := time.Now()
	if !w.options.NoSync {
		if err := w.file.Datasync(); err != nil {
			return w.fail(fmt.Errorf("wal: sync: %w", err))
		}
	}
	w.mustSync, w.marked = false, false
	if w.options.OnSync != nil {
		w.options.OnSync(time.Since(start))
	}
	return nil
}

// cut starts the next segment: its head is durable under a temporary name before the rename makes it part of the log.
func (w *WAL) cut() error {
	ready, err := w.prep.take()
	if err != nil {
		// The next Sync asks again.
		if !w.cramped && w.options.OnCramped != nil {
			w.options.OnCramped(err)
		}
		w.cramped = true
		return nil
	}
	w.cramped = false
	next := segment{seq: w.segments[len(w.segments)-1].seq + 1, first: w.lastIndex + 1}
	w.enc.buf = w.enc.buf[:0]
	w.appendHead()
	file := ready.file
	n, err := file.WriteAt(w.enc.buf, 0)
	if err == nil && !w.options.NoSync {
		err = file.Datasync()
	}
	if err == nil {
		err = w.fs.Rename(ready.path, filepath.Join(w.dir, next.name()))
	}
	if err == nil {
		err = w.fs.SyncDir(w.dir)
	}
	if err != nil {
		return w.fail(errors.Join(fmt.Errorf("wal: start segment %s: %w", next.name(), err), file.Close()))
	}
	err = w.file.Close()
	w.enc.buf = w.enc.buf[:0]
	w.file, w.off, w.filled = file, int64(n), max(ready.filled, int64(n))
	w.segments = append(w.segments, next)
	// The head's own crc record has done the marking: nothing unsynced comes before what follows.
	w.marked = false
	if err != nil {
		return w.fail(fmt.Errorf("wal: close a full segment: %w", err))
	}
	return nil
}

// appendHead buffers what every segment starts with.
func (w *WAL) appendHead() {
	w.enc.crcRecord()
	w.enc.record(TypeMetadata, w.metadata, nil)
	if !raft.IsEmptyHardState(w.state) {
		w.enc.state(w.state)
	}
}

// Release deletes the segments that hold only entries up to index, oldest first. The segment that was current at
// index stays, so that a snapshot record at index finds its place in the log.
func (w *WAL) Release(index uint64) error {
	if w.err != nil {
		return w.err
	}
	n := 0
	for n+max(1, w.options.KeepSegments) < len(w.segments) && w.segments[n+1].first <= index {
		n++
	}
	for i := range n {
		// From the oldest on: a crash in between leaves no gap.
		if err := w.fs.Remove(filepath.Join(w.dir, w.segments[i].name())); err != nil {
			w.segments = w.segments[i:]
			return fmt.Errorf("wal: release: %w", err)
		}
	}
	w.segments = w.segments[n:]
	return nil
}

// Segments is how many files the log consists of, and Offset how much of the last one is used, in bytes.
func (w *WAL) Segments() int { return len(w.segments) }

// Offset may be called at any time.
func (w *WAL) Offset() int64 { return w.size.Load() }

// fail makes an error final.
func (w *WAL) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return w.err
}

// Close makes everything appended durable and closes the log.
func (w *WAL) Close() error {
	if errors.Is(w.err, ErrClosed) {
		return nil
	}
	var err error
	if w.err == nil {
		if err = w.Flush(); err == nil && w.marked {
			err = w.datasync()
		}
	}
	w.prep.close()
	err = errors.Join(err, w.file.Close())
	w.err = ErrClosed
	return err
}
