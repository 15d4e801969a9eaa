package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/raftnode"
)

func TestLearner(t *testing.T) {
	f := newFake()
	f.learner.Store(true)
	h := start(t, f, Options{})
	kv, maintenance := pb.NewKVClient(h.conn), pb.NewMaintenanceClient(h.conn)
	const refused = "etcdserver: rpc not supported for learner"
	key := []byte("k")
	for _, test := range []struct {
		name string
		call func() error
		want string
	}{
		{"range", func() error { _, err := kv.Range(h.ctx, &pb.RangeRequest{Key: key}); return err }, refused},
		{"serializable range", func() error {
			_, err := kv.Range(h.ctx, &pb.RangeRequest{Key: key, Serializable: true})
			return err
		}, ""},
		{"put", func() error { _, err := kv.Put(h.ctx, &pb.PutRequest{}); return err }, refused},
		{"range stream", func() error {
			return firstOf(kv.RangeStream(h.ctx, &pb.RangeRequest{Key: key, Serializable: true}))
		}, refused},
		{"watch", func() error { return firstOf(pb.NewWatchClient(h.conn).Watch(h.ctx)) }, refused},
		{"keep alive", func() error { return firstOf(pb.NewLeaseClient(h.conn).LeaseKeepAlive(h.ctx)) }, refused},
		{"members", func() error {
			_, err := pb.NewClusterClient(h.conn).MemberList(h.ctx, &pb.MemberListRequest{})
			return err
		}, refused},
		{"status", func() error { _, err := maintenance.Status(h.ctx, &pb.StatusRequest{}); return err }, ""},
		{"hash", func() error { _, err := maintenance.HashKV(h.ctx, &pb.HashKVRequest{}); return err }, refused},
		{"snapshot", func() error { return firstOf(maintenance.Snapshot(h.ctx, &pb.SnapshotRequest{})) }, ""},
		{"health", func() error {
			_, err := healthpb.NewHealthClient(h.conn).Check(h.ctx, &healthpb.HealthCheckRequest{})
			return err
		}, refused},
	} {
		if got := message(test.call()); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// firstOf returns the error of a stream's first message.
func firstOf[T any, S interface{ Recv() (T, error) }](stream S, err error) error {
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

func TestHealth(t *testing.T) {
	h := start(t, newFake(), Options{})
	health := healthpb.NewHealthClient(h.conn)
	resp := must(health.Check(h.ctx, &healthpb.HealthCheckRequest{}))(t)
	if resp.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("status %v", resp.Status)
	}
	if _, err := health.Check(h.ctx, &healthpb.HealthCheckRequest{Service: "etcdserverpb.KV"}); err == nil {
		t.Error("only the whole server has a health")
	}
}

func TestRequireLeader(t *testing.T) {
	h := start(t, newFake(), Options{ElectionTimeout: 20 * time.Millisecond})
	c := h.client()
	h.noLeader.Store(true)
	ctx := clientv3.WithRequireLeader(h.ctx)
	if _, err := c.Get(ctx, "a", clientv3.WithSerializable()); !errors.Is(err, rpctypes.ErrNoLeader) {
		t.Errorf("get without a leader: %v", err)
	}
	if _, err := c.Get(h.ctx, "a", clientv3.WithSerializable()); err != nil {
		t.Errorf("get that does not ask for one: %v", err)
	}
	if err := firstOf(pb.NewWatchClient(h.conn).Watch(ctx)); message(err) != "etcdserver: no leader" {
		t.Errorf("new stream without a leader: %v", err)
	}

	// Streams that are open when the leader is lost. Only those that ask for it are cut.
	h.noLeader.Store(false)
	demanding, patient := watchOf(h, ctx), watchOf(h, h.ctx)
	alive := must(pb.NewLeaseClient(h.conn).LeaseKeepAlive(ctx))(t)
	for _, w := range []*watching{demanding, patient} {
		w.create(&pb.WatchCreateRequest{Key: []byte("a")})
		w.want("@1 watch=0 created")
	}
	h.noLeader.Store(true)
	if _, err := demanding.stream.Recv(); message(err) != "etcdserver: no leader" {
		t.Errorf("open watch: %v", err)
	}
	if _, err := alive.Recv(); message(err) != "etcdserver: no leader" {
		t.Errorf("open keep-alive: %v", err)
	}
	h.put("a", "v")
	patient.want("@2 watch=0 PUT:a@2")
}

// TestLeaderWatchTimes: three election timeouts in a row, no less, and one with a leader starts over.
func TestLeaderWatchTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		leader := true
		set := func(has bool) {
			mu.Lock()
			defer mu.Unlock()
			leader = has
		}
		w := newLeaderWatch(func() bool {
			mu.Lock()
			defer mu.Unlock()
			return leader
		}, time.Second)
		ctx, leave := w.join(t.Context())
		other, leaveOther := w.join(t.Context())
		time.Sleep(500 * time.Millisecond)
		set(false)
		time.Sleep(2 * time.Second) // ticks at 1s and 2s missed
		set(true)
		time.Sleep(time.Second)
		set(false)
		time.Sleep(1900 * time.Millisecond) // at 5.4s: ticks at 4s and 5s missed
		if ctx.Err() != nil {
			t.Error("cut for ticks that a leader stands between")
		}
		time.Sleep(time.Second) // at 6.4s: three in a row
		synctest.Wait()
		if !errors.Is(context.Cause(ctx), raftnode.ErrNoLeader) || !errors.Is(context.Cause(other), raftnode.ErrNoLeader) {
			t.Errorf("causes %v, %v", context.Cause(ctx), context.Cause(other))
		}
		leave()
		leaveOther()

		// The watch starts again with the next stream.
		ctx, leave = w.join(t.Context())
		time.Sleep(2900 * time.Millisecond)
		if ctx.Err() != nil {
			t.Error("cut too early")
		}
		time.Sleep(200 * time.Millisecond)
		if ctx.Err() == nil {
			t.Error("not cut")
		}
		leave()
	})
}

