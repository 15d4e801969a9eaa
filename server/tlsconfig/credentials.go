package tlsconfig

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// State returns what the TLS handshake of a connection has found, if there was one: of a *tls.Conn, or of what wraps
// one and has a method NetConn.
func State(conn net.Conn) (tls.ConnectionState, bool) {
	for conn != nil {
		if secure, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
			return secure.ConnectionState(), true
		}
		wrapper, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = wrapper.NetConn()
	}
	return tls.ConnectionState{}, false
}

// Terminated returns credentials for a gRPC server whose listeners have done the handshakes: services see the client's
// certificate as credentials.TLSInfo, and plain connections as such.
func Terminated() credentials.TransportCredentials { return terminated{insecure.NewCredentials()} }

// terminated passes plain connections on to the credentials that it embeds.
type terminated struct {
	credentials.TransportCredentials
}

func (t terminated) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	state, ok := State(conn)
	if !ok {
		return t.TransportCredentials.ServerHandshake(conn)
	}
	info := credentials.TLSInfo{State: state}
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	return conn, info, nil
}

func (terminated) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("tlsconfig: these credentials are for servers")
}

func (t terminated) Clone() credentials.TransportCredentials { return t }
