package watch

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// StreamWide is the watch id of a response to RequestProgress.
const StreamWide int64 = -1

// maxControls bounds the created, canceled and progress responses that wait for a client. One that asks for more
// without reading waits.
const maxControls = 1 << 14

// Stream is the watchers of one client stream. Next is called by one goroutine, all else by any.
type Stream struct {
	hub  *Hub
	tick *time.Timer // of progress; used by Next alone

	// Guarded by Hub.mu.
	watchers    map[int64]*watcher
	nextID      int64
	lagging     int   // watchers that are catching up
	progressRev int64 // RequestProgress waits until this is dispatched; 0 for not
	closed      bool

	ready chan struct{} // holds a token while there may be something for Next

	mu        sync.Mutex // taken after Hub.mu
	room      sync.Cond  // controls fell below maxControls, or ended
	queue     ring
	bytes     int    // charged by entries in queue
	charged   *batch // the batch charged last: its other entries are free
	controls  int    // entries in queue that are not events
	watchable int    // number of watchers, for the limit
	parked    bool   // a watcher lags until there is room
	ended     bool
}

type kind uint8

const (
	kindEvents kind = iota
	kindCreated
	kindCanceled
	kindProgress
)

// entry is a response that waits in a stream's queue. Events are made out of their batch only when Next takes it.
type entry struct {
	kind       kind
	w          *watcher // nil: of the whole stream
	rev        int64
	compactRev int64
	batch      *batch
	lo, hi     int
	charge     int // bytes
}

// Response is one step of one watcher, or of the stream.
type Response struct {
	WatchID int64
	// Rev is for the header: the revision of the events; the store's at the time for created, progress, and events from
	// history; 0 where compaction ended the watcher.
	Rev int64
	// Events are shared with other streams and must not be changed. Neither must the slice.
	Events []*mvccpb.Event
	// Created comes first of a watcher, Canceled last. Neither has events.
	Created, Canceled bool
	// CompactRev, of a Canceled, is the revision that the watcher could start from again; 0 where the client cancelled.
	CompactRev int64
	// Fragment: the watcher allows that the response be split between events.
	Fragment bool
}

// Progress reports whether the response tells nothing but that all events up to Rev have been told.
func (r *Response) Progress() bool { return !r.Created && !r.Canceled && len(r.Events) == 0 }

// NewStream opens a stream; Close ends it.
func (h *Hub) NewStream() *Stream {
	s := &Stream{
		hub:      h,
		watchers: make(map[int64]*watcher),
		ready:    make(chan struct{}, 1),
	}
	s.room.L = &s.mu
	s.tick = time.NewTimer(s.tickAfter())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.streams[s] = struct{}{}
	if h.closed {
		s.closeLocked()
	}
	return s
}

// Close cancels all watchers and ends Next.
func (s *Stream) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.closeLocked()
}

func (s *Stream) closeLocked() {
	if s.closed {
		return
	}
	s.closed = true
	for _, w := range s.watchers {
		s.hub.becomeCancelledLocked(w)
	}
	delete(s.hub.streams, s)
	s.tick.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for e, ok := s.queue.pop(); ok; e, ok = s.queue.pop() {
		s.hub.pending.Add(int64(e.lo - e.hi))
	}
	s.charged = nil
	s.room.Broadcast()
	s.signal()
}

// Next blocks for the next response. ErrClosed, or ctx's error.
func (s *Stream) Next(ctx context.Context) (Response, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Response{}, err
		}
		select {
		case <-s.tick.C: // also while there is always something to send: other watchers may be idle
			s.progressTick()
		default:
		}
		e, ok, err := s.pop()
		if err != nil {
			return Response{}, err
		}
		if ok {
			if r, ok := s.response(e); ok {
				return r, nil
			}
			continue
		}
		select {
		case <-s.ready:
		case <-s.tick.C:
			s.progressTick()
		case <-ctx.Done():
		}
	}
}

// response completes what was left to the reader's goroutine: filters and previous pairs. False: nothing remains.
func (s *Stream) response(e entry) (Response, bool) {
	r := Response{WatchID: StreamWide, Rev: e.rev}
	if e.w != nil {
		r.WatchID, r.Fragment = e.w.id, e.w.fragment
	}
	switch e.kind {
	case kindCreated:
		r.Created = true
	case kindCanceled:
		r.Canceled, r.CompactRev = true, e.compactRev
	case kindProgress:
		return r, e.w == nil || !e.w.muted.Load()
	case kindEvents:
		if e.w.muted.Load() {
			return r, false
		}
		events := e.batch.events[e.lo:e.hi:e.hi]
		if e.w.prevKV {
			events = e.batch.withPrev(e.lo, e.hi, s.hub.store)
		}
		r.Events = filtered(events, e.w)
		s.hub.events.Add(int64(len(r.Events)))
		return r, len(r.Events) > 0
	}
	return r, true
}

// pushEvents queues events if there is room. Called under Hub.mu.
func (s *Stream) pushEvents(e entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return true
	}
	if s.fullLocked() {
		return false
	}
	if e.batch != s.charged {
		s.charged, e.charge = e.batch, e.batch.bytes
		s.bytes += e.charge
	}
	s.hub.pending.Add(int64(e.hi - e.lo))
	s.queue.push(e)
	s.signal()
	return true
}

// pushControl queues anything else, room or not. Called under Hub.mu.
func (s *Stream) pushControl(e entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.controls++
	s.queue.push(e)
	s.signal()
}

// hasRoomOrParks reports whether the stream takes more events. If not, it is parked: when it has emptied, Next wakes the
// catch-up goroutine.
func (s *Stream) hasRoomOrParks() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parked = s.parked || s.fullLocked()
	return !s.parked
}

func (s *Stream) fullLocked() bool {
	return s.queue.len() >= s.hub.cfg.QueueEntries+2*s.watchable || s.bytes >= s.hub.cfg.QueueBytes
}

func (s *Stream) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *Stream) pop() (e entry, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		s.signal() // for the next caller too
		return e, false, ErrClosed
	}
	e, ok = s.queue.pop()
	if !ok {
		return e, false, nil
	}
	if e.kind == kindEvents {
		s.bytes -= e.charge
		s.hub.pending.Add(int64(e.lo - e.hi))
	} else {
		s.controls--
		s.room.Signal()
	}
	if s.queue.len() == 0 {
		s.charged = nil // do not hold its memory
		s.queue.trim(64 + 4*s.watchable)
	}
	// Half empty, so that a slow reader gets history in few large pieces.
	if s.parked && s.queue.len() <= s.hub.cfg.QueueEntries/2 && s.bytes <= s.hub.cfg.QueueBytes/2 {
		s.parked = false
		s.hub.wakeCatchUp()
	}
	return e, true, nil
}

// waitForRoom holds a caller back whose client asks much and reads nothing.
func (s *Stream) waitForRoom() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.controls >= maxControls && !s.ended {
		s.room.Wait()
	}
}

func (s *Stream) tickAfter() time.Duration {
	d := s.hub.cfg.ProgressInterval
	return d + rand.N(d/10)
}
