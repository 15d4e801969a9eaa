package rpc

import (
	"context"
	"sync"
	"time"

	"github.com/upkeep-kv/upkeep/raftnode"
)

// cutAfterTimeouts is how many election timeouts in a row without a leader cut the streams that require one.
const cutAfterTimeouts = 3

// leaderWatch cuts require-leader streams when the cluster has been without a leader for long. One goroutine does it for
// all streams of a server; it runs while there are any, and the last one to leave joins it.
type leaderWatch struct {
	hasLeader       func() bool
	electionTimeout time.Duration

	mu struct {
		sync.Mutex
		streams map[*context.CancelCauseFunc]struct{}
		stop    chan struct{} // closed to end the goroutine; nil while none runs
		done    chan struct{} // closed when the goroutine has ended
	}
}

func newLeaderWatch(hasLeader func() bool, electionTimeout time.Duration) *leaderWatch {
	w := &leaderWatch{hasLeader: hasLeader, electionTimeout: electionTimeout}
	w.mu.streams = make(map[*context.CancelCauseFunc]struct{})
	return w
}

// join returns a context that is cancelled with raftnode.ErrNoLeader when the leader is lost for long, and what to call when the
// stream ends.
func (w *leaderWatch) join(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.streams[&cancel] = struct{}{}
	if w.mu.stop == nil {
		w.mu.stop, w.mu.done = make(chan struct{}), make(chan struct{})
		go w.run(w.mu.stop, w.mu.done)
	}
	return ctx, func() { w.leave(&cancel) }
}

func (w *leaderWatch) leave(cancel *context.CancelCauseFunc) {
	(*cancel)(nil)
	w.mu.Lock()
	delete(w.mu.streams, cancel)
	if len(w.mu.streams) > 0 {
		w.mu.Unlock()
		return
	}
	stop, done := w.mu.stop, w.mu.done
	w.mu.stop, w.mu.done = nil, nil
	w.mu.Unlock()
	close(stop)
	<-done
}

func (w *leaderWatch) run(stop, done chan struct{}) {
	defer close(done)
	ticker := time.NewTicker(w.electionTimeout)
	defer ticker.Stop()
	for missed := 0; ; {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		if w.hasLeader() {
			missed = 0
			continue
		}
		if missed++; missed >= cutAfterTimeouts {
			w.cut()
		}
	}
}

func (w *leaderWatch) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for cancel := range w.mu.streams {
		(*cancel)(raftnode.ErrNoLeader)
	}
}
