package gateway

import (
	"context"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	description "github.com/upkeep-kv/upkeep/proto/gateway"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
)

// OpenAPIPath is where the description of all paths is served.
const OpenAPIPath = "/v3/openapi.json"

// Config is what a gateway needs. Dial is required.
type Config struct {
	// Dial connects to the member's gRPC server.
	Dial func(context.Context) (net.Conn, error)
	// MaxMessageBytes is the largest message that the gRPC server accepts; its JSON may be maxInflation times as large.
	// 0 means 2 MiB.
	MaxMessageBytes int
	// BodyTimeout bounds how long a request that is one message may take to arrive; 0 means 5 minutes.
	BodyTimeout time.Duration
	// IgnoresCommonName tells whether clients are known by the names in their certificates, which do not get through to
	// the gRPC server from here: requests with such a certificate are refused then. nil means never.
	IgnoresCommonName func() bool
	Logger            *zap.Logger // nil logs nothing
}

// maxInflation is how many bytes of JSON one byte of a message is given: 4/3 are needed for keys and values in base64,
// more for the names around small numbers.
const maxInflation = 4

const (
	defaultMaxMessageBytes = 2 << 20
	defaultBodyTimeout     = 5 * time.Minute
)

// Gateway is an http.Handler for /v3/.
type Gateway struct {
	Config

	// built guards what the first request builds; after that, handler, conn and err do not change.
	built   sync.Once
	handler http.Handler
	conn    *grpc.ClientConn // nil when Close came first, or err
	err     error

	mu struct {
		sync.Mutex
		closed bool
		// upgraded are the connections that websockets have taken from the HTTP server, which forgets them.
		upgraded map[net.Conn]struct{}
		requests sync.WaitGroup // Add under mu, while not closed
	}
}

// New returns a gateway. It starts nothing.
func New(c Config) *Gateway {
	if c.MaxMessageBytes == 0 {
		c.MaxMessageBytes = defaultMaxMessageBytes
	}
	if c.BodyTimeout == 0 {
		c.BodyTimeout = defaultBodyTimeout
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	g := &Gateway{Config: c}
	g.mu.upgraded = map[net.Conn]struct{}{}
	return g
}

// Close ends every request and waits for them. The HTTP server must stop as well: it is what cuts off clients that do
// not read their answers.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.mu.closed = true
	for conn := range g.mu.upgraded {
		conn.Close()
	}
	g.mu.Unlock()
	g.built.Do(func() { g.err = errClosed })
	if g.conn != nil {
		g.conn.Close()
	}
	g.mu.requests.Wait()
}

var errClosed = status.Error(codes.Unavailable, "etcdserver: server stopped")

// enter counts a request in, unless it comes too late.
func (g *Gateway) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.mu.closed {
		g.mu.requests.Add(1)
	}
	return !g.mu.closed
}

func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.enter() {
		writeError(w, r, errClosed)
		return
	}
	defer g.mu.requests.Done()
	switch {
	case r.URL.Path == OpenAPIPath && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, description.OpenAPI()) // the client has gone if this fails
		return
	case g.nameless(r):
		http.Error(w, commonNameRefused, http.StatusBadRequest)
		return
	}
	g.built.Do(func() { g.handler, g.err = g.build() })
	if g.err != nil {
		writeError(w, r, g.err)
		return
	}
	g.handler.ServeHTTP(w, r)
}

// build makes the handlers and what they call through.
func (g *Gateway) build() (http.Handler, error) {
	conn, err := grpc.NewClient("passthrough:///member",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return g.Dial(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, err
	}
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, newMarshaler()),
		runtime.WithErrorHandler(handleError),
		runtime.WithStreamErrorHandler(handleStreamError),
	)
	if err := register(mux, etcdNames{conn}); err != nil {
		conn.Close()
		return nil, err
	}
	g.conn = conn
	restores := restorer{mux: mux, upkeep: upkeeppb.NewUpkeepClient(conn)}
	return restores.before(g.websockets(g.limited(mux))), nil
}

// commonNameRefused is etcd's text, to the letter: clients see it.
const commonNameRefused = "CommonName of client sending a request against gateway will be ignored and not used as expected"

// nameless tells whether the client counts on a name that the gateway cannot hand on.
func (g *Gateway) nameless(r *http.Request) bool {
	return r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && r.TLS.PeerCertificates[0].Subject.CommonName != "" &&
		g.IgnoresCommonName != nil && g.IgnoresCommonName()
}
