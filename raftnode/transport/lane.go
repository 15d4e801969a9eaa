package transport

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/proto/peerpb"
)

// laneKind names a lane and bounds what may wait in it.
type laneKind struct {
	name        string
	maxMessages int
	maxBytes    int
}

var (
	controlLane = laneKind{name: "control", maxMessages: 4096, maxBytes: 8 << 20}
	bulkLane    = laneKind{name: "bulk", maxMessages: 4096, maxBytes: 64 << 20}
)

// batchBytes is where a batch ends, so that the receiver begins to work on the first entries while the rest is still
// on its way.
const batchBytes = 1 << 20

// lane is a bounded queue of messages to one peer and the goroutine that streams them.
type lane struct {
	peer *peer
	kind laneKind
	// wake has room for one token: there is something in mu to look at.
	wake chan struct{}

	mu struct {
		sync.Mutex
		// connected: the peer has accepted the stream. Nothing is queued while it has not.
		connected bool
		queue     []*raftpb.Message
		bytes     int
		// overflowed: messages were dropped since the goroutine last looked.
		overflowed bool
	}
}

func newLane(p *peer, kind laneKind) *lane {
	return &lane{peer: p, kind: kind, wake: make(chan struct{}, 1)}
}

// enqueue never waits. A message that does not fit, or has no stream to go to, is dropped; the goroutine reports it,
// because the caller may be the very loop that takes the reports.
func (l *lane) enqueue(m *raftpb.Message) {
	size := sizeOf(m)
	l.mu.Lock()
	switch {
	case !l.mu.connected:
		l.mu.Unlock()
		return
	case len(l.mu.queue) >= l.kind.maxMessages || l.mu.bytes > 0 && l.mu.bytes+size > l.kind.maxBytes:
		l.mu.overflowed = true
	default:
		l.mu.queue = append(l.mu.queue, m)
		l.mu.bytes += size
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// sizeOf is roughly what a message takes in memory and on the wire.
func sizeOf(m *raftpb.Message) int {
	size := 64 + len(m.Context)
	for _, e := range m.Entries {
		size += 24 + len(e.Data)
	}
	return size
}

// take moves up to batchBytes of messages into batch.
func (l *lane) take(batch []*raftpb.Message) (taken []*raftpb.Message, overflowed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	overflowed, l.mu.overflowed = l.mu.overflowed, false
	n, size := 0, 0
	for n < len(l.mu.queue) && size < batchBytes {
		size += sizeOf(l.mu.queue[n])
		n++
	}
	taken = append(batch[:0], l.mu.queue[:n]...)
	rest := copy(l.mu.queue, l.mu.queue[n:])
	clear(l.mu.queue[rest:])
	l.mu.queue = l.mu.queue[:rest]
	if l.mu.bytes -= size; rest == 0 {
		l.mu.bytes = 0
	}
	return taken, overflowed
}

func (l *lane) setConnected(connected bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.connected = connected
	clear(l.mu.queue)
	l.mu.queue, l.mu.bytes, l.mu.overflowed = l.mu.queue[:0], 0, false
}

// run keeps a stream open until the peer is closed.
func (l *lane) run() {
	pause := reconnectMin
	for l.peer.ctx.Err() == nil {
		accepted, err := l.stream()
		l.setConnected(false)
		if l.kind == controlLane {
			l.peer.becomeInactive(err)
		}
		if l.peer.ctx.Err() != nil {
			return
		}
		l.peer.transport.reportUnreachable(l.peer.id)
		if status.Code(err) == codes.FailedPrecondition {
			l.peer.refused(err)
			pause = reconnectMax
		}
		if accepted {
			pause = reconnectMin
		}
		select {
		case <-time.After(pause):
		case <-l.peer.ctx.Done():
		}
		pause = min(2*pause, reconnectMax)
	}
}

// stream opens one stream and feeds it until it breaks; the error says why. accepted tells whether the peer wanted it.
func (l *lane) stream() (accepted bool, err error) {
	ctx, cancel := context.WithCancel(l.peer.ctx)
	defer cancel()
	stream, err := l.peer.conn.NewStream(ctx, &peerpb.Peer_ServiceDesc.Streams[0], peerpb.Peer_Raft_FullMethodName,
		grpc.ForceCodecV2(codec{}))
	if err != nil {
		return false, err
	}
	hello := &outBatch{hello: l.peer.transport.hello(l.peer.id)}
	if err := stream.SendMsg(hello); err != nil {
		return false, endOf(stream, err)
	}
	// The peer sends its header when it has checked the hello, and a status if it refuses.
	header, err := stream.Header()
	if err != nil || header == nil {
		return false, endOf(stream, err)
	}
	l.setConnected(true)
	if l.kind == controlLane {
		l.peer.becomeActive()
	}
	done := make(chan struct{})
	var cause error
	go func() {
		defer close(done)
		cause = endOf(stream, nil)
	}()
	err = l.feed(stream, done)
	cancel()
	<-done
	if err == nil || err == io.EOF {
		err = cause // what RecvMsg says is why SendMsg could not go on
	}
	return true, err
}

// feed sends batches until the stream is done, and then returns nil or what SendMsg said.
func (l *lane) feed(stream grpc.ClientStream, done <-chan struct{}) error {
	var batch outBatch
	for {
		messages, overflowed := l.take(batch.messages)
		if overflowed {
			l.peer.transport.reportUnreachable(l.peer.id)
		}
		if len(messages) == 0 {
			select {
			case <-l.wake:
				continue
			case <-done:
				return nil
			}
		}
		batch.messages = messages
		if err := stream.SendMsg(&batch); err != nil {
			return err
		}
		l.peer.transport.config.Observer.Sent(l.peer.id, batch.bytes)
		clear(batch.messages)
	}
}

// endOf waits for the status that ends a stream.
func endOf(stream grpc.ClientStream, err error) error {
	if err != nil && err != io.EOF {
		return err
	}
	if err := stream.RecvMsg(new(peerpb.RaftClosed)); err != nil {
		return err
	}
	return errors.New("transport: peer ended the stream")
}
