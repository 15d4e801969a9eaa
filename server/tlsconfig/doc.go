// Package tlsconfig turns certificate files and rules into the two configurations of crypto/tls that a member needs for
// each kind of connections: one to accept them, one to open them.
//
// A member whose peers must show a certificate named "member":
//
//	settings := tlsconfig.Settings{
//		CertFile: "m1.crt", KeyFile: "m1.key", TrustedCAFile: "ca.crt",
//		CRLFile: "revoked.pem", AllowedCNs: []string{"member"},
//	}
//	ring, err := tlsconfig.Open(tlsconfig.Peer, settings, tlsconfig.Protocol{}, logger)
//	listener := tlsconfig.NewListener(plain, ring.Server(), rejected)
//
// Now m1.crt and m1.key are replaced, and later a line is added to revoked.pem: the next handshake shows the new
// certificate and refuses the revoked one, since every handshake reads the files. They are parsed only when their bytes
// have changed. A half-replaced pair (certificate and key that do not fit) leaves the one before in use; authorities and
// revocations that cannot be read refuse everybody, as the safe side.
//
// Who connects is verified in this order: the chain up to an authority, by crypto/tls; the revocation list; the allowed
// common names or host names; for peers, the certificate's addresses against where the connection comes from
// (origin.go). All of it happens inside the handshake, so nobody who is refused gets as far as a protocol. Sessions are
// not resumed, because a resumed one would skip what changed since.
//
// The handshake belongs to the listener and not to gRPC or HTTP, which share a port: after it, the first bytes decide
// whose the connection is. Terminated passes what the handshake found on to gRPC.
//
// SelfSign makes the certificate of --auto-tls. It keeps eavesdroppers out and nobody else: nothing verifies it.
package tlsconfig
