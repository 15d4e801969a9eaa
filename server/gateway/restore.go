package gateway

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
)

// restorePath takes a snapshot file as it is, as long as it may be, with the rest in the query:
//
//	curl -T backup.db -X POST 'http://127.0.0.1:2379/v3/snapshot/restore?confirm=fe01cf57'
//	curl -X POST 'http://127.0.0.1:2379/v3/snapshot/restore?live=true&to_revision=4711'
const restorePath = "/v3/snapshot/restore"

// pieceBytes of a file are handed on at a time.
const pieceBytes = 256 << 10

// restorer takes the cluster back to the snapshot in the body.
type restorer struct {
	mux    *runtime.ServeMux
	upkeep upkeeppb.UpkeepClient
}

// before serves restorePath past the bounds of messages, and hands everything else on.
func (h restorer) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != restorePath || r.Method != http.MethodPost {
			next.ServeHTTP(w, r)
			return
		}
		_, marshaler := runtime.MarshalerForRequest(h.mux, r)
		resp, err := h.restore(r)
		if err != nil {
			runtime.HTTPError(r.Context(), h.mux, marshaler, w, r, err)
			return
		}
		out, err := marshaler.Marshal(resp)
		if err != nil {
			runtime.HTTPError(r.Context(), h.mux, marshaler, w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(out) // the client has gone if this fails
	})
}

func (h restorer) restore(r *http.Request) (*upkeeppb.RestoreResponse, error) {
	first, err := restoreOptions(r)
	if err != nil {
		return nil, err
	}
	ctx, err := runtime.AnnotateContext(r.Context(), h.mux, r, upkeeppb.Upkeep_Restore_FullMethodName,
		runtime.WithHTTPPathPattern(restorePath))
	if err != nil {
		return nil, err
	}
	stream, err := h.upkeep.Restore(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(first); err != nil || first.Live {
		return outcome(stream) // which has the server's reason
	}
	for buffer := make([]byte, pieceBytes); ; {
		n, err := io.ReadFull(r.Body, buffer)
		if n > 0 && stream.Send(&upkeeppb.RestoreRequest{Piece: buffer[:n]}) != nil {
			return outcome(stream)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF) && n < len(buffer) && r.Context().Err() == nil:
			return outcome(stream)
		case err != nil:
			return nil, status.Errorf(codes.InvalidArgument, "the snapshot did not come whole: %v", err)
		}
	}
}

// outcome waits for what was done, past the progress that HTTP has no place for.
func outcome(stream upkeeppb.Upkeep_RestoreClient) (*upkeeppb.RestoreResponse, error) {
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	for {
		resp, err := stream.Recv()
		if err != nil || resp.Progress == nil {
			return resp, err
		}
	}
}

func restoreOptions(r *http.Request) (*upkeeppb.RestoreRequest, error) {
	out := &upkeeppb.RestoreRequest{}
	for name, values := range r.URL.Query() {
		var err error
		switch value := values[0]; name {
		case "confirm":
			out.Confirm = value
		case "to_revision":
			out.ToRevision, err = strconv.ParseInt(value, 10, 64)
		case "live":
			out.Live, err = strconv.ParseBool(value)
		default:
			err = errors.New("there is no such parameter: confirm, to_revision and live are known")
		}
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "query parameter %s: %v", name, err)
		}
	}
	return out, nil
}
