package httpapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// pipeListener accepts in-memory connections, so that the split can be tested in a synctest bubble.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

func TestSplitServesBothProtocols(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	forGRPC, forHTTP := Split(l)
	grpcServer := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(grpcServer, health.NewServer())
	httpServer := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Method, body)
	})}
	var servers sync.WaitGroup
	servers.Go(func() { _ = grpcServer.Serve(forGRPC) })
	servers.Go(func() { _ = httpServer.Serve(forHTTP) })

	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	reply, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil || reply.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("gRPC: %v, %v", reply, err)
	}
	for _, method := range []string{http.MethodPut, http.MethodPost, "PROPFIND", "P"} {
		request, err := http.NewRequestWithContext(ctx, method, "http://"+l.Addr().String(), strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if string(body) != method+" body" {
			t.Errorf("HTTP %s: %q", method, body)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	grpcServer.Stop()
	httpServer.Close()
	servers.Wait()
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("the original listener is still open after both sides were closed")
	}
}

// The preface may come in pieces; nothing of what was read to decide is lost.
func TestSplitDecidesOnSlowBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		forGRPC, forHTTP := Split(l)
		for _, c := range []struct {
			text string
			side net.Listener
		}{
			{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", forGRPC},
			{"PROPFIND / HTTP/1.1\r\n", forHTTP},
			{"GET / HTTP/1.1\r\n", forHTTP},
			{"X\r\n", forHTTP},
		} {
			client := l.dial()
			go func() {
				for i := range c.text {
					time.Sleep(time.Second)
					_, _ = client.Write([]byte{c.text[i]})
				}
				client.Close()
			}()
			conn, err := c.side.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(bufio.NewReader(conn)); string(got) != c.text || err != nil {
				t.Errorf("read %q, %v, want %q", got, err, c.text)
			}
			conn.Close()
		}
		l.Close()
		synctest.Wait()
	})
}

// A connection that says nothing is cut off, and holds no other back meanwhile.
func TestSplitDropsSilentConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		_, forHTTP := Split(l)
		silent := l.dial()
		start := time.Now()
		dropped := make(chan time.Duration)
		go func() {
			_, _ = silent.Read(make([]byte, 1))
			dropped <- time.Since(start)
		}()
		talking := l.dial()
		go func() { _, _ = talking.Write([]byte("GET / HTTP/1.1\r\n")) }()
		conn, err := forHTTP.Accept()
		if err != nil || time.Since(start) > 0 {
			t.Fatalf("accepted after %v: %v", time.Since(start), err)
		}
		if after := <-dropped; after != prefaceTimeout {
			t.Errorf("silent connection dropped after %v, want %v", after, prefaceTimeout)
		}
		conn.Close()
		talking.Close()
		l.Close()
		synctest.Wait()
	})
}

// Closing the original ends waiting connections, both Accepts and every goroutine: the bubble would not end otherwise.
func TestSplitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		forGRPC, forHTTP := Split(l)
		silent, waiting := l.dial(), l.dial()
		if _, err := waiting.Write([]byte("GET ")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // one is read from, the other waits for Accept
		l.Close()
		for _, side := range []net.Listener{forGRPC, forHTTP} {
			if _, err := side.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept after the end: %v", err)
			}
			if err := side.Close(); err != nil {
				t.Error(err)
			}
		}
		for _, conn := range []net.Conn{silent, waiting} {
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("connection after the end: %v", err)
			}
		}
	})
}

func TestSplitWithOneSideClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		forGRPC, forHTTP := Split(l)
		forGRPC.Close()
		turnedAway, accepted := l.dial(), l.dial()
		go func() { _, _ = turnedAway.Write([]byte("PRI ")) }()
		if _, err := turnedAway.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("connection for a closed side: %v", err)
		}
		go func() { _, _ = accepted.Write([]byte("GET ")) }()
		conn, err := forHTTP.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		forHTTP.Close()
		forHTTP.Close()
		if _, err := forHTTP.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept on a closed side: %v", err)
		}
	})
}
