package differential

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"
)

// watching is an open watch stream and all that it has said, by watch ID.
type watching struct {
	stream pb.Watch_WatchClient
	cancel context.CancelFunc
	ended  chan struct{} // the stream is over, and heard complete
	change chan struct{} // holds one when something was heard since it was read last

	mu       sync.Mutex
	heard    map[int64][]string
	created  int // answers to create requests, be it that they are refused
	canceled int
	progress int64 // revision up to which all was said, by the last answer to a question for progress
	live     map[int64]bool
	// mute: the stream does not say how far it is, since a watcher was ended by a compaction (etcd answers no question for
	// progress from then on) or waits for a revision to come.
	mute bool
	err  error
}

// watch returns the stream of that number, opened in the name of the step's user if there is none yet.
func (s *side) watch(st step) (*watching, error) {
	if w := s.streams[st.stream]; w != nil {
		return w, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	if token := s.tokens[st.user]; token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "token", token)
	}
	stream, err := pb.NewWatchClient(s.conns[st.member]).Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	w := &watching{stream: stream, cancel: cancel, ended: make(chan struct{}), change: make(chan struct{}, 1),
		heard: map[int64][]string{}, live: map[int64]bool{}}
	s.streams[st.stream] = w
	go w.listen()
	return w, nil
}

func (w *watching) listen() {
	defer close(w.ended)
	for {
		resp, err := w.stream.Recv()
		w.mu.Lock()
		if err != nil {
			w.err = err
			w.mu.Unlock()
			return
		}
		w.take(resp)
		w.mu.Unlock()
		select {
		case w.change <- struct{}{}:
		default:
		}
	}
}

// take notes what resp says. How events are spread over answers, and the revision of the header that comes with them,
// is up to the server.
func (w *watching) take(resp *pb.WatchResponse) {
	forget(resp.ProtoReflect())
	say := func(format string, args ...any) {
		w.heard[resp.WatchId] = append(w.heard[resp.WatchId], fmt.Sprintf(format, args...))
	}
	if resp.Created {
		w.created++
		say("created at %d", resp.Header.Revision)
		if !resp.Canceled {
			w.live[resp.WatchId] = true
		}
	}
	for _, e := range resp.Events {
		say("%v %q=%q create %d mod %d version %d lease %d, was %v", e.Type, e.Kv.Key, e.Kv.Value, e.Kv.CreateRevision,
			e.Kv.ModRevision, e.Kv.Version, e.Kv.Lease, e.PrevKv)
	}
	if resp.Canceled {
		w.canceled++
		delete(w.live, resp.WatchId)
		w.mute = w.mute || resp.CompactRevision > 0
		say("canceled %q, compacted %d", resp.CancelReason, resp.CompactRevision)
	}
	if !resp.Created && !resp.Canceled && len(resp.Events) == 0 && resp.WatchId == -1 {
		w.progress = max(w.progress, resp.Header.Revision)
	}
}

// until waits for a condition on what was heard; it holds the lock. It returns at once when the stream is over.
func (w *watching) until(limit time.Duration, condition func() bool) bool {
	timeout := time.After(limit)
	for {
		w.mu.Lock()
		met := condition()
		w.mu.Unlock()
		if met {
			return true
		}
		select {
		case <-w.change:
		case <-w.ended:
			w.mu.Lock()
			defer w.mu.Unlock()
			return condition()
		case <-timeout:
			return false
		}
	}
}

// request sends r and waits for the answer to it, if there is to be one.
func (w *watching) request(r *pb.WatchRequest) error {
	w.mu.Lock()
	created, canceled := w.created, w.canceled
	waits := func() bool { return true }
	if c := r.GetCancelRequest(); c != nil && w.live[c.WatchId] {
		waits = func() bool { return w.canceled > canceled }
	}
	if r.GetCreateRequest() != nil {
		waits = func() bool { return w.created > created || w.canceled > canceled }
	}
	w.mu.Unlock()
	if err := w.stream.Send(r); err != nil {
		return nil // over; why is heard by the listener
	}
	if !w.until(patience, waits) {
		select {
		case <-w.ended:
		default:
			return fmt.Errorf("no answer to a watch request in %v", patience)
		}
	}
	return nil
}

// ahead makes the stream mute if yes.
func (w *watching) ahead(yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute = w.mute || yes
}

func (w *watching) isMute() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mute
}

// settle waits until everything up to revision was said: a server answers the question for progress only then.
func (w *watching) settle(revision int64) error {
	for end := time.Now().Add(patience); ; {
		w.mu.Lock()
		watched := len(w.live)
		if w.mute {
			watched = 0
		}
		w.mu.Unlock()
		if watched == 0 {
			return nil
		}
		ask := &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}
		if err := w.stream.Send(&pb.WatchRequest{RequestUnion: ask}); err != nil {
			return nil
		}
		if w.until(50*time.Millisecond, func() bool { return w.progress >= revision || w.mute }) {
			return nil
		}
		if time.Now().After(end) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return fmt.Errorf("a watch stream did not catch up with revision %d in %v: %v live, progress %d, %s", revision, patience, w.live, w.progress, lines(w.heard))
		}
	}
}

func (w *watching) close() {
	w.cancel()
	<-w.ended
}

// account returns all that was heard, and how the stream ended if it did.
func (w *watching) account() (heard map[int64][]string, end error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	heard = map[int64][]string{}
	for id, lines := range w.heard {
		heard[id] = lines[:len(lines):len(lines)]
	}
	return heard, w.err
}
