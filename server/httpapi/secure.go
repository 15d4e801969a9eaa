package httpapi

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"

	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/server/tlsconfig"
)

type stateKey struct{}

// Secure makes server serve connections whose TLS was terminated by their listener: handlers find Request.TLS as usual,
// HTTP/2 is served, and calls of gRPC that arrive on a connection of HTTP go to calls, unless that is nil.
func Secure(server *http.Server, calls *grpc.Server) {
	server.Protocols = &http.Protocols{}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	// The server sees no TLS when a connection comes out of Split, and takes HTTP/2 on it for the unencrypted kind.
	server.Protocols.SetUnencryptedHTTP2(true)
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if state, ok := tlsconfig.State(conn); ok {
			return context.WithValue(ctx, stateKey{}, &state)
		}
		return ctx
	}
	next := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if state, ok := r.Context().Value(stateKey{}).(*tls.ConnectionState); ok && r.TLS == nil {
			r = r.WithContext(r.Context()) // a copy: a handler must not change its request
			r.TLS = state
		}
		if calls != nil && r.TLS != nil && r.ProtoMajor == 2 && isGRPCContent(r.Header.Get("Content-Type")) {
			calls.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}
