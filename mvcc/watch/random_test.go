package watch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// TestRandomConsistency runs writers, compactions, resets and clients that read fast, slowly, cancel, and come back on
// new streams to go on where they were, and holds every response against the whole history: each watcher is told of
// every event of its keys, in order, once, never half of a revision, with the right previous pairs; what a progress
// says is true; and a watcher is only given up if a compaction really overtook it.
func TestRandomConsistency(t *testing.T) {
	seeds := uint64(40)
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runRandom(t, seed) })
		})
	}
}

func runRandom(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	store := newFakeStore()
	hub := NewHub(store, Config{
		QueueEntries: 1 + rng.IntN(20), FeedCommits: 1 + rng.IntN(40), CatchUpRevisions: 1 + rng.IntN(30),
		ProgressInterval: 100 * time.Millisecond,
	})
	const writes = 1500
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var all []*randomClient
	for i := range 12 {
		c := &randomClient{
			t: t, hub: hub, store: store, rng: rand.New(rand.NewPCG(seed, uint64(100+i))), speed: time.Duration(i%4) * time.Millisecond,
		}
		all = append(all, c)
		clients.Go(func() { c.run(ctx) })
	}
	// Between commit and Notify time passes, and any goroutine may run.
	for range writes {
		rev, events := store.commit(randomOps(rng)...)
		if rng.IntN(4) == 0 {
			time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
		}
		hub.Notify(rev, events)
		switch rng.IntN(100) {
		case 0:
			store.Compact(rev - rng.Int64N(60))
		case 1:
			hub.Reset()
		case 2:
			time.Sleep(10 * time.Millisecond)
		}
		if err := hub.valid(); err != nil {
			t.Error(err)
		}
	}
	time.Sleep(time.Minute) // the slowest client has read all
	stop()
	clients.Wait()
	for i, c := range all {
		for id, r := range c.readers {
			if miss := store.expected(r.span, r.opt.NoPut, r.opt.NoDelete, r.next, store.Revision()); len(miss) > 0 {
				t.Errorf("client %d watcher %d stopped at %d: missing %d events from %s", i, id, r.next, len(miss), eventString(miss[0]))
			}
		}
	}
	hub.Close()
	if s := hub.Stats(); s.Streams != 0 || s.Watchers != 0 || s.Pending != 0 || s.Slow != 0 || s.Events == 0 {
		t.Errorf("after Close: %+v", s)
	}
}

func randomOps(rng *rand.Rand) []op {
	ops := make([]op, 0, 4)
	for _, k := range rng.Perm(8)[:1+rng.IntN(4)*rng.IntN(2)] {
		ops = append(ops, op{key: string(rune('a' + k)), value: fmt.Sprint(rng.IntN(1000)), del: rng.IntN(4) == 0})
	}
	return ops
}

// randomClient is one client with its present stream.
type randomClient struct {
	t       *testing.T
	hub     *Hub
	store   *fakeStore
	rng     *rand.Rand
	speed   time.Duration // pause between responses
	stream  *Stream
	readers map[int64]*reader
	behind  []*reader // to go on with
}

// reader is what a client knows of one watcher.
type reader struct {
	opt     CreateOptions
	span    span
	next    int64 // all before was told
	created bool
	gone    bool // cancelled by the client
}

func (c *randomClient) run(ctx context.Context) {
	c.connect()
	defer func() { c.stream.Close() }()
	for ctx.Err() == nil {
		if c.rng.IntN(200) == 0 {
			c.stream.Close()
			if _, err := c.stream.Next(ctx); !errors.Is(err, ErrClosed) {
				c.t.Errorf("Next on a closed stream: %v", err)
			}
			for _, r := range c.readers {
				c.behind = append(c.behind, r)
			}
			c.connect()
		}
		c.act()
		r, err := c.stream.Next(ctx)
		if err != nil {
			return // ctx has ended
		}
		c.read(&r)
		if c.speed > 0 {
			time.Sleep(time.Duration(c.rng.Int64N(int64(2 * c.speed))))
		}
	}
}

// connect opens a stream and goes on with what the last one had.
func (c *randomClient) connect() {
	c.stream = c.hub.NewStream()
	c.readers = make(map[int64]*reader)
	behind := c.behind
	c.behind = nil
	for _, r := range behind {
		if !r.gone {
			r.opt.StartRev, r.opt.ID = r.next, 0
			c.create(r.opt)
		}
	}
}

// act creates or cancels a watcher, or asks for progress.
func (c *randomClient) act() {
	switch n := c.rng.IntN(40); {
	case len(c.readers) == 0 || n == 0 && len(c.readers) < 6:
		c.create(c.randomOptions())
	case n == 1:
		for id, r := range c.readers {
			if !r.gone {
				r.gone = c.stream.Cancel(id) // false: ended by compaction, which it has not heard of yet
			}
			break
		}
	case n < 5:
		c.stream.RequestProgress()
	}
}

