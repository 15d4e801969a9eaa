package server

import (
	"context"
	"io"
	"time"
)

// snapshotBytesPerSecond paces a snapshot that is saved: whoever receives it writes it to a disk, often this one, and
// faster than this the log's syncs would wait behind it.
const snapshotBytesPerSecond = 64 << 20

// pacedWriter lets no more than rate bytes a second through, on average since its first write.
type pacedWriter struct {
	ctx     context.Context
	to      io.Writer
	rate    int64
	start   time.Time
	written int64
}

func (p *pacedWriter) Write(b []byte) (int, error) {
	if p.start.IsZero() {
		p.start = time.Now()
	}
	n, err := p.to.Write(b)
	p.written += int64(n)
	due := p.start.Add(time.Duration(float64(p.written) / float64(p.rate) * float64(time.Second)))
	if ahead := time.Until(due); err == nil && ahead > 0 && !pause(p.ctx, ahead) {
		err = p.ctx.Err()
	}
	return n, err
}
