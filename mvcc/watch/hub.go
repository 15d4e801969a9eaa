package watch

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

var (
	// ErrEmptyRange: the range end is not above the key.
	ErrEmptyRange = errors.New("mvcc: watcher range is empty")
	// ErrDuplicateID: the wanted watch id is in use on this stream.
	ErrDuplicateID = errors.New("mvcc: duplicate watch ID provided on the WatchStream")
	// ErrCompacted: a negative start revision, which no store ever had. A start revision that was compacted is no error of
	// Create: the watcher is created, and then cancelled.
	ErrCompacted = errors.New("mvcc: required revision has been compacted")
	// ErrClosed: the stream or the hub is closed.
	ErrClosed = errors.New("watch: stream closed")
)

// Store is the history that watchers catch up from. All methods may be called at once with each other and with writes.
type Store interface {
	// Revision is the newest revision that can be read.
	Revision() int64
	// CompactRevision is the lowest revision whose history is complete; negative before the first compaction.
	CompactRevision() int64
	// Events calls fn for each revision that changed something, from the revision from on, with all its events, in order;
	// for at most maxRevs revisions. The events are the callee's to keep, shared and unchanged. It returns the revision to
	// go on from, which is Revision()+1 at the end. An error of fn ends it and is returned.
	Events(from int64, maxRevs int, fn func(rev int64, events []*mvccpb.Event) error) (next int64, err error)
	// PrevKV is the pair of the key as of revision rev; nil where there was none or it is compacted. The callee may keep it.
	PrevKV(key []byte, rev int64) *mvccpb.KeyValue
}

// Config sets a hub's limits. The zero value of a field means the default in brackets.
type Config struct {
	Logger *zap.Logger
	// ProgressInterval is the time between progress notifications of an idle watcher that asked for them, plus up to a
	// tenth at random [10m; at least 100ms].
	ProgressInterval time.Duration
	// QueueEntries and QueueBytes bound what waits on one stream for its client [1024, plus two for each watcher; 1 MiB].
	// A stream takes one more entry as long as it is below both.
	QueueEntries, QueueBytes int
	// FeedCommits and FeedBytes bound what Notify leaves for the dispatcher [16384, 32 MiB].
	FeedCommits, FeedBytes int
	// CatchUpRevisions and CatchUpBytes bound one read of history, and so one catch-up response [1000, 1 MiB].
	CatchUpRevisions, CatchUpBytes int
}

func (c Config) withDefaults() Config {
	set := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.ProgressInterval <= 0 {
		c.ProgressInterval = 10 * time.Minute
	}
	c.ProgressInterval = max(c.ProgressInterval, 100*time.Millisecond)
	set(&c.QueueEntries, 1024)
	set(&c.QueueBytes, 1<<20)
	set(&c.FeedCommits, 16384)
	set(&c.FeedBytes, 32<<20)
	set(&c.CatchUpRevisions, 1000)
	set(&c.CatchUpBytes, 1<<20)
	return c
}

// Hub connects one store with all its watchers.
//
// Lock order: Hub.mu, then feed.mu or one Stream.mu. Notify takes only feed.mu, Next mostly only Stream.mu.
//
// Invariants under mu:
//   - dispatched only grows, and is at most the store's revision;
//   - every commit above dispatched is in the feed or will be notified, as long as there is a watcher;
//   - a synced watcher is in index, a catching up one in lagging, none in both.
type Hub struct {
	cfg   Config
	store Store

	live atomic.Int64 // watchers; Notify does nothing while there are none
	feed feed

	mu         sync.Mutex
	index      *index                // of synced watchers
	lagging    map[*watcher]struct{} // catching up
	streams    map[*Stream]struct{}
	dispatched int64  // synced watchers have been given everything up to here
	seq, turn  uint64 // last given to a new watcher; round of the catch-up goroutine
	awaiting   []*Stream
	matched    []*interest // scratch of the dispatcher
	closed     bool

	readRevs    int // how many revisions to ask the store for; of the catch-up goroutine alone
	catchUpWake chan struct{}
	stop        chan struct{}
	wg          sync.WaitGroup // dispatcher and catch-up goroutine

	slow, events, pending atomic.Int64
}

// NewHub starts the hub's two goroutines; Close joins them.
func NewHub(store Store, cfg Config) *Hub {
	h := &Hub{
		cfg:         cfg.withDefaults(),
		store:       store,
		index:       newIndex(),
		lagging:     make(map[*watcher]struct{}),
		streams:     make(map[*Stream]struct{}),
		catchUpWake: make(chan struct{}, 1),
		stop:        make(chan struct{}),
	}
	h.readRevs = h.cfg.CatchUpRevisions
	h.feed.init(h.cfg.FeedCommits, h.cfg.FeedBytes)
	h.wg.Go(h.dispatchLoop)
	h.wg.Go(h.catchUpLoop)
	return h
}

// Close ends all streams and joins the hub's goroutines. Notify may still be called, to no effect.
func (h *Hub) Close() {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return
	}
	h.closed = true
	for s := range h.streams {
		s.closeLocked()
	}
	h.mu.Unlock()
	close(h.stop)
	h.wg.Wait()
}

// Notify tells of one committed revision and its events, which all carry it as their mod revision. It is called by the
// apply goroutine, in revision order, after the store shows the revision. The events are shared from here on: nobody
// may change them.
func (h *Hub) Notify(rev int64, events []*mvccpb.Event) {
	// A watcher that comes to live after this load sees a store that shows rev, and so starts above it or reads history.
	if len(events) == 0 || h.live.Load() == 0 {
		return
	}
	h.feed.push(commit{rev: rev, batch: newBatch(events)})
}

// Reset makes all watchers go on from history, after the store's content was replaced by a newer one. It is called by
// the apply goroutine. Where a damaged store had counted further than the right one, watchers go on with what really has
// the revisions that they were told something else about.
func (h *Hub) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.feed.take(nil)
	rev := h.store.Revision()
	if rev < h.dispatched {
		for s := range h.streams {
			for _, w := range s.watchers {
				w.next = min(w.next, max(rev+1, w.startRev))
			}
		}
		h.dispatched = rev
	}
	h.skipLocked(rev)
	h.wakeCatchUp()
}

// Stats are the numbers of a hub at a moment.
type Stats struct {
	Streams, Watchers int64
	// Slow is the number of watchers that are catching up.
	Slow int64
	// Events is the number of events handed to clients so far, Pending of those waiting on streams.
	Events, Pending int64
}

// Stats returns the present numbers.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	streams := len(h.streams)
	h.mu.Unlock()
	return Stats{
		Streams:  int64(streams),
		Watchers: h.live.Load(),
		Slow:     h.slow.Load(),
		Events:   h.events.Load(),
		Pending:  h.pending.Load(),
	}
}
