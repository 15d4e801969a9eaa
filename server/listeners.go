package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/upkeep-kv/upkeep/server/httpapi"
	"github.com/upkeep-kv/upkeep/server/portuse"
)

// listeners are the member's open ports, each split by protocol where it serves two.
type listeners struct {
	all         []net.Listener
	peerGRPC    []net.Listener
	peerHTTP    []net.Listener
	clientGRPC  []net.Listener
	clientHTTP  []net.Listener
	metricsHTTP []net.Listener
}

type listenFunc func(network, address string) (net.Listener, error)

// open opens every port that cfg names, so that one that is in use is found before anything is written.
func (l *listeners) open(cfg settings, listen listenFunc) error {
	if listen == nil {
		listen = networkListener(cfg)
	}
	for _, group := range []struct {
		flag string
		urls []url.URL
		add  func(net.Listener)
	}{
		{"listen-peer-urls", cfg.ListenPeerURLs, func(n net.Listener) {
			l.peerGRPC, l.peerHTTP = split(n, l.peerGRPC, l.peerHTTP)
		}},
		{"listen-client-urls", cfg.ListenClientURLs, func(n net.Listener) {
			if len(cfg.ListenClientHTTPURLs) > 0 {
				l.clientGRPC = append(l.clientGRPC, n)
				return
			}
			l.clientGRPC, l.clientHTTP = split(n, l.clientGRPC, l.clientHTTP)
		}},
		{"listen-client-http-urls", cfg.ListenClientHTTPURLs, func(n net.Listener) { l.clientHTTP = append(l.clientHTTP, n) }},
		{"listen-metrics-urls", cfg.ListenMetricsURLs, func(n net.Listener) { l.metricsHTTP = append(l.metricsHTTP, n) }},
	} {
		for _, u := range group.urls {
			n, err := listenOn(listen, u)
			if err != nil {
				return fmt.Errorf("--%s %s: %w", group.flag, u.String(), err)
			}
			l.all = append(l.all, n)
			group.add(n)
		}
	}
	return nil
}

func split(n net.Listener, grpcs, https []net.Listener) ([]net.Listener, []net.Listener) {
	g, h := httpapi.Split(n)
	return append(grpcs, g), append(https, h)
}

func listenOn(listen listenFunc, u url.URL) (net.Listener, error) {
	switch u.Scheme {
	case "http":
		n, err := listen("tcp", u.Host)
		return n, portuse.Explain(err, u.Host)
	case "unix":
		return listen("unix", u.Host+u.Path)
	}
	return nil, fmt.Errorf("scheme %q needs TLS, which this version does not serve; use http or unix", u.Scheme)
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
	for _, n := range l.all {
		n.Close()
	}
}
