package transport

import (
	"context"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
)

// fakeForwarder answers with what it was asked.
type fakeForwarder struct{}

func (fakeForwarder) Members(context.Context, *peerpb.MembersRequest) (*peerpb.MembersResponse, error) {
	return &peerpb.MembersResponse{ClusterId: clusterID, Removed: []uint64{4}}, nil
}

func (fakeForwarder) LeaseKeepAlive(_ context.Context, r *pb.LeaseKeepAliveRequest) (*pb.LeaseKeepAliveResponse, error) {
	return &pb.LeaseKeepAliveResponse{ID: r.ID, TTL: 9}, nil
}

func (fakeForwarder) LeaseTimeToLive(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	return &pb.LeaseTimeToLiveResponse{ID: r.ID, GrantedTTL: 8}, nil
}

func (fakeForwarder) MemberPromote(_ context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	return &pb.MemberPromoteResponse{Members: []*pb.Member{{ID: r.ID}}}, nil
}

func (fakeForwarder) Figures(context.Context, *schedulepb.FiguresRequest) (*schedulepb.Figures, error) {
	return &schedulepb.Figures{Name: "asked"}, nil
}

func (fakeForwarder) RequestImage(_ context.Context, to uint64, _ string) (*peerpb.ImageResponse, error) {
	return &peerpb.ImageResponse{Index: to}, nil
}

func (fakeForwarder) DropImage(string) error { return nil }

func (fakeForwarder) ImageArrives(string, uint64, uint64) error { return nil }

func (fakeForwarder) ImageReceived(string, uint64, uint64, *raftpb.ConfState, string) error {
	return nil
}

func (fakeForwarder) HashKV(_ context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	return nil, status.Error(codes.OutOfRange, "mvcc: required revision is a future revision")
}

// Over real TCP, to a server that has the transport's codec and to one that has gRPC's own.
func TestLoopback(t *testing.T) {
	for name, newServer := range map[string]func(*Transport) *grpc.Server{
		"own server": func(b *Transport) *grpc.Server { return b.NewServer() },
		"plain server": func(b *Transport) *grpc.Server {
			server := grpc.NewServer(grpc.WaitForHandlers(true), grpc.MaxRecvMsgSize(maxMessageBytes))
			b.Register(server)
			return server
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newLoopback(t, 1), newLoopback(t, 2)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := newServer(b)
			var served sync.WaitGroup
			served.Go(func() { server.Serve(listener) })
			received := make(chan *raftpb.Message, 10)
			b.Attach(chanNode(received), fakeForwarder{})
			a.AddPeer(2, []string{"http://" + listener.Addr().String()})
			want := message(raftpb.MsgApp, 1, 2, 7, strings.Repeat("x", 3<<20), "y")
			var got *raftpb.Message
			for got == nil {
				a.Send([]*raftpb.Message{want}) // dropped until the stream stands
				select {
				case got = <-received:
				case <-time.After(20 * time.Millisecond):
				}
			}
			if !proto.Equal(got, want) {
				t.Error("message has changed on its way")
			}
			checkForwarding(t, a)
			a.Close()
			server.Stop()
			served.Wait()
			b.Close()
		})
	}
}

func newLoopback(t *testing.T, id uint64) *Transport {
	t.Helper()
	disk := vfs.NewMem()
	disk.MkdirAll("snap", 0o700)
	transport, err := New(Config{ID: id, ClusterID: clusterID, FS: disk, SnapDir: "snap"})
	if err != nil {
		t.Fatal(err)
	}
	return transport
}

// chanNode is a node that only receives. Once the channel is full it drops.
type chanNode chan *raftpb.Message

func (n chanNode) Step(_ context.Context, m *raftpb.Message) error {
	select {
	case n <- m:
	default:
	}
	return nil
}

func (chanNode) ReportUnreachable(uint64)                      {}
func (chanNode) ReportSnapshot(uint64, bool)                   {}
func (chanNode) InstallSnapshot(*raftpb.Message, string) error { return nil }

func checkForwarding(t *testing.T, a *Transport) {
	t.Helper()
	conn, err := a.Conn(2)
	if err != nil {
		t.Fatal(err)
	}
	client, ctx := peerpb.NewPeerClient(conn), t.Context()
	if r, err := client.Members(ctx, &peerpb.MembersRequest{}); err != nil || r.ClusterId != clusterID || r.Removed[0] != 4 {
		t.Errorf("members: %v %v", r, err)
	}
	if r, err := client.LeaseKeepAlive(ctx, &pb.LeaseKeepAliveRequest{ID: 5}); err != nil || r.ID != 5 || r.TTL != 9 {
		t.Errorf("keep alive: %v %v", r, err)
	}
	if r, err := client.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 5}); err != nil || r.GrantedTTL != 8 {
		t.Errorf("time to live: %v %v", r, err)
	}
	if r, err := client.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: 6}); err != nil || r.Members[0].ID != 6 {
		t.Errorf("promote: %v %v", r, err)
	}
	if _, err := client.HashKV(ctx, &pb.HashKVRequest{}); status.Code(err) != codes.OutOfRange {
		t.Errorf("hash: %v", err)
	}
}

func TestCallsBeforeAttachAreTurnedAway(t *testing.T) {
	b := newLoopback(t, 2)
	defer b.Close()
	s := &service{transport: b}
	if _, err := s.Members(t.Context(), &peerpb.MembersRequest{}); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	if _, err := b.DialURLs([]string{"ftp://x:1"}); err == nil {
		t.Error("URL of a scheme that cannot be dialled was accepted")
	}
}

// A URL that asks for TLS is never dialled without.
func TestSecureURLsNeedTheirHandshake(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	plain, secured := newLoopback(t, 1), newLoopback(t, 1)
	defer plain.Close()
	defer secured.Close()
	shaken := ""
	secured.config.Secure = func(_ context.Context, conn net.Conn, peer *url.URL) (net.Conn, error) {
		shaken = peer.Host
		return conn, nil
	}
	for _, scheme := range []string{"https", "HTTPS"} {
		address := scheme + "://" + listener.Addr().String()
		if _, err := plain.connect(t.Context(), address); err == nil || !strings.Contains(err.Error(), "TLS") {
			t.Errorf("%s without TLS: %v", address, err)
		}
		shaken = ""
		conn, err := secured.connect(t.Context(), address)
		if err != nil || shaken != listener.Addr().String() {
			t.Fatalf("%s: %v, handshake with %q", address, err, shaken)
		}
		conn.Close()
	}
	shaken = ""
	conn, err := secured.connect(t.Context(), "http://"+listener.Addr().String())
	if err != nil || shaken != "" {
		t.Fatalf("plain: %v, handshake with %q", err, shaken)
	}
	conn.Close()
}
