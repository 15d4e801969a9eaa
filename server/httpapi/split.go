package httpapi

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/upkeep-kv/upkeep/server/tlsconfig"
)

// HTTP/2 connections, and gRPC's are those, begin with "PRI * HTTP/2.0"; no method of HTTP/1 begins with "PRI ".
const preface = "PRI "

// A connection has this long to send its first bytes. Both kinds of clients send them at once.
const prefaceTimeout = 2 * time.Minute

// Split serves two protocols on one port: connections that begin with HTTP/2's preface are accepted from the first
// listener, all others from the second. Where TLS has been terminated browsers speak HTTP/2 too, and so the first request
// decides there: only those for gRPC are accepted from the first listener. Closing one of the two turns the connections for it away; closing both, or the
// original, ends the split. Accept fails only after every goroutine of the split but one that ends at once has ended.
func Split(from net.Listener) (grpcListener, httpListener net.Listener) {
	s := &splitter{from: from, stopping: make(chan struct{}), ended: make(chan struct{})}
	s.mu.undecided = map[net.Conn]struct{}{}
	s.grpc, s.http = s.side(), s.side()
	go s.accept()
	return s.grpc, s.http
}

type splitter struct {
	from       net.Listener
	grpc, http *side
	stopping   chan struct{} // closed under mu when the original can accept no more
	ended      chan struct{} // closed once all sniffers have ended
	err        error         // why; guarded by ended

	sniffers sync.WaitGroup
	mu       struct {
		sync.Mutex
		open      int                   // sides
		undecided map[net.Conn]struct{} // connections whose first bytes are awaited
	}
}

func (s *splitter) side() *side {
	s.mu.open++
	return &side{splitter: s, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// accept is the goroutine that owns the split: it starts the sniffers and joins them.
func (s *splitter) accept() {
	const maxPause = time.Second
	pause := 5 * time.Millisecond
	for {
		conn, err := s.from.Accept()
		switch {
		case err == nil:
			pause = 5 * time.Millisecond
			s.sniffers.Go(func() { s.sniff(conn) })
			continue
		case isPassing(err):
			time.Sleep(pause) // connections wait in the listener's queue meanwhile
			pause = min(2*pause, maxPause)
			continue
		}
		s.stop()
		s.sniffers.Wait()
		s.err = err
		close(s.ended)
		return
	}
}

// isPassing recognizes errors of one connection and a shortage of descriptors, which others may end.
func isPassing(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED)
}

// stop wakes every sniffer.
func (s *splitter) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.stopping)
	for conn := range s.mu.undecided {
		conn.Close()
	}
}

// watch has stop close the connection, or reports that it is too late for that.
func (s *splitter) watch(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.stopping:
		return false
	default:
		s.mu.undecided[conn] = struct{}{}
		return true
	}
}

func (s *splitter) unwatch(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.undecided, conn)
}

func (s *splitter) sniff(conn net.Conn) {
	if !s.watch(conn) {
		conn.Close()
		return
	}
	begun, isGRPC, err := decide(conn)
	s.unwatch(conn)
	if err != nil {
		conn.Close()
		return
	}
	if isGRPC {
		s.grpc.hand(begun)
	} else {
		s.http.hand(begun)
	}
}

// decide reads as much as it takes to know whose the connection is. What it returns begins with what was read.
func decide(conn net.Conn) (begun net.Conn, isGRPC bool, err error) {
	begin, err := readPreface(conn)
	if err != nil {
		return nil, false, err
	}
	isHTTP2 := string(begin) == preface
	if _, secure := tlsconfig.State(conn); isHTTP2 && secure {
		return firstRequest(conn, begin)
	}
	return &begunConn{Conn: conn, begin: begin}, isHTTP2, nil
}

// readPreface reads until it is clear which protocol the connection speaks.
func readPreface(conn net.Conn) ([]byte, error) {
	if err := conn.SetReadDeadline(time.Now().Add(prefaceTimeout)); err != nil {
		return nil, err
	}
	begin := make([]byte, 0, len(preface))
	for len(begin) < len(preface) && string(begin) == preface[:len(begin)] {
		n, err := conn.Read(begin[len(begin):cap(begin)])
		begin = begin[:len(begin)+n]
		if n == 0 && err != nil {
			if len(begin) > 0 && errors.Is(err, io.EOF) {
				break // HTTP will say what is wrong with it
			}
			return nil, err
		}
	}
	return begin, conn.SetReadDeadline(time.Time{})
}

// side is one of the two listeners.
type side struct {
	splitter *splitter
	conns    chan net.Conn
	once     sync.Once
	closed   chan struct{}
}

// hand gives the connection to Accept, or closes it when nobody will accept it any more.
func (l *side) hand(conn net.Conn) {
	select {
	case l.conns <- conn:
	case <-l.closed:
		conn.Close()
	case <-l.splitter.stopping:
		conn.Close()
	}
}

func (l *side) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.splitter.ended:
		return nil, l.splitter.err
	}
}

// Close stops accepting on this side. The original is closed with the second one.
func (l *side) Close() error {
	var err error
	l.once.Do(func() {
		close(l.closed)
		l.splitter.mu.Lock()
		l.splitter.mu.open--
		last := l.splitter.mu.open == 0
		l.splitter.mu.Unlock()
		if last {
			err = l.splitter.from.Close()
			<-l.splitter.ended
		}
	})
	return err
}

func (l *side) Addr() net.Addr { return l.splitter.from.Addr() }

// begunConn is a connection whose first bytes have been read already.
type begunConn struct {
	net.Conn
	begin []byte
}

// NetConn is what tells of the TLS below.
func (c *begunConn) NetConn() net.Conn { return c.Conn }

func (c *begunConn) Read(p []byte) (int, error) {
	if len(c.begin) > 0 {
		n := copy(p, c.begin)
		c.begin = c.begin[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
