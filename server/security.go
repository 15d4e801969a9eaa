package server

import (
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/server/tlsconfig"
)

// keyrings hold the certificates for clients and for peers. That for clients is nil where no client URL has TLS.
type keyrings struct{ client, peer *tlsconfig.Keyring }

func (k keyrings) of(kind tlsconfig.Kind) *tlsconfig.Keyring {
	if kind == tlsconfig.Peer {
		return k.peer
	}
	return k.client
}

// openKeyrings reads the certificates that exist already, before anything is written.
func (s *Server) openKeyrings() error {
	var err error
	if !s.cfg.PeerTLS.SelfSigned() {
		if s.rings.peer, err = tlsconfig.Open(tlsconfig.Peer, s.cfg.PeerTLS, s.cfg.TLS, s.logger); err != nil {
			return err
		}
	}
	if s.cfg.servesTLS() && !s.cfg.ClientTLS.SelfSigned() {
		s.rings.client, err = tlsconfig.Open(tlsconfig.Client, s.cfg.ClientTLS, s.cfg.TLS, s.logger)
	}
	return err
}

// servesTLS tells whether one of the client URLs has TLS.
func (c settings) servesTLS() bool {
	return slices.ContainsFunc(c.allClientURLs(), func(u url.URL) bool { return config.IsSecure(&u) })
}

func (c settings) allClientURLs() []url.URL {
	return slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs, c.ListenMetricsURLs)
}

// makeKeyrings makes the certificates of --auto-tls and --peer-auto-tls where etcd keeps them.
func (s *Server) makeKeyrings() error {
	make := func(kind tlsconfig.Kind, side tlsconfig.Settings, urls []url.URL) (*tlsconfig.Keyring, error) {
		var hosts []string
		for _, u := range urls {
			if config.IsSecure(&u) {
				hosts = append(hosts, serverName(&u))
			}
		}
		slices.Sort(hosts)
		dir := filepath.Join(s.dir.root, "fixtures", kind.String())
		signed, err := tlsconfig.SelfSign(side, dir, slices.Compact(hosts), s.cfg.SelfSignedYears)
		if err != nil {
			return nil, err
		}
		return tlsconfig.Open(kind, signed, s.cfg.TLS, s.logger)
	}
	var err error
	if s.rings.peer == nil {
		if s.rings.peer, err = make(tlsconfig.Peer, s.cfg.PeerTLS, s.cfg.ListenPeerURLs); err != nil {
			return err
		}
	}
	if s.rings.client == nil && s.cfg.servesTLS() {
		s.rings.client, err = make(tlsconfig.Client, s.cfg.ClientTLS, s.cfg.allClientURLs())
	}
	return err
}

// serverName is the name that a server's certificate must have: the host of its URL or, for a Unix socket, the name of
// the file. Source: etcd's client.
func serverName(u *url.URL) string {
	if u.Scheme == "unix" || u.Scheme == "unixs" {
		name, _, _ := strings.Cut(path.Base(u.Host+u.Path), ":")
		return name
	}
	return u.Hostname()
}

// securePeer does the handshake with another member.
func (s *Server) securePeer(ctx context.Context, conn net.Conn, peer *url.URL) (net.Conn, error) {
	cfg, err := s.rings.peer.Dialer(serverName(peer))
	if err != nil {
		return nil, err
	}
	secure := tls.Client(conn, cfg)
	return secure, secure.HandshakeContext(ctx)
}