func TestObserver(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprintf(format, args...))
	}
	bytesIn, bytesOut := 0, 0
	f := newFake()
	deps := f.deps()
	core, logs := observer.New(zap.WarnLevel)
	deps.Logger = zap.New(core)
	deps.Observer = Observer{
		Started: func(kind, service, method string) { note("started %s %s %s", kind, service, method) },
		Handled: func(kind, service, method string, code codes.Code, _ time.Duration) {
			note("handled %s %s %v", kind, method, code)
		},
		Received:      func(kind, _, method string) { note("received %s %s", kind, method) },
		Sent:          func(kind, _, method string) { note("sent %s %s", kind, method) },
		ReceivedBytes: func(n int) { bytesIn += n },
		SentBytes:     func(n int) { bytesOut += n },
		ClientRequest: func(kind, version string) { note("client %s %s", kind, version) },
		SlowUnary:     func(service, method string, _ time.Duration) { note("slow %s %s", service, method) },
	}
	h := startWith(t, f, deps, Options{WarnUnaryDuration: time.Nanosecond})
	request := &pb.RangeRequest{Key: []byte("k")}
	response := &pb.RangeResponse{}
	ctx := metadata.AppendToOutgoingContext(h.ctx, metaClientAPIVersion, "3.7.3")
	if err := h.conn.Invoke(ctx, "/etcdserverpb.KV/Range", request, response); err != nil {
		t.Fatal(err)
	}
	want := []string{"started unary etcdserverpb.KV Range", "received unary Range", "client unary 3.7.3", "sent unary Range",
		"handled unary Range OK", "slow etcdserverpb.KV Range"}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("got %q\nwant %q", seen, want)
	}
	if bytesIn != request.SizeVT() || bytesOut != response.SizeVT() {
		t.Errorf("%d bytes in, %d out, want %d and %d", bytesIn, bytesOut, request.SizeVT(), response.SizeVT())
	}
	if entries := logs.FilterMessage("request stats").All(); len(entries) != 1 ||
		entries[0].ContextMap()["response type"] != "/etcdserverpb.KV/Range" {
		t.Errorf("log %v", logs.All())
	}

	seen = nil
	stream := must(pb.NewKVClient(h.conn).RangeStream(h.ctx, &pb.RangeRequest{}))(t)
	if _, err := stream.Recv(); err == nil {
		t.Fatal("want an error")
	}
	want = []string{"started server_stream upkeep.etcdserverpb.KV RangeStream", "client stream unknown",
		"received server_stream RangeStream", "handled server_stream RangeStream InvalidArgument"}
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("got %q\nwant %q", seen, want)
	}
}
