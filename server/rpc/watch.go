package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/mvcc/watch"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// noWatchID stands in answers that belong to no watcher.
const noWatchID int64 = -1

// watchService serves watch streams.
type watchService struct {
	pb.UnimplementedWatchServer
	service
}

// watchStream is one client stream. Two goroutines serve it: the handler's own sends what the watchers have to say, the
// other one reads requests. Requests are answered through the watchers' queue, so that answers and events keep their
// order; but a refused watcher has no place in that queue, and its answer is sent by hand.
type watchStream struct {
	*watchService
	grpc     grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]
	watchers *watch.Stream
	// created counts the watchers made so far. Used by the reading goroutine alone.
	created int

	mu struct {
		sync.Mutex
		// announced counts the watchers that the client was told of.
		announced int
		// refusals wait for the answers to the requests before them.
		refusals []refusal
	}
}

// refusal answers a create request that came after so many successful ones, and goes out after their answers: clients
// match answers to requests by their order.
type refusal struct {
	after    int
	response *pb.WatchResponse
}

func (s *watchService) Watch(stream grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	w := &watchStream{watchService: s, grpc: stream, watchers: s.Watches.NewStream()}
	defer w.watchers.Close()
	// Recv cannot be interrupted, so this goroutine outlives a handler that returns for a reason of its own, by as long as
	// gRPC takes to end the stream.
	go func() {
		if err := w.readRequests(); err != nil {
			cancel(err)
		}
	}()
	err := w.sendResponses(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// readRequests returns nil when the client has no more to ask. That does not end its watchers: tools such as grpcurl send
// their one request, close their side, and listen.
func (w *watchStream) readRequests() error {
	for {
		request, err := w.grpc.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			w.failed("receive", "watch", err)
			return err
		}
		switch r := request.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			err = w.create(r.CreateRequest)
		case *pb.WatchRequest_CancelRequest:
			w.watchers.Cancel(r.CancelRequest.GetWatchId()) // silence if there is no such watcher
		case *pb.WatchRequest_ProgressRequest:
			w.watchers.RequestProgress()
		}
		// Anything else is from the future: ignored.
		if err != nil {
			return err
		}
	}
}

func (w *watchStream) create(r *pb.WatchCreateRequest) error {
	if r == nil {
		return nil
	}
	opt := watch.CreateOptions{
		ID: r.WatchId, Key: r.Key, End: r.RangeEnd, StartRev: r.StartRevision,
		PrevKV: r.PrevKv, ProgressNotify: r.ProgressNotify, Fragment: r.Fragment,
	}
	for _, filter := range r.Filters {
		switch filter {
		case pb.WatchCreateRequest_NOPUT:
			opt.NoPut = true
		case pb.WatchCreateRequest_NODELETE:
			opt.NoDelete = true
		}
	}
	err := w.mayWatch(r)
	if err == nil {
		_, _, err = w.watchers.Create(opt)
	}
	switch {
	case err == nil:
		w.created++
		return nil
	case errors.Is(err, watch.ErrClosed):
		return err
	}
	return w.refuse(&pb.WatchResponse{
		Header: w.Headers.Header(), WatchId: noWatchID, Created: true, Canceled: true, CancelReason: refusalText(err),
	})
}

// mayWatch refuses a range of which the caller may not read every key, as it is when the watch is created: what is revoked
// later does not end it. A request that makes no sense is refused for that, as in etcd.
func (w *watchStream) mayWatch(r *pb.WatchCreateRequest) error {
	allowed, err := w.access(w.grpc.Context())
	switch {
	case r.StartRevision < 0 || (err == nil && allowed.auth == nil):
		return nil
	case err == nil:
		key := r.Key
		if len(key) == 0 {
			key = []byte{0}
		}
		err = allowed.read(key, r.RangeEnd)
	}
	if err != nil {
		return notAllowed{err}
	}
	return nil
}

// notAllowed is a refusal for who asks, and not for what was asked.
type notAllowed struct{ error }

// refusalText is the reason why there is no watcher, in the words that clients look for.
func refusalText(err error) string {
	var denied notAllowed
	switch {
	case errors.Is(err, watch.ErrCompacted):
		return textPrefix + watch.ErrCompacted.Error()
	case errors.As(err, &denied):
		return Status(denied.error).Error()
	}
	return err.Error()
}

// refuse sends response once all watchers made before it are announced.
func (w *watchStream) refuse(response *pb.WatchResponse) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.announced < w.created {
		w.mu.refusals = append(w.mu.refusals, refusal{after: w.created, response: response})
		return nil
	}
	return w.sendLocked(response)
}

func (w *watchStream) sendResponses(ctx context.Context) error {
	for {
		r, err := w.watchers.Next(ctx)
		if err != nil {
			return err
		}
		if err := w.send(&r); err != nil {
			return err
		}
	}
}

func (w *watchStream) send(r *watch.Response) error {
	response := &pb.WatchResponse{
		Header: w.header(&pb.ResponseHeader{Revision: r.Rev}), WatchId: r.WatchID,
		Created: r.Created, Canceled: r.Canceled, CompactRevision: r.CompactRev, Events: r.Events,
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Fragment && len(r.Events) > 1 {
		return w.sendFragmentsLocked(response)
	}
	if err := w.sendLocked(response); err != nil || !r.Created {
		return err
	}
	w.mu.announced++
	for len(w.mu.refusals) > 0 && w.mu.refusals[0].after <= w.mu.announced {
		if err := w.sendLocked(w.mu.refusals[0].response); err != nil {
			return err
		}
		w.mu.refusals = w.mu.refusals[1:]
	}
	return nil
}

// sendFragmentsLocked sends a response whose watcher allows it to be split: in one piece if it is small, else in pieces
// below the message limit, as far as single events allow, all flagged but the last.
func (w *watchStream) sendFragmentsLocked(response *pb.WatchResponse) error {
	limit := w.opts.MaxRequestBytes + grpcOverheadBytes
	if response.SizeVT() < limit {
		return w.sendLocked(response)
	}
	events := response.Events
	response.Events = nil
	response.Fragment = true
	empty := response.SizeVT()
	for len(events) > 0 {
		n := fitting(events, limit-empty)
		piece := &pb.WatchResponse{
			Header: response.Header, WatchId: response.WatchId, Events: events[:n], Fragment: n < len(events),
		}
		if err := w.sendLocked(piece); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// fitting returns how many of the events, at least one, take less than limit bytes in a message.
func fitting(events []*mvccpb.Event, limit int) int {
	total := 0
	for i, event := range events {
		size := event.SizeVT()
		total += 1 + varintLen(size) + size
		if total >= limit && i > 0 {
			return i
		}
	}
	return len(events)
}

// varintLen is the number of bytes in which a protobuf message tells a length.
func varintLen(n int) int {
	length := 1
	for ; n >= 0x80; n >>= 7 {
		length++
	}
	return length
}

func (w *watchStream) sendLocked(response *pb.WatchResponse) error {
	if w.Observer.WatchSent == nil {
		return w.sendCounted(response)
	}
	kind := WatchEvents
	switch {
	case response.Created || response.Canceled:
		kind = WatchControl
	case len(response.Events) == 0:
		kind = WatchProgress
	}
	events := len(response.Events)
	from := time.Now()
	err := w.sendCounted(response)
	w.Observer.WatchSent(kind, events, time.Since(from))
	return err
}

func (w *watchStream) sendCounted(response *pb.WatchResponse) error {
	err := w.grpc.Send(response)
	if err != nil {
		w.failed("send", "watch", err)
	}
	return err
}
