package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// unixPrefix tells the addresses of Unix sockets, as Config.Dial gets them, from host:port.
const unixPrefix = "unix:"

func dialNetwork(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	if path, ok := strings.CutPrefix(address, unixPrefix); ok {
		return d.DialContext(ctx, "unix", path)
	}
	return d.DialContext(ctx, "tcp", address)
}

// connect dials one peer URL.
func (t *Transport) connect(ctx context.Context, address string) (net.Conn, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	to := u.Host
	if u.Scheme == "unix" || u.Scheme == "unixs" {
		to = unixPrefix + u.Host + u.Path
	}
	dialing, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := t.config.Dial(dialing, to)
	if err != nil || !isSecure(address) {
		return conn, err
	}
	if t.config.Secure == nil {
		err = errors.New("transport: no TLS is set up for peer URL " + address)
	} else {
		var secure net.Conn
		if secure, err = t.config.Secure(ctx, conn, u); err == nil {
			return secure, nil
		}
	}
	conn.Close()
	return nil, err
}

// isSecure tells whether a peer URL asks for TLS; the scheme may be in capitals.
func isSecure(address string) bool {
	u, err := url.Parse(address)
	return err != nil || u.Scheme == "https" || u.Scheme == "unixs"
}

// addressesOf checks that every peer URL can be dialled.
func addressesOf(urls []string) ([]string, error) {
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil {
				return nil, fmt.Errorf("transport: peer URL %q: %w", text, err)
			}
		case "unix", "unixs":
			if u.Host+u.Path == "" {
				return nil, fmt.Errorf("transport: peer URL %q has no path of a socket", text)
			}
		default:
			return nil, fmt.Errorf("transport: peer URL %q is none of http, https, unix and unixs", text)
		}
	}
	if len(urls) == 0 {
		return nil, fmt.Errorf("transport: no peer URL")
	}
	return urls, nil
}
