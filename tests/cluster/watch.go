package cluster

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Watcher is one watch stream with one watcher. It exists because the watcher of etcd's Go client (up to 3.7) waits on
// a channel that lives outside any bubble, and so keeps virtual time from moving on.
type Watcher struct {
	stream   pb.Watch_WatchClient
	cancel   context.CancelFunc
	patience time.Duration
}

// Watch starts a watcher on the member and returns once it is created. Give StartRevision for a watcher of the past; one
// that is compacted is told so by the first response.
func (m *Member) Watch(request *pb.WatchCreateRequest) *Watcher {
	m.cluster.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m.cluster.t.Cleanup(cancel)
	stream, err := pb.NewWatchClient(m.Client().ActiveConnection()).Watch(ctx)
	if err != nil {
		m.cluster.t.Fatalf("cluster: watch on %s: %v", m.Name, err)
	}
	w := &Watcher{stream: stream, cancel: cancel, patience: m.cluster.options.patience}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}})
	if err != nil {
		m.cluster.t.Fatalf("cluster: watch on %s: %v", m.Name, err)
	}
	created, err := w.Next()
	if err != nil || !created.Created || created.Canceled {
		m.cluster.t.Fatalf("cluster: watch on %s: %v, %v", m.Name, created, err)
	}
	return w
}

// Next waits for the next response, but not for ever: nothing for 30 s of the test's time ends the stream with an error.
func (w *Watcher) Next() (*pb.WatchResponse, error) { return w.NextWithin(w.patience) }

// NextWithin is Next with its own patience.
func (w *Watcher) NextWithin(patience time.Duration) (*pb.WatchResponse, error) {
	timer := time.AfterFunc(patience, w.cancel)
	resp, err := w.stream.Recv()
	if !timer.Stop() && err != nil {
		return nil, fmt.Errorf("cluster: the watcher got nothing within %v: %w", patience, err)
	}
	return resp, err
}

// Progress asks the server how far the watcher is; the answer is one of the next responses.
func (w *Watcher) Progress() error {
	return w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

// Close ends the stream.
func (w *Watcher) Close() { w.cancel() }
