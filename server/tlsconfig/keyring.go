package tlsconfig

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"

	"go.uber.org/zap"
)

// errNotAllowed is the answer to certificates of others than those who are allowed. Source: etcd.
var errNotAllowed = errors.New("client certificate authentication failed")

// Keyring makes the configurations of one side's connections. Its files are read anew for every handshake.
type Keyring struct {
	kind     Kind
	settings Settings
	protocol Protocol
	logger   *zap.Logger

	// own is shown by this side when it serves, outgoing when it connects; both may be nil, and the same.
	own, outgoing *pair
	authorities   *watched[*x509.CertPool] // nil: the machine's
	revoked       *watched[revoked]        // nil: nothing is
}

// Open reads the files of s once, so that one that is missing or broken is found at the start; the error names its flag.
// A side of Auto has its files made first: see SelfSign.
func Open(k Kind, s Settings, p Protocol, logger *zap.Logger) (*Keyring, error) {
	r := &Keyring{kind: k, settings: s, protocol: p, logger: logger}
	if s.HasPair() {
		r.own = newPair(s.CertFile, s.KeyFile)
		r.outgoing = r.own
		if _, err := r.own.load(); err != nil {
			return nil, fmt.Errorf("%s and %s: %w", k.flag("cert-file"), k.flag("key-file"), err)
		}
	}
	if s.ClientCertFile != "" {
		r.outgoing = newPair(s.ClientCertFile, s.ClientKeyFile)
		if _, err := r.outgoing.load(); err != nil {
			return nil, fmt.Errorf("%s and %s: %w", k.flag("client-cert-file"), k.flag("client-key-file"), err)
		}
	}
	if s.TrustedCAFile != "" && !s.SelfSigned() {
		r.authorities = newAuthorities(s.TrustedCAFile)
		if _, err := r.authorities.load(); err != nil {
			return nil, fmt.Errorf("%s: %w", k.flag("trusted-ca-file"), err)
		}
	}
	if s.CRLFile != "" {
		r.revoked = newRevocations(s.CRLFile)
		if _, err := r.revoked.load(); err != nil {
			return nil, fmt.Errorf("%s: %w", k.flag("crl-file"), err)
		}
	}
	return r, nil
}

// current reads a pair. One that cannot be used just now, as half of it was replaced, leaves the one before in use.
func (r *Keyring) current(p *pair) (*tls.Certificate, error) {
	if p == nil {
		return nil, errNoPair
	}
	cert, err := p.load()
	if err == nil {
		return cert, nil
	}
	if cert, ok := p.last(); ok {
		r.logger.Warn("cannot use the certificate as it is on disk; going on with the one before",
			zap.Strings("files", p.paths), zap.Error(err))
		return cert, nil
	}
	return nil, err
}

func (r *Keyring) base() *tls.Config {
	return &tls.Config{
		MinVersion:   max(r.protocol.MinVersion, tls.VersionTLS12),
		MaxVersion:   r.protocol.MaxVersion,
		CipherSuites: r.protocol.CipherSuites,
		// A resumed session would carry on with what was verified before the files changed.
		SessionTicketsDisabled: true,
	}
}

// Server is the configuration for accepting connections.
func (r *Keyring) Server() *tls.Config {
	c := r.base()
	c.NextProtos = []string{"h2", "http/1.1"}
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return r.current(r.own) }
	if !r.settings.RequiresClientCert() {
		return c
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	once := c.Clone()
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c := once.Clone()
		var err error
		if c.ClientCAs, err = r.pool(); err != nil {
			return nil, err
		}
		ctx, remote := hello.Context(), hello.Conn.RemoteAddr()
		c.VerifyConnection = func(state tls.ConnectionState) error { return r.admit(ctx, remote, state) }
		return c, nil
	}
	return c
}

// Dialer is the configuration for connecting to a server of this side under the given name.
func (r *Keyring) Dialer(serverName string) (*tls.Config, error) {
	c := r.base()
	c.ServerName = serverName
	c.NextProtos = []string{"h2"}
	// A self-signed certificate proves nothing: such connections are kept from eavesdroppers, not from impostors.
	c.InsecureSkipVerify = r.settings.SelfSigned()
	var err error
	if c.RootCAs, err = r.pool(); err != nil {
		return nil, err
	}
	if r.outgoing != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return r.current(r.outgoing) }
	}
	c.VerifyConnection = r.checkNames
	return c, nil
}

// pool is nil for the machine's authorities.
func (r *Keyring) pool() (*x509.CertPool, error) {
	if r.authorities == nil {
		return nil, nil
	}
	pool, err := r.authorities.load()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.kind.flag("trusted-ca-file"), err)
	}
	return pool, nil
}

// admit decides about whoever has shown a certificate that an authority vouches for.
func (r *Keyring) admit(ctx context.Context, remote net.Addr, state tls.ConnectionState) error {
	if r.revoked != nil {
		list, err := r.revoked.load()
		if err != nil {
			return fmt.Errorf("%s: %w", r.kind.flag("crl-file"), err)
		}
		if err := list.check(state.PeerCertificates); err != nil {
			return err
		}
	}
	if err := r.checkNames(state); err != nil {
		return err
	}
	if r.kind == Peer && !r.settings.SkipClientSANVerification && len(state.PeerCertificates) > 0 {
		return checkOrigin(ctx, state.PeerCertificates[0], remote, net.DefaultResolver)
	}
	return nil
}

// checkNames refuses certificates of others than those who are allowed.
func (r *Keyring) checkNames(state tls.ConnectionState) error {
	var allowed func(*x509.Certificate) bool
	switch {
	case r.settings.SelfSigned():
		return nil
	case len(r.settings.AllowedCNs) > 0:
		allowed = func(c *x509.Certificate) bool { return slices.Contains(r.settings.AllowedCNs, c.Subject.CommonName) }
	case len(r.settings.AllowedHostnames) > 0:
		allowed = func(c *x509.Certificate) bool {
			return slices.ContainsFunc(r.settings.AllowedHostnames, func(name string) bool { return c.VerifyHostname(name) == nil })
		}
	default:
		return nil
	}
	for _, chain := range state.VerifiedChains {
		if len(chain) > 0 && allowed(chain[0]) {
			return nil
		}
	}
	return errNotAllowed
}
