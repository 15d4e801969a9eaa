package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// windowBytes is how much one direction of a connection holds before writers wait, like a socket buffer.
const windowBytes = 256 << 10

// conn is one end of a connection: it reads from one half and writes to the other.
type conn struct {
	network       *Network
	in, out       *half
	local, remote Addr
	peer          *conn
	closed        bool
}

// half is one direction. Everything in it is guarded by the network's lock.
type half struct {
	network *Network
	link    *link
	changed sync.Cond
	queue   []segment
	queued  int // bytes in queue
	// finished: the writer has closed; readers get io.EOF behind the last byte.
	finished bool
	// finishedAt is when the end of the stream arrives at the reader.
	finishedAt time.Time
	// abandoned: the reader has closed; the writer learns of it if the way back is open.
	abandoned bool
	// reset: both ends fail at once.
	reset                       bool
	readDeadline, writeDeadline deadline
	arrival                     *time.Timer
}

// segment is what one Write left, to be delivered as a whole or in parts.
type segment struct {
	data      []byte
	arrivesAt time.Time
}

func newHalf(n *Network, l *link) *half {
	h := &half{network: n, link: l}
	h.changed.L = &n.mu
	return h
}

func (c *conn) Read(p []byte) (int, error) {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	h := c.in
	for {
		switch {
		case c.closed:
			return 0, c.fail("read", net.ErrClosed)
		case h.reset:
			return 0, c.fail("read", syscall.ECONNRESET)
		case h.readDeadline.passed():
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		}
		if n, eof := h.takeLocked(p); n > 0 {
			return n, nil
		} else if eof {
			return 0, io.EOF
		}
		h.changed.Wait()
	}
}

// takeLocked moves what has arrived into p.
func (h *half) takeLocked(p []byte) (n int, eof bool) {
	if h.network.cutLocked(h.link.from, h.link.to) {
		return 0, false
	}
	now := time.Now()
	for len(h.queue) > 0 && n < len(p) {
		head := &h.queue[0]
		if head.arrivesAt.After(now) {
			h.wakeAtLocked(head.arrivesAt.Sub(now))
			break
		}
		k := copy(p[n:], head.data)
		n += k
		h.queued -= k
		if head.data = head.data[k:]; len(head.data) == 0 {
			h.queue = h.queue[1:]
		}
	}
	if n > 0 {
		h.changed.Broadcast() // room for writers
		return n, false
	}
	if len(h.queue) == 0 && h.finished {
		if h.finishedAt.After(now) {
			h.wakeAtLocked(h.finishedAt.Sub(now))
			return 0, false
		}
		return 0, true
	}
	return 0, false
}

func (h *half) wakeAtLocked(d time.Duration) {
	if h.arrival != nil {
		h.arrival.Stop()
	}
	h.arrival = time.AfterFunc(d, h.wake)
}

func (h *half) wake() {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	h.changed.Broadcast()
}

func (c *conn) Write(p []byte) (int, error) {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	h := c.out
	written := 0
	for {
		switch {
		case c.closed:
			return written, c.fail("write", net.ErrClosed)
		case h.reset:
			return written, c.fail("write", syscall.ECONNRESET)
		case h.abandoned && c.in.finishedAt.After(time.Now()):
			return len(p), nil // the answer to it, a reset, cannot have come back yet
		case h.abandoned && !c.network.cutLocked(h.link.to, h.link.from):
			// A reset ends reading too, and at once. Were what is still under way waited for, a caller that tries again
			// and again without waiting, as gRPC's client does, would keep virtual time from ever bringing it.
			c.in.reset, c.in.queue = true, nil
			c.in.changed.Broadcast()
			return written, c.fail("write", syscall.EPIPE)
		case h.writeDeadline.passed():
			return written, c.fail("write", os.ErrDeadlineExceeded)
		case written == len(p):
			return written, nil
		}
		if room := windowBytes - h.queued; room > 0 {
			k := min(room, len(p)-written)
			h.appendLocked(append([]byte(nil), p[written:written+k]...))
			written += k
			continue
		}
		h.changed.Wait()
	}
}

func (h *half) appendLocked(data []byte) {
	h.queue = append(h.queue, segment{data: data, arrivesAt: h.arrivalLocked()})
	h.queued += len(data)
	h.changed.Broadcast()
}

// arrivalLocked is when something written now arrives. It may be before what was written earlier: then it waits behind
// that in the queue.
func (h *half) arrivalLocked() time.Time {
	at := time.Now().Add(h.link.delay)
	if h.link.jitter > 0 {
		at = at.Add(time.Duration(h.network.rand.Int64N(int64(h.link.jitter))))
	}
	return at
}

// Close ends both directions. The other end reads what was written before, then io.EOF.
func (c *conn) Close() error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.closed = true
	c.out.finished, c.out.finishedAt = true, c.out.arrivalLocked()
	c.in.abandoned = true
	c.in.queue, c.in.queued = nil, 0
	c.endLocked()
	return nil
}

func (c *conn) resetLocked() {
	c.in.reset, c.out.reset = true, true
	c.in.queue, c.out.queue = nil, nil
	c.endLocked()
}

// endLocked wakes both ends and forgets the connection once neither end needs faults to be told to it.
func (c *conn) endLocked() {
	if c.in.reset || c.closed && c.peer.closed {
		delete(c.network.conns, c)
		delete(c.network.conns, c.peer)
		for _, h := range []*half{c.in, c.out} {
			h.stopLocked()
		}
	}
	c.in.changed.Broadcast()
	c.out.changed.Broadcast()
}

func (h *half) stopLocked() {
	h.readDeadline.stop()
	h.writeDeadline.stop()
	if h.arrival != nil {
		h.arrival.Stop()
	}
}

func (c *conn) fail(op string, err error) error {
	return opError(op, c.local, c.remote, err)
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	return c.setLocked(&c.in.readDeadline, c.in, t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	return c.setLocked(&c.out.writeDeadline, c.out, t)
}

func (c *conn) setLocked(d *deadline, h *half, t time.Time) error {
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	d.stop()
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), h.wake)
	}
	h.changed.Broadcast()
	return nil
}

// deadline is a point in time with the timer that wakes whoever waits for it.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
