package backend

import "fmt"

// pending is one of the two batches of the pipeline.
//
// Invariants: run and ops are appended to by the apply goroutine only, while the
// batch is open; sealedRows and sealedOps never exceed their lengths and only
// what is below them is committed, so a transaction ends at a sealed entry.
type pending struct {
	run        *run
	ops        []Op
	sealedRows int
	sealedOps  int
	bytes      int64 // of keys and values, sealed or not
	sealedSize int64 // bytes at the last seal
	entries    int   // sealed
	index      uint64
	term       uint64
	// done is closed when the batch is durable or was dropped; err, set
	// before, says which.
	done     chan struct{}
	err      error
	finished bool
}

func newPending() *pending {
	return &pending{run: newRun(), done: make(chan struct{})}
}

func (p *pending) finishLocked(err error) {
	if !p.finished {
		p.finished, p.err = true, err
		close(p.done)
	}
}

// sealedCount is the number of operations; between entries that is all of them.
func (p *pending) sealedCount() int { return p.sealedRows + p.sealedOps }

// Batch takes the effects of one log entry, from Begin to Commit. It is used by
// the apply goroutine only, and not after Commit.
type Batch struct {
	p      *pipeline
	target *pending
	sealed bool
}

// Put sets a key of a small bucket; key and value belong to the batch from now
// on. Views do not see it until it is committed to the file.
func (t *Batch) Put(bucket Bucket, key, value []byte) {
	t.op(Op{Bucket: bucket, Key: key, Value: value})
}

// Delete removes a key of a small bucket. It takes ownership of key.
func (t *Batch) Delete(bucket Bucket, key []byte) {
	t.op(Op{Bucket: bucket, Key: key, Delete: true})
}

func (t *Batch) op(o Op) {
	t.mustBeOpen()
	if o.Bucket == Key || o.Bucket >= bucketCount || len(o.Key) == 0 {
		panic(fmt.Sprintf("backend: bad operation on bucket %d, key %q", o.Bucket, o.Key))
	}
	t.target.ops = append(t.target.ops, o)
	t.target.bytes += int64(o.bytes())
}

// Append adds a revision to bucket Key; key and value belong to the batch from
// now on. Views taken after the call see it. Keys must be revision keys in
// strictly ascending order over the life of the backend: anything else is a
// defect of the caller, and panics before it can reach the disk.
func (t *Batch) Append(key, value []byte) {
	t.mustBeOpen()
	main, sub, ok := parseRevision(key)
	last := &t.p.lastAppended
	if !ok || main < last.main || main == last.main && sub <= last.sub {
		panic(fmt.Sprintf("backend: revision key %x appended after %x_%x", key, last.main, last.sub))
	}
	last.main, last.sub = main, sub
	if value == nil {
		value = []byte{} // absent is nil; this key is there
	}
	t.target.run.append(main, sub, key, value)
	t.target.bytes += int64(len(key) + len(value))
}

// Commit seals the entry: its effects are committed together with all before
// them and with index and term as the applied position. Index 0 leaves the
// applied position as it is.
func (t *Batch) Commit(index, term uint64) {
	t.mustBeOpen()
	t.sealed = true
	t.p.seal(t.target, index, term)
}

func (t *Batch) mustBeOpen() {
	if t.sealed {
		panic("backend: batch used after Commit")
	}
}
