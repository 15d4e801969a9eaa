package backend

import (
	"context"
	"io"
	"sync"
)

// Snapshot is an image of the file at one moment: a consistent bbolt database.
// While it is open, pages it needs are not reused, so the file may grow.
type Snapshot struct {
	b    *Backend
	gen  *generation
	once sync.Once
}

// Snapshot flushes and pins the state. It must be closed; Close of the backend
// waits for it.
func (b *Backend) Snapshot(ctx context.Context) (*Snapshot, error) {
	if err := b.Flush(ctx); err != nil {
		return nil, err
	}
	g, err := b.pin()
	if err != nil {
		return nil, err
	}
	b.views.Add(1)
	return &Snapshot{b: b, gen: g}, nil
}

// Size is the number of bytes that WriteTo writes.
func (s *Snapshot) Size() int64 { return s.gen.tx.Size() }

// Applied is the applied position that the image holds.
func (s *Snapshot) Applied() (index, term uint64) { return s.gen.index, s.gen.term }

// WriteTo writes the image. It reads through the file, not the map, so that the
// kernel reads ahead. It may be called again.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) { return s.gen.tx.WriteTo(w) }

// Scan reads a bucket of the image; see View.Scan.
func (s *Snapshot) Scan(bucket Bucket, start, end []byte, fn func(k, v []byte) error) error {
	return s.gen.scan(bucket, start, end, fn)
}

// Close releases the image. Closing twice is harmless.
func (s *Snapshot) Close() error {
	s.once.Do(func() {
		s.b.views.Add(-1)
		s.gen.unref()
	})
	return nil
}
