package tlsconfig

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// HandshakeTimeout is how long a connection has for its handshake. Source: etcd.
const HandshakeTimeout = 10 * time.Second

// Rejected is told of a connection whose handshake failed. It may run on several goroutines at once.
type Rejected func(remote net.Addr, serverName string, err error)

// NewListener accepts the connections of from whose handshake succeeded, as *tls.Conn. Handshakes run beside each other,
// so that a slow one holds nobody back. Close ends those under way, and from.
func NewListener(from net.Listener, config *tls.Config, rejected Rejected) net.Listener {
	l := &listener{from: from, config: config, rejected: rejected, conns: make(chan net.Conn), errs: make(chan error)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.tasks.Go(l.accept)
	return l
}

type listener struct {
	from     net.Listener
	config   *tls.Config
	rejected Rejected

	conns chan net.Conn
	errs  chan error

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup // accept and the handshakes
}

// accept hands errors to Accept, whose caller knows which of them pass, and goes on until the listener is closed.
func (l *listener) accept() {
	for {
		conn, err := l.from.Accept()
		if err == nil {
			l.tasks.Go(func() { l.handshake(conn) })
			continue
		}
		select {
		case l.errs <- err:
		case <-l.ctx.Done():
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

func (l *listener) handshake(raw net.Conn) {
	ctx, cancel := context.WithTimeout(l.ctx, HandshakeTimeout)
	defer cancel()
	conn := tls.Server(raw, l.config)
	if err := conn.HandshakeContext(ctx); err != nil {
		explainTLS(err)
		raw.Close()
		if l.ctx.Err() == nil {
			l.rejected(raw.RemoteAddr(), conn.ConnectionState().ServerName, err)
		}
		return
	}
	select {
	case l.conns <- conn:
	case <-l.ctx.Done():
		raw.Close()
	}
}

// explainTLS tells a client that speaks HTTP without TLS what is missing.
func explainTLS(err error) {
	var begin tls.RecordHeaderError
	if !errors.As(err, &begin) || begin.Conn == nil {
		return
	}
	switch string(begin.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH":
		_ = begin.Conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(begin.Conn, "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n"+
			"This port has TLS: use https.\n") // who does not read it has no need of it
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case err := <-l.errs:
		return nil, err
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	err := l.from.Close()
	l.cancel()
	l.tasks.Wait()
	return err
}

func (l *listener) Addr() net.Addr { return l.from.Addr() }