func (c *randomClient) randomOptions() CreateOptions {
	key := func() []byte { return []byte{byte('a' + c.rng.IntN(8))} }
	opt := CreateOptions{
		Key: key(), PrevKV: c.rng.IntN(2) == 0, NoPut: c.rng.IntN(6) == 0, NoDelete: c.rng.IntN(6) == 0,
		ProgressNotify: c.rng.IntN(2) == 0,
	}
	switch c.rng.IntN(3) {
	case 0:
		opt.End = key()
	case 1:
		opt.End = []byte{0}
	}
	if c.rng.IntN(2) == 0 {
		opt.StartRev = max(1, c.store.Revision()-50+c.rng.Int64N(60))
	}
	return opt
}

func (c *randomClient) create(opt CreateOptions) {
	sp, err := newSpan(opt.Key, opt.End)
	id, rev, err2 := c.stream.Create(opt)
	if !errors.Is(err2, err) {
		c.t.Errorf("create %q %q: %v, want %v", opt.Key, opt.End, err2, err)
	}
	if err2 != nil {
		return
	}
	next := opt.StartRev
	if next == 0 {
		next = rev + 1
	}
	c.readers[id] = &reader{opt: opt, span: sp, next: next}
}

// read holds one response against history.
func (c *randomClient) read(resp *Response) {
	if resp.WatchID == StreamWide {
		for id, r := range c.readers {
			if !r.gone && r.created {
				c.told(id, r, resp.Rev, "stream progress")
			}
		}
		return
	}
	r := c.readers[resp.WatchID]
	switch {
	case r == nil:
		c.t.Errorf("response of unknown watcher %d", resp.WatchID)
	case resp.Created:
		if r.created {
			c.t.Errorf("watcher %d was created twice", resp.WatchID)
		}
		r.created = true
	case !r.created:
		c.t.Errorf("watcher %d is told something before it is created", resp.WatchID)
	case resp.Canceled:
		c.canceled(resp, r)
	case r.gone:
		c.t.Errorf("watcher %d is told something after it was cancelled: %s", resp.WatchID, responseString(resp))
	case resp.Progress():
		c.told(resp.WatchID, r, resp.Rev, "progress")
	default:
		c.events(resp, r)
	}
}

func (c *randomClient) canceled(resp *Response, r *reader) {
	delete(c.readers, resp.WatchID)
	switch {
	case resp.CompactRev == 0 && !r.gone:
		c.t.Errorf("watcher %d was cancelled, and nobody asked for it", resp.WatchID)
	case resp.CompactRev != 0 && (resp.CompactRev <= r.next || resp.Rev != 0):
		c.t.Errorf("watcher %d at %d was cancelled for the compaction of %d, header %d", resp.WatchID, r.next, resp.CompactRev, resp.Rev)
	case resp.CompactRev != 0 && !r.gone:
		r.opt.StartRev, r.opt.ID = resp.CompactRev, 0
		c.create(r.opt)
	}
}

// told checks that there was nothing to tell up to rev that was not told.
func (c *randomClient) told(id int64, r *reader, rev int64, what string) {
	if rev < r.next-1 {
		c.t.Errorf("%s of watcher %d at %d says %d", what, id, r.next, rev)
	}
	if miss := c.store.expected(r.span, r.opt.NoPut, r.opt.NoDelete, r.next, rev); len(miss) > 0 {
		c.t.Errorf("%s of watcher %d says %d, but it was not told of %s", what, id, rev, eventString(miss[0]))
	}
	r.next = rev + 1
}

func (c *randomClient) events(resp *Response, r *reader) {
	last := resp.Events[len(resp.Events)-1].Kv.ModRevision
	want := c.store.expected(r.span, r.opt.NoPut, r.opt.NoDelete, r.next, last)
	same := slices.EqualFunc(resp.Events, want, func(a, b *mvccpb.Event) bool { return a.Type == b.Type && a.Kv == b.Kv })
	if !same {
		c.t.Errorf("watcher %d at %d is told %s; want %d events from %d to %d", resp.WatchID, r.next, responseString(resp), len(want), r.next, last)
	}
	if resp.Rev < last || resp.Rev > c.store.Revision() {
		c.t.Errorf("watcher %d: header %d with events up to %d", resp.WatchID, resp.Rev, last)
	}
	r.next = last + 1
	for _, ev := range resp.Events {
		c.checkPrev(ev, r.opt.PrevKV)
	}
}

func (c *randomClient) checkPrev(ev *mvccpb.Event, wanted bool) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	prev := c.store.at(string(ev.Kv.Key), ev.Kv.ModRevision-1)
	compacted := ev.Kv.ModRevision-1 < c.store.compact
	if ev.PrevKv != prev && (wanted && !compacted || ev.PrevKv != nil) {
		c.t.Errorf("%s: previous %v, want %v", eventString(ev), ev.PrevKv, prev)
	}
}
