package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"syscall"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/server/httpapi"
	"github.com/upkeep-kv/upkeep/server/portuse"
	"github.com/upkeep-kv/upkeep/server/tlsconfig"
)

// port is an open listener, or one protocol's half of it.
type port struct {
	net.Listener
	url url.URL // that it was opened for
}

// listeners are the member's open ports, each split by protocol where it serves two.
type listeners struct {
	opened      []opened
	peerGRPC    []port
	peerHTTP    []port
	clientGRPC  []port
	clientHTTP  []port
	metricsHTTP []port
}

// opened is a port before it is known how TLS is spoken on it, if it is.
type opened struct {
	port
	kind  tlsconfig.Kind
	serve func(port)
}

type listenFunc func(network, address string) (net.Listener, error)

// open opens every port that cfg names, so that one that is in use is found before anything is written.
func (l *listeners) open(cfg settings, listen listenFunc) error {
	if listen == nil {
		listen = networkListener(cfg)
	}
	grpcOnly := len(cfg.ListenClientHTTPURLs) > 0
	for _, group := range []struct {
		flag  string
		urls  []url.URL
		kind  tlsconfig.Kind
		serve func(port)
	}{
		{"listen-peer-urls", cfg.ListenPeerURLs, tlsconfig.Peer, func(p port) { split(p, &l.peerGRPC, &l.peerHTTP) }},
		{"listen-client-urls", cfg.ListenClientURLs, tlsconfig.Client, func(p port) {
			if grpcOnly {
				l.clientGRPC = append(l.clientGRPC, p)
				return
			}
			split(p, &l.clientGRPC, &l.clientHTTP)
		}},
		{"listen-client-http-urls", cfg.ListenClientHTTPURLs, tlsconfig.Client, func(p port) { l.clientHTTP = append(l.clientHTTP, p) }},
		{"listen-metrics-urls", cfg.ListenMetricsURLs, tlsconfig.Client, func(p port) { l.metricsHTTP = append(l.metricsHTTP, p) }},
	} {
		for _, u := range group.urls {
			n, err := listenOn(listen, u)
			if err != nil {
				return fmt.Errorf("--%s %s: %w", group.flag, u.String(), err)
			}
			l.opened = append(l.opened, opened{port{n, u}, group.kind, group.serve})
		}
	}
	return nil
}

// secure begins to accept: with a handshake first where the URL says so, then by protocol.
func (l *listeners) secure(rings keyrings, logger *zap.Logger) {
	for i := range l.opened {
		o := &l.opened[i]
		if config.IsSecure(&o.url) {
			// Source of the log line: etcd.
			message := fmt.Sprintf("rejected connection on %s endpoint", o.kind)
			o.Listener = tlsconfig.NewListener(o.Listener, rings.of(o.kind).Server(), func(remote net.Addr, name string, err error) {
				logger.Warn(message, zap.Stringer("remote-addr", remote), zap.String("server-name", name), zap.Error(err))
			})
		}
		o.serve(o.port)
	}
}

func split(p port, grpcs, https *[]port) {
	g, h := httpapi.Split(p.Listener)
	*grpcs, *https = append(*grpcs, port{g, p.url}), append(*https, port{h, p.url})
}

func listenOn(listen listenFunc, u url.URL) (net.Listener, error) {
	if u.Scheme == "unix" || u.Scheme == "unixs" {
		return listen("unix", u.Host+u.Path)
	}
	n, err := listen("tcp", u.Host)
	return n, portuse.Explain(err, u.Host)
}

// networkListener listens on the network, with the socket options of cfg.
func networkListener(cfg settings) listenFunc {
	options := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		var errs []error
		err := conn.Control(func(fd uintptr) {
			if cfg.SocketReuseAddress {
				errs = append(errs, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
			}
			if cfg.SocketReusePort {
				errs = append(errs, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
			}
		})
		return errors.Join(append(errs, err)...)
	}}
	return func(network, address string) (net.Listener, error) {
		l, err := options.Listen(context.Background(), network, address)
		if network == "unix" && errors.Is(err, syscall.EADDRINUSE) && deserted(address) {
			if err := os.Remove(address); err != nil {
				return nil, err
			}
			return options.Listen(context.Background(), network, address)
		}
		return l, err
	}
}

// deserted tells whether a Unix socket is what a process that was killed has left: nobody accepts. A file that is no
// socket is not ours to remove.
func deserted(path string) bool {
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func (l *listeners) close() {
	for _, o := range l.opened {
		o.Close()
	}
}
