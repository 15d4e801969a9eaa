package linearizability

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// manualProgress is the watch id of an answer to a progress request. It is about all watches of the stream.
const manualProgress = -1

// session is one watch stream. It speaks the protocol itself: etcd's client hides responses, resumes by itself, and
// cannot run in a bubble.
type session struct {
	run     *Run
	stream  pb.Watch_WatchClient
	watches map[int64]*Watch // by the stream's id
	got     func(*Watch, Batch)
}

// open makes a stream with the given watches and waits until all are created.
func (r *Run) open(ctx context.Context, client *clientv3.Client, watches ...*Watch) (*session, error) {
	stream, err := pb.NewWatchClient(client.ActiveConnection()).Watch(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{run: r, stream: stream, watches: map[int64]*Watch{}, got: func(*Watch, Batch) {}}
	for i, w := range watches {
		create := &pb.WatchCreateRequest{
			WatchId: int64(i + 1), Key: []byte(w.Key), StartRevision: w.Start, PrevKv: w.PrevKV, ProgressNotify: true,
		}
		if w.Key == "" {
			create.Key, create.RangeEnd = []byte{0}, []byte{0}
		}
		s.watches[create.WatchId] = r.rec.newWatch(w)
		if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// receive notes what comes until the stream or all its watches end.
func (s *session) receive() error {
	for len(s.watches) > 0 {
		resp, err := s.stream.Recv()
		if err != nil {
			return err
		}
		if resp.WatchId == manualProgress && !resp.Created && !resp.Canceled {
			for _, w := range s.watches {
				if w.Created != 0 { // it may have been created behind the moment that the answer is of
					s.note(w, Batch{Rev: resp.Header.Revision, Progress: true})
				}
			}
			continue
		}
		w := s.watches[resp.WatchId]
		if w == nil {
			return fmt.Errorf("a response for watch %d, which is not there", resp.WatchId)
		}
		if resp.Canceled {
			delete(s.watches, resp.WatchId)
		}
		switch {
		case resp.CompactRevision > 0:
			s.note(w, Batch{Rev: resp.Header.Revision, Compacted: resp.CompactRevision})
		case resp.Created:
			w.Created = resp.Header.Revision
		case !resp.Canceled:
			b := Batch{Rev: resp.Header.Revision, Progress: len(resp.Events) == 0}
			for _, ev := range resp.Events {
				b.Events = append(b.Events, event(ev))
			}
			s.note(w, b)
		}
	}
	return nil
}

func (s *session) note(w *Watch, b Batch) {
	s.run.rec.batch(w, b)
	s.got(w, b)
}

// askProgress asks for bookmarks now and then, until ctx ends.
func (s *session) askProgress(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		// The first at once: a watch that still catches up must not be given a bookmark.
		request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
		if s.stream.Send(request) != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func event(ev *mvccpb.Event) Event {
	out := Event{Delete: ev.Type == mvccpb.DELETE, KV: pair(ev.Kv)}
	if ev.PrevKv != nil {
		prev := pair(ev.PrevKv)
		out.Prev = &prev
	}
	return out
}

// collector watches all keys of one member from the first revision on. Its streams end again and again, and it goes on
// behind the last event or bookmark.
type collector struct {
	run      *Run
	endpoint int
	random   *rand.Rand
	next     atomic.Int64
}

func (c *collector) work(ctx context.Context) {
	for ctx.Err() == nil {
		c.session(ctx)
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

func (c *collector) session(ctx context.Context) {
	lifetime := 300*time.Millisecond + time.Duration(c.random.Int64N(int64(3*time.Second)))
	ctx, cancel := context.WithTimeout(ctx, lifetime)
	defer cancel()
	watch := &Watch{Watcher: "all of " + c.run.endpoints[c.endpoint].Name, Start: c.next.Load(), PrevKV: c.random.IntN(2) == 0}
	s, err := c.run.open(ctx, c.run.clients[c.endpoint], watch)
	if err != nil {
		return
	}
	s.got = func(_ *Watch, b Batch) {
		next := int64(0)
		if len(b.Events) > 0 {
			next = b.Events[len(b.Events)-1].KV.Mod + 1
		} else if b.Progress {
			next = b.Rev + 1
		}
		if next > c.next.Load() {
			c.next.Store(next)
			c.run.note(next - 1)
			select {
			case c.run.advanced <- struct{}{}:
			default:
			}
		}
	}
	progress := make(chan struct{})
	go func() {
		defer close(progress)
		s.askProgress(ctx, 100*time.Millisecond)
	}()
	_ = s.receive()
	cancel()
	<-progress
}

// taster makes streams with a few watches each, of single keys or all, from random revisions of the past, the present
// and the future.
type taster struct {
	run      *Run
	endpoint int
	random   *rand.Rand
}

func (t *taster) work(ctx context.Context) {
	for t.run.sleep(time.Duration(t.random.Int64N(int64(200 * time.Millisecond)))) {
		t.session(ctx)
	}
}

func (t *taster) session(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond+time.Duration(t.random.Int64N(int64(time.Second))))
	defer cancel()
	var watches []*Watch
	for i := range 1 + t.random.IntN(4) {
		w := &Watch{
			Watcher: fmt.Sprintf("taste %d of %s", i, t.run.endpoints[t.endpoint].Name), PrevKV: t.random.IntN(2) == 0,
		}
		if t.random.IntN(4) > 0 {
			w.Key = fmt.Sprintf("k%d", t.random.IntN(t.run.load.Keys))
		}
		if t.random.IntN(4) > 0 {
			w.Start = max(1, t.run.newest.Load()+50-t.random.Int64N(500))
		}
		watches = append(watches, w)
	}
	s, err := t.run.open(ctx, t.run.clients[t.endpoint], watches...)
	if err != nil {
		return
	}
	progress := make(chan struct{})
	go func() {
		defer close(progress)
		s.askProgress(ctx, 30*time.Millisecond)
	}()
	_ = s.receive()
	cancel()
	<-progress
}
