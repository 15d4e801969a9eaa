package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
)

// body is what a client sends, one JSON message or a stream of them. It bounds each message, and knows what went wrong
// with one, which the generated handlers cannot tell.
type body struct {
	io.ReadCloser
	max     int64
	left    int64                   // of the message being read; left and whole are used by the one goroutine that decodes
	whole   bool                    // all of it was read
	settled func()                  // called once all of a body is there that is one message; nil for streams
	cancel  context.CancelCauseFunc // ends the call of a stream

	// reading is held by whoever reads, and guards ended: nothing is read any more.
	reading sync.Mutex
	ended   bool

	mu struct {
		sync.Mutex
		err error // the first failure
	}
}

func (b *body) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if b.ended {
		return 0, io.EOF
	}
	if b.left <= 0 {
		err := status.Errorf(codes.ResourceExhausted, "http: received message larger than max (%d bytes)", b.max)
		b.fail(err)
		return 0, err
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	b.whole = errors.Is(err, io.EOF)
	return n, err
}

// end waits for the generated handler's goroutine, which may still be reading: the HTTP server is not prepared for a
// reader that outlives its request.
func (b *body) end(control *http.ResponseController) {
	if control.SetReadDeadline(time.Unix(1, 0)) != nil {
		return // a websocket's body ends together with its request
	}
	b.reading.Lock()
	defer b.reading.Unlock()
	b.ended = true
}

func (b *body) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.err == nil {
		b.mu.err = err
	}
}

// failure is the first failure, if there was one.
func (b *body) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.err
}

// decode reads one message with inner, which reads from b.
func (b *body) decode(inner runtime.Decoder, v any) error {
	b.left = b.max
	err := inner.Decode(v)
	if b.settled != nil {
		// What comes after the message is read by the HTTP server, before it lets the answer out.
		if b.whole {
			b.settled()
		}
		return err
	}
	if err != nil && !errors.Is(err, io.EOF) {
		// The generated handler stops reading and leaves the call as it is, waiting for a message that never comes.
		b.fail(status.Errorf(codes.InvalidArgument, "Failed to decode request: %v", err))
		b.cancel(err)
	}
	return err
}

// openStreams tells which requests are streams of messages, and so may stay silent between two as long as they like.
func openStreams(path string) bool { return path == "/v3/watch" || path == "/v3/lease/keepalive" }

type bodyKey struct{}

// limited puts a body around that of each request.
func (g *Gateway) limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		most := maxInflation * int64(g.MaxMessageBytes)
		b := &body{ReadCloser: r.Body, max: most, left: most, cancel: cancel}
		// Not every writer can do what follows: that of a websocket cannot, and need not.
		control := http.NewResponseController(w)
		switch {
		case r.Method != http.MethodPost:
		case openStreams(r.URL.Path):
			// Else the server would want all of the body before it lets the first answer out.
			_ = control.EnableFullDuplex()
			if r.ProtoMajor == 1 {
				w.Header().Set("Connection", "close") // what remains of the body is never read
			}
			defer b.end(control)
		default:
			_ = control.SetReadDeadline(time.Now().Add(g.BodyTimeout))
			b.settled = func() { _ = control.SetReadDeadline(time.Time{}) }
		}
		r = r.WithContext(context.WithValue(ctx, bodyKey{}, b))
		r.Body = b
		next.ServeHTTP(w, r)
	})
}

// marshaler is etcd's form of JSON: names as in the .proto files, nothing where a value is zero, and unknown names
// ignored.
type marshaler struct{ runtime.JSONPb }

func newMarshaler() *marshaler {
	return &marshaler{runtime.JSONPb{
		MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
		UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
	}}
}

func (m *marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	inner := m.JSONPb.NewDecoder(r)
	b, ok := r.(*body)
	if !ok {
		return inner
	}
	return runtime.DecoderFunc(func(v any) error { return b.decode(inner, v) })
}

// sooner returns what was wrong with the request's body instead of err, where that is why err came about.
func sooner(ctx context.Context, err error) error {
	if b, ok := ctx.Value(bodyKey{}).(*body); ok {
		if failure := b.failure(); failure != nil {
			return failure
		}
	}
	return err
}

func handleError(
	ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error,
) {
	runtime.DefaultHTTPErrorHandler(ctx, mux, m, w, r, sooner(r.Context(), err))
}

func handleStreamError(ctx context.Context, err error) *status.Status {
	return runtime.DefaultStreamErrorHandler(ctx, sooner(ctx, err))
}

// writeError answers err, where there is no mux yet.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	handleError(r.Context(), runtime.NewServeMux(), newMarshaler(), w, r, err)
}
