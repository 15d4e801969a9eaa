package cluster

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Watcher is one watch stream with one watcher. It exists because the watcher of etcd's Go client (up to 3.7) waits on
// a channel that lives outside any bubble, and so keeps virtual time from moving on.
type Watcher struct {
	stream pb.Watch_WatchClient
	cancel context.CancelFunc
}

// Watch starts a watcher on the member and returns once it is created.
func (m *Member) Watch(request *pb.WatchCreateRequest) *Watcher {
	m.cluster.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m.cluster.t.Cleanup(cancel)
	stream, err := pb.NewWatchClient(m.Client().ActiveConnection()).Watch(ctx)
	if err != nil {
		m.cluster.t.Fatalf("watch on %s: %v", m.Name, err)
	}
	w := &Watcher{stream: stream, cancel: cancel}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}})
	if err != nil {
		m.cluster.t.Fatalf("watch on %s: %v", m.Name, err)
	}
	created, err := w.Next()
	if err != nil || !created.Created || created.Canceled {
		m.cluster.t.Fatalf("watch on %s: %v, %v", m.Name, created, err)
	}
	return w
}

// Next waits for the next response.
func (w *Watcher) Next() (*pb.WatchResponse, error) { return w.stream.Recv() }

// Close ends the stream.
func (w *Watcher) Close() { w.cancel() }
