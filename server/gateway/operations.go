package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/gatewaypb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
)

const savePath = "/v3/snapshot/save"

// operations are the paths that are made of several calls, or whose answer is not JSON.
type operations struct {
	mux         *runtime.ServeMux
	maintenance pb.MaintenanceClient
}

// Defrag hashes the database and then defragments it. ctx carries the client's token, so both are checked as if the
// client had called them.
func (o operations) Defrag(
	ctx context.Context, _ *gatewaypb.DefragRequest, opts ...grpc.CallOption,
) (*gatewaypb.DefragResponse, error) {
	before, err := o.maintenance.Hash(ctx, &pb.HashRequest{}, opts...)
	if err != nil {
		return nil, err
	}
	if _, err := o.maintenance.Defragment(ctx, &pb.DefragmentRequest{}); err != nil {
		return nil, err
	}
	return &gatewaypb.DefragResponse{Header: before.Header, Hash: before.Hash}, nil
}

// SaveSnapshot is never called: save has its path.
func (operations) SaveSnapshot(
	context.Context, *gatewaypb.SaveSnapshotRequest, ...grpc.CallOption,
) (grpc.ServerStreamingClient[gatewaypb.SaveSnapshotResponse], error) {
	return nil, status.Error(codes.Unimplemented, "a snapshot is saved by "+savePath)
}

// RestoreSnapshot is never called: restorer serves its path.
func (operations) RestoreSnapshot(
	context.Context, *gatewaypb.RestoreSnapshotRequest, ...grpc.CallOption,
) (*upkeeppb.RestoreResponse, error) {
	return nil, status.Error(codes.Unimplemented, "a snapshot is restored by "+restorePath)
}

// save answers with the database file and the SHA-256 after it, as they are: what a file holds that etcdctl has saved.
func (o operations) save(w http.ResponseWriter, r *http.Request, _ map[string]string) {
	_, marshaler := runtime.MarshalerForRequest(o.mux, r)
	ctx, err := runtime.AnnotateContext(r.Context(), o.mux, r, gatewaypb.Operations_SaveSnapshot_FullMethodName,
		runtime.WithHTTPPathPattern(savePath))
	if err == nil {
		err = marshaler.NewDecoder(r.Body).Decode(&gatewaypb.SaveSnapshotRequest{})
		if errors.Is(err, io.EOF) {
			err = nil // nothing is asked, so nothing need be sent
		} else if err != nil {
			err = status.Error(codes.InvalidArgument, err.Error())
		}
	}
	var stream grpc.ServerStreamingClient[pb.SnapshotResponse]
	var first *pb.SnapshotResponse
	if err == nil {
		stream, err = o.maintenance.Snapshot(ctx, &pb.SnapshotRequest{})
	}
	if err == nil {
		first, err = stream.Recv()
	}
	if err != nil {
		runtime.HTTPError(r.Context(), o.mux, marshaler, w, r, err)
		return
	}
	size := uint64(len(first.Blob)) + first.RemainingBytes + sha256.Size
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatUint(size, 10))
	if copyBlobs(w, first, stream.Recv) != nil {
		// All that is left to say is that the body is not whole, by breaking off the connection.
		panic(http.ErrAbortHandler)
	}
}

// copyBlobs writes the blobs from first on until the stream ends.
func copyBlobs(w io.Writer, first *pb.SnapshotResponse, next func() (*pb.SnapshotResponse, error)) error {
	for blob, err := first, error(nil); ; blob, err = next() {
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(blob.Blob); err != nil {
			return err
		}
	}
}
