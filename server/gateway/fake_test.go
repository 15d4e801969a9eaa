package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// member is a gRPC server that answers the little that the tests ask for.
type member struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	pb.UnimplementedMaintenanceServer

	blobs   []string // of a snapshot
	failure error    // after them

	mu    sync.Mutex
	calls []string // by full name
	token []string // of the last call
}

func (m *member) called(ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, _ := grpc.Method(ctx)
	md, _ := metadata.FromIncomingContext(ctx)
	m.calls, m.token = append(m.calls, name), md.Get("authorization")
}

// Range answers with the key that was asked for and its length.
func (m *member) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	m.called(ctx)
	if len(r.Key) == 0 {
		return nil, status.Error(codes.InvalidArgument, "etcdserver: key is not provided")
	}
	return &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Key: r.Key[:min(len(r.Key), 10)]}}, Count: int64(len(r.Key))}, nil
}

// Watch answers each request with its key as the reason for its end; the key "whole" brings an answer of half a MiB.
func (m *member) Watch(stream grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error {
	m.called(stream.Context())
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			<-stream.Context().Done()
			return stream.Context().Err()
		}
		if err != nil {
			return err
		}
		key := r.GetCreateRequest().GetKey()
		if string(key) == "whole" {
			key = []byte(strings.Repeat("x", 512<<10))
		}
		if err := stream.Send(&pb.WatchResponse{CancelReason: string(key[:min(len(key), 600<<10)])}); err != nil {
			return err
		}
	}
}

func (m *member) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	m.called(ctx)
	return &pb.HashResponse{Header: &pb.ResponseHeader{ClusterId: 1<<64 - 1}, Hash: 1<<32 - 1}, nil
}

func (m *member) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	m.called(ctx)
	return &pb.DefragmentResponse{}, m.failure
}

func (m *member) Snapshot(_ *pb.SnapshotRequest, stream grpc.ServerStreamingServer[pb.SnapshotResponse]) error {
	m.called(stream.Context())
	remaining := 0
	for _, blob := range m.blobs {
		remaining += len(blob)
	}
	for i, blob := range m.blobs {
		remaining -= len(blob)
		r := &pb.SnapshotResponse{Blob: []byte(blob), RemainingBytes: uint64(max(0, remaining-32))}
		if i == len(m.blobs)-1 {
			r.RemainingBytes = 0
		}
		if err := stream.Send(r); err != nil {
			return err
		}
	}
	return m.failure
}

// world is a gateway in front of a member, on a listener in memory.
type world struct {
	t        *testing.T
	gateway  *Gateway
	member   *member
	listener *pipeListener
	client   *http.Client
	dialed   int // by the gateway
}

// newWorld starts everything; it ends with the test, which runs in a bubble, and waits until it has.
func newWorld(t *testing.T, c Config) *world {
	w := &world{t: t, member: &member{}, listener: &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}}
	calls := grpc.NewServer(grpc.MaxRecvMsgSize(c.MaxMessageBytes + 1<<20))
	for _, desc := range []*grpc.ServiceDesc{&pb.KV_ServiceDesc, &pb.Watch_ServiceDesc, &pb.Maintenance_ServiceDesc} {
		etcd := *desc
		etcd.ServiceName = strings.TrimPrefix(desc.ServiceName, "upkeep.")
		calls.RegisterService(&etcd, w.member)
	}
	loopback := bufconn.Listen(64 << 10)
	c.Dial = func(ctx context.Context) (net.Conn, error) {
		w.dialed++
		return loopback.DialContext(ctx)
	}
	w.gateway = New(c)
	server := &http.Server{Handler: w.gateway}
	var running sync.WaitGroup
	running.Go(func() { _ = calls.Serve(loopback) })
	running.Go(func() { _ = server.Serve(w.listener) })
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return w.listener.dial(), nil }}
	w.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
		w.gateway.Close()
		calls.Stop()
		running.Wait()
		time.Sleep(time.Minute) // in virtual time: the HTTP server leaves connections half-closed for a moment
	})
	return w
}

// post returns the status and the body.
func (w *world) post(path, body string) (int, string) {
	w.t.Helper()
	response, err := w.client.Post("http://member"+path, "", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response.StatusCode, strings.ReplaceAll(string(text), ", ", ",")
}

// pipeListener hands out one end of each pipe that dial makes.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *pipeListener) dial() net.Conn {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
	case <-l.done:
		far.Close()
	}
	return near
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }
