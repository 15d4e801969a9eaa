package rpc

import (
	"context"
	"net"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
)

// harness is a server over an in-memory listener, with the fake behind it.
type harness struct {
	*fake
	t    *testing.T
	ctx  context.Context
	lis  *bufconn.Listener
	conn *grpc.ClientConn
}

func start(t *testing.T, f *fake, opts Options) *harness {
	return startWith(t, f, f.deps(), opts)
}

func startWith(t *testing.T, f *fake, deps Deps, opts Options) *harness {
	t.Helper()
	server, err := NewServer(deps, opts)
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{fake: f, t: t, lis: bufconn.Listen(1 << 20)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(h.lis) }()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	h.ctx = ctx
	h.conn, err = grpc.NewClient("passthrough:///member", h.dialOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		h.conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		f.hub.Close()
	})
	return h
}

func (h *harness) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return h.lis.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1 << 30)),
	}
}

// client is etcd's own client, talking to the server.
func (h *harness) client() *clientv3.Client {
	h.t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"http://member:2379"}, DialOptions: h.dialOptions(), Logger: zap.NewNop(), Context: h.ctx,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

// must fails the test at an error and returns the value.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func wantEqual(t *testing.T, what string, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

// message is the text of a status error; empty for none.
func message(err error) string { return status.Convert(err).Message() }
