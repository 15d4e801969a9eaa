package backend

import "sync/atomic"

// readState is where readers look: what is in the file, then what is being
// committed, then what is open. It is replaced as a whole.
type readState struct {
	gen        *generation
	committing *run // nil if none
	open       *run
}

// View is the state at one moment: everything in the file, in the batch being
// committed and in the open one. It may be used from several goroutines, costs
// nobody but the disk (pages it can see are not reused while it lives), and
// must be closed.
type View struct {
	b          *Backend
	gen        *generation // nil if the backend is closed
	committing rows
	open       rows
	closed     atomic.Bool
}

// View never waits. After Close of the backend it returns a view that finds
// nothing and whose Err is ErrClosed.
func (b *Backend) View() *View {
	for {
		s := b.state.Load()
		if s == nil {
			return &View{b: b}
		}
		// A generation can only be gone if state has moved on.
		if s.gen.tryRef() {
			b.views.Add(1)
			return &View{b: b, gen: s.gen, committing: s.committing.rows(), open: s.open.rows()}
		}
	}
}

// Err is ErrClosed if the view was taken after the backend was closed.
func (v *View) Err() error {
	if v.gen == nil {
		return ErrClosed
	}
	return nil
}

// Close releases the view. What Get and Scan returned is invalid from now on.
func (v *View) Close() {
	if v.closed.Swap(true) {
		panic("backend: View closed twice")
	}
	if v.gen != nil {
		v.b.views.Add(-1)
		v.gen.unref()
	}
}

func (v *View) mustBeOpen() {
	if v.closed.Load() {
		panic("backend: View used after Close")
	}
}

// Get returns the value of a revision key of bucket Key, nil if there is none.
// The bytes are valid until Close and must not be changed.
func (v *View) Get(key []byte) []byte {
	v.mustBeOpen()
	if v.gen == nil {
		return nil
	}
	if main, sub, ok := parseRevision(key); ok {
		if value, found := v.open.get(main, sub, key); found {
			return value
		}
		if value, found := v.committing.get(main, sub, key); found {
			return value
		}
	}
	return v.gen.get(key)
}

// Scan calls fn for the keys of bucket Key in [start,end) in ascending order; a
// nil end means to the last. Keys and values are valid until Close. An error of
// fn ends the scan and is returned.
func (v *View) Scan(start, end []byte, fn func(k, v []byte) error) error {
	v.mustBeOpen()
	if v.gen == nil {
		return ErrClosed
	}
	if err := v.gen.scan(Key, start, end, fn); err != nil {
		return err
	}
	if err := v.committing.scan(start, end, fn); err != nil {
		return err
	}
	return v.open.scan(start, end, fn)
}

// ScanBucket is Scan for any bucket, but of what is committed to the file: for
// more, Flush before taking the view.
func (v *View) ScanBucket(bucket Bucket, start, end []byte, fn func(k, v []byte) error) error {
	v.mustBeOpen()
	if v.gen == nil {
		return ErrClosed
	}
	return v.gen.scan(bucket, start, end, fn)
}

// Applied is the applied index and term of the part of the view that is in the
// file.
func (v *View) Applied() (index, term uint64) {
	if v.gen == nil {
		return 0, 0
	}
	return v.gen.index, v.gen.term
}

// pin opens a private read transaction on what is committed now, for long
// readers. The caller drops it with unref.
func (b *Backend) pin() (*generation, error) {
	for {
		s := b.state.Load()
		if s == nil {
			return nil, ErrClosed
		}
		if s.gen.tryRef() {
			g, err := newGeneration(s.gen.handle)
			s.gen.unref()
			return g, err
		}
	}
}
