package rpc

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"sync"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/server/apply"
)

// snapshotBlobBytes is the size of all blobs of a snapshot stream but the last ones.
const snapshotBlobBytes = 32 << 10

// maintenanceService serves the state and the upkeep of the member that is asked.
type maintenanceService struct {
	pb.UnimplementedMaintenanceServer
	service
	setHealth func(service string, status healthpb.HealthCheckResponse_ServingStatus)

	defrags struct {
		sync.Mutex
		open int // calls; the health is set under the lock, so that it always fits
	}
}

// defragmenting counts the call in or, with -1, out, and sets the health where that is wanted.
func (s *maintenanceService) defragmenting(calls int) {
	s.defrags.Lock()
	defer s.defrags.Unlock()
	s.defrags.open += calls
	health := healthpb.HealthCheckResponse_SERVING
	if s.defrags.open > 0 {
		health = healthpb.HealthCheckResponse_NOT_SERVING
	}
	s.setHealth("", health)
}

// Alarm lists, raises and lowers alarms. Listing is a linearizable read and needs no place in the log.
func (s *maintenanceService) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	required := s.requireRoot
	if r.Action == pb.AlarmRequest_GET {
		required = s.requireUser
	}
	err := required(ctx)
	if err != nil {
		return nil, err
	}
	var resp *pb.AlarmResponse
	switch r.Action {
	case pb.AlarmRequest_GET:
		resp, err = s.listAlarms(ctx, r.Alarm)
	case pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE:
		resp, err = propose[*pb.AlarmResponse](ctx, s.Proposer, &pb.InternalRaftRequest{Alarm: r})
	default:
		// Never into the log: every member would have to make sense of it.
		return nil, apply.ErrUnknownCommand
	}
	if err != nil {
		return nil, err
	}
	resp.Header = s.Headers.Header()
	return resp, nil
}

func (s *maintenanceService) listAlarms(ctx context.Context, wanted pb.AlarmType) (*pb.AlarmResponse, error) {
	if err := s.KV.LinearizableRead(ctx); err != nil {
		return nil, err
	}
	resp := &pb.AlarmResponse{}
	for _, alarm := range s.Maintenance.Alarms() {
		if wanted == pb.AlarmType_NONE || wanted == alarm.Alarm {
			resp.Alarms = append(resp.Alarms, alarm)
		}
	}
	return resp, nil
}

func (s *maintenanceService) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	if err := s.requireUser(ctx); err != nil {
		return nil, err
	}
	resp := s.Maintenance.Status()
	resp.Header = s.Headers.Header()
	if resp.DowngradeInfo == nil {
		resp.DowngradeInfo = s.Maintenance.DowngradeInfo()
	}
	if resp.Leader == 0 {
		resp.Errors = append(resp.Errors, textPrefix+"no leader")
	}
	for _, alarm := range s.Maintenance.Alarms() {
		resp.Errors = append(resp.Errors, alarmLine(alarm))
	}
	return resp, nil
}

// alarmLine is the alarm in protobuf's text form, spelled out because the library varies its spaces from build to build.
func alarmLine(a *pb.AlarmMember) string {
	switch {
	case a.MemberID == 0:
		return fmt.Sprintf("alarm:%s", a.Alarm)
	case a.Alarm == pb.AlarmType_NONE:
		return fmt.Sprintf("memberID:%d", a.MemberID)
	}
	return fmt.Sprintf("memberID:%d  alarm:%s", a.MemberID, a.Alarm)
}

// Defragment answers without a header, as etcd does.
func (s *maintenanceService) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	if s.opts.NotServingOnDefrag {
		s.defragmenting(1)
		defer s.defragmenting(-1)
	}
	return s.Maintenance.Defragment(ctx)
}

func (s *maintenanceService) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	sum, err := s.Maintenance.Hash(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.HashResponse{Header: s.Headers.Header(), Hash: sum}, nil
}

func (s *maintenanceService) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	resp, err := s.Maintenance.HashKV(ctx, r.Revision)
	if err != nil {
		return nil, err
	}
	resp.Header = s.Headers.Header()
	return resp, nil
}

// MoveLeader answers without a header, as etcd does.
func (s *maintenanceService) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	if err := s.Maintenance.MoveLeader(ctx, r.TargetID); err != nil {
		return nil, err
	}
	return &pb.MoveLeaderResponse{}, nil
}

// Snapshot streams the database file and, as its last message, the SHA-256 of all of it.
func (s *maintenanceService) Snapshot(r *pb.SnapshotRequest, stream grpc.ServerStreamingServer[pb.SnapshotResponse]) error {
	if err := s.requireRoot(stream.Context()); err != nil {
		return err
	}
	snap, version, err := s.Maintenance.Snapshot(stream.Context(), r.Compact)
	if err != nil {
		return err
	}
	defer snap.Close()
	out := &blobWriter{stream: stream, version: version, remaining: snap.Size(), sum: sha256.New(),
		blob: make([]byte, 0, snapshotBlobBytes)}
	if _, err := snap.WriteTo(out); err != nil {
		return err
	}
	if err := out.flush(); err != nil {
		return err
	}
	if out.remaining != 0 {
		return fmt.Errorf("rpc: snapshot yielded %d bytes less than its size", out.remaining)
	}
	return stream.Send(&pb.SnapshotResponse{Blob: out.sum.Sum(nil), Version: version})
}

// blobWriter cuts what is written to it into blobs and sends them.
type blobWriter struct {
	stream    grpc.ServerStreamingServer[pb.SnapshotResponse]
	version   string
	remaining int64 // bytes of the file not yet sent
	sum       hash.Hash
	blob      []byte // what is waiting to make up a full blob
}

func (w *blobWriter) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		if len(w.blob) == 0 && len(p) >= snapshotBlobBytes {
			// A whole blob goes out from where it lies: Send has encoded it when it returns.
			if err := w.send(p[:snapshotBlobBytes]); err != nil {
				return written - len(p), err
			}
			p = p[snapshotBlobBytes:]
			continue
		}
		n := min(len(p), snapshotBlobBytes-len(w.blob))
		w.blob, p = append(w.blob, p[:n]...), p[n:]
		if len(w.blob) == snapshotBlobBytes {
			if err := w.flush(); err != nil {
				return written - len(p), err
			}
		}
	}
	return written, nil
}

func (w *blobWriter) flush() error {
	if len(w.blob) == 0 {
		return nil
	}
	err := w.send(w.blob)
	w.blob = w.blob[:0]
	return err
}

func (w *blobWriter) send(blob []byte) error {
	w.sum.Write(blob)
	w.remaining -= int64(len(blob))
	if w.remaining < 0 {
		return fmt.Errorf("rpc: snapshot yielded more than its size, by %d bytes", -w.remaining)
	}
	return w.stream.Send(&pb.SnapshotResponse{Blob: blob, RemainingBytes: uint64(w.remaining), Version: w.version})
}
