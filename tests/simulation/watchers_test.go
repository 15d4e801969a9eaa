package simulation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// watcher follows all keys from the first revision on, through one member after the other. It must see every revision
// once, in order and whole, except for what was compacted before it came to it.
type watcher struct {
	t       *testing.T
	clients func() *clientv3.Client
	pause   time.Duration // between two attempts

	mu struct {
		sync.Mutex
		next   int64              // the first revision that it lacks
		events map[int64][]string // by revision, as "key=value"
		missed [][2]int64         // compacted: from and up to, without the last
	}
}

func newWatcher(t *testing.T, pause time.Duration, clients func() *clientv3.Client) *watcher {
	w := &watcher{t: t, clients: clients, pause: pause}
	w.mu.next, w.mu.events = 1, map[int64][]string{}
	return w
}

// run watches until the context ends.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		if client := w.clients(); client != nil {
			w.once(ctx, client)
		}
		select {
		case <-ctx.Done():
		case <-time.After(w.pause):
		}
	}
}

// once is one stream, until it breaks or brings nothing for a while.
func (w *watcher) once(ctx context.Context, client *clientv3.Client) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewWatchClient(client.ActiveConnection()).Watch(ctx)
	if err != nil {
		return
	}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: w.position(),
	}}})
	if err != nil {
		return
	}
	idle := time.AfterFunc(50*w.pause, cancel) // the member may be paused or cut off for long
	defer idle.Stop()
	for {
		resp, err := stream.Recv()
		if err != nil {
			return
		}
		if len(resp.Events) > 0 {
			idle.Reset(50 * w.pause)
		}
		if !w.take(resp) {
			return
		}
	}
}

func (w *watcher) position() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.next
}

// take notes what a response says, and tells whether the stream goes on.
func (w *watcher) take(resp *pb.WatchResponse) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at := resp.CompactRevision; at > w.mu.next {
		w.mu.missed = append(w.mu.missed, [2]int64{w.mu.next, at})
		w.mu.next = at
	}
	if resp.Canceled {
		return false
	}
	previous := int64(0) // revision of the event before, in this response
	for _, ev := range resp.Events {
		rev := ev.Kv.ModRevision
		if rev < w.mu.next || rev < previous {
			w.t.Errorf("a watcher that lacks revision %d and later is sent %s of revision %d", w.mu.next, ev.Kv.Key, rev)
			return false
		}
		previous = rev
		w.mu.events[rev] = append(w.mu.events[rev], fmt.Sprintf("%s=%s", ev.Kv.Key, ev.Kv.Value))
	}
	if previous > 0 {
		w.mu.next = previous + 1
	}
	return true
}

// saw tells whether the write was seen at its revision; what was compacted before need not be.
func (w *watcher) saw(at write) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.mu.missed {
		if m[0] <= at.revision && at.revision < m[1] {
			return true
		}
	}
	return slices.Contains(w.mu.events[at.revision], at.key+"="+at.value)
}

// startWatchers starts watchers that end with the run.
func (r *run) startWatchers(seed uint64, heartbeat time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	var joined sync.WaitGroup
	for i := range 2 {
		random := rand.New(rand.NewPCG(seed, uint64(100+i)))
		w := newWatcher(r.t, heartbeat, func() *clientv3.Client { return r.load.client(random) })
		r.watchers = append(r.watchers, w)
		joined.Go(func() { w.run(ctx) })
	}
	r.t.Cleanup(func() { cancel(); joined.Wait() })
}

// checkWatchers waits until the watchers have seen all there is, and compares that with what was acknowledged.
func (r *run) checkWatchers() {
	r.t.Helper()
	newest := r.load.newest().revision
	for i, w := range r.watchers {
		r.c.WaitFor(r.patience*2, fmt.Sprintf("watcher %d to see revision %d", i, newest), func() bool { return w.position() > newest })
		for _, at := range r.load.all() {
			if !w.saw(at) {
				r.t.Fatalf("watcher %d did not see %+v; at that revision it saw %q", i, at, w.mu.events[at.revision])
			}
			r.figures.checks++
		}
		r.figures.events += len(w.mu.events)
	}
}
