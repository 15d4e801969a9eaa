package rpc

import (
	"context"
	"testing"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// slowDefrag defragments until it is told to end.
type slowDefrag struct {
	Maintenance
	began, end chan struct{}
}

func (d slowDefrag) Defragment(context.Context) (*pb.DefragmentResponse, error) {
	d.began <- struct{}{}
	<-d.end
	return &pb.DefragmentResponse{}, nil
}

// The health service says NOT_SERVING during a defragmentation if it is asked to, and SERVING before and after.
func TestHealthDuringDefragment(t *testing.T) {
	for _, stop := range []bool{false, true} {
		f := newFake()
		slow := slowDefrag{began: make(chan struct{}), end: make(chan struct{})}
		deps := f.deps()
		slow.Maintenance, deps.Maintenance = deps.Maintenance, slow
		h := startWith(t, f, deps, Options{NotServingOnDefrag: stop})
		health := healthpb.NewHealthClient(h.conn)
		watch := must(health.Watch(h.ctx, &healthpb.HealthCheckRequest{}))(t)
		want := func(when string, status healthpb.HealthCheckResponse_ServingStatus) {
			t.Helper()
			if got := must(health.Check(h.ctx, &healthpb.HealthCheckRequest{}))(t).Status; got != status {
				t.Errorf("gate %v, %s: Check says %v, want %v", stop, when, got, status)
			}
			listed := must(health.List(h.ctx, &healthpb.HealthListRequest{}))(t).Statuses
			if len(listed) != 1 || listed[""].GetStatus() != status {
				t.Errorf("gate %v, %s: List says %v, want %v", stop, when, listed, status)
			}
		}
		next := func(status healthpb.HealthCheckResponse_ServingStatus) {
			t.Helper()
			if got := must(watch.Recv())(t).Status; got != status {
				t.Errorf("gate %v: Watch says %v, want %v", stop, got, status)
			}
		}
		during := healthpb.HealthCheckResponse_SERVING
		next(healthpb.HealthCheckResponse_SERVING)
		want("before", healthpb.HealthCheckResponse_SERVING)
		done := make(chan error, 1)
		go func() {
			_, err := pb.NewMaintenanceClient(h.conn).Defragment(h.ctx, &pb.DefragmentRequest{})
			done <- err
		}()
		<-slow.began
		if stop {
			during = healthpb.HealthCheckResponse_NOT_SERVING
			next(during)
		}
		want("meanwhile", during)
		// A second one, which ends first, does not end that.
		second := make(chan error, 1)
		go func() {
			_, err := pb.NewMaintenanceClient(h.conn).Defragment(h.ctx, &pb.DefragmentRequest{})
			second <- err
		}()
		<-slow.began
		slow.end <- struct{}{}
		select {
		case err := <-second:
			if err != nil {
				t.Fatal(err)
			}
			second = done
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		}
		want("after one of two", during)
		close(slow.end)
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		if stop {
			next(healthpb.HealthCheckResponse_SERVING)
		}
		want("afterwards", healthpb.HealthCheckResponse_SERVING)
	}
}
