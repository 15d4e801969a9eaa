package memnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// connected returns both ends of a connection from b to a listener at a.
func connected(t *testing.T, n *Network) (client, server net.Conn) {
	t.Helper()
	l, err := n.Listen("a:1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = n.Host("b").Dial(t.Context(), "a:1")
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestStreamKeepsOrderAndEndsWithEOF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		n.Delay("a", "b", time.Millisecond, 20*time.Millisecond)
		client, server := connected(t, n)
		var sent []byte
		var wg sync.WaitGroup
		for i := range 3000 { // more than the window, so that the writer has to wait
			sent = fmt.Appendf(sent, "%0300d", i)
		}
		wg.Go(func() {
			for part := sent; len(part) > 0; part = part[min(len(part), 700):] {
				if _, err := client.Write(part[:min(len(part), 700)]); err != nil {
					t.Error(err)
				}
			}
			client.Close()
		})
		got, err := io.ReadAll(server)
		wg.Wait()
		if err != nil || string(got) != string(sent) {
			t.Fatalf("got %d bytes, %v; want %d", len(got), err, len(sent))
		}
		if _, err := server.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write to a closed end: %v", err)
		}
		server.Close()
		if len(n.conns) != 0 {
			t.Error("closed connection is still known to the network")
		}
	})
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		n.Delay("a", "b", 40*time.Millisecond, 0)
		start := time.Now()
		client, server := connected(t, n)
		if took := time.Since(start); took != 80*time.Millisecond {
			t.Errorf("dial took %v, want one round trip", took)
		}
		start = time.Now()
		client.Write([]byte("hello"))
		if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 40*time.Millisecond {
			t.Errorf("write took %v to arrive", took)
		}
		client.Close()
		server.Close()
	})
}

func TestPartitionHoldsBytesUntilHealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		client, server := connected(t, n)
		n.Partition("a", "b")
		client.Write([]byte("held"))
		buf := make([]byte, 4)
		server.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := server.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read across a partition: %v", err)
		}
		server.SetReadDeadline(time.Time{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Host("b").Dial(ctx, "a:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("dial across a partition: %v", err)
		}
		time.AfterFunc(time.Hour, func() { n.Heal("b", "a") })
		start := time.Now()
		if _, err := io.ReadFull(server, buf); err != nil || string(buf) != "held" {
			t.Fatalf("after healing: %q %v", buf, err)
		}
		if time.Since(start) != time.Hour {
			t.Errorf("delivered after %v", time.Since(start))
		}
		client.Close()
		server.Close()
	})
}

func TestDropIsOneWayAndIsolateCutsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		client, server := connected(t, n)
		n.Drop("a", "b")
		client.Write([]byte("up"))
		server.Write([]byte("down"))
		buf := make([]byte, 4)
		if k, err := server.Read(buf); k != 2 || err != nil {
			t.Fatalf("open direction: %d %v", k, err)
		}
		client.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := client.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("dropped direction: %v", err)
		}
		client.SetReadDeadline(time.Time{})
		n.Restore("a", "b")
		if k, err := client.Read(buf); k != 4 || err != nil {
			t.Fatalf("restored direction: %d %v", k, err)
		}
		n.Isolate("b")
		client.Write([]byte("x"))
		server.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := server.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("isolated host is heard: %v", err)
		}
		server.SetReadDeadline(time.Time{})
		n.Rejoin("b")
		if k, err := server.Read(buf); k != 1 || err != nil {
			t.Fatalf("rejoined host: %d %v", k, err)
		}
		client.Close()
		server.Close()
	})
}

func TestDisconnectResetsWaitingReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		client, server := connected(t, n)
		result := make(chan error)
		go func() {
			_, err := client.Read(make([]byte, 1))
			result <- err
		}()
		synctest.Wait()
		if count := n.Disconnect("b", "a"); count != 1 {
			t.Errorf("reset %d connections", count)
		}
		if err := <-result; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("waiting read: %v", err)
		}
		if _, err := server.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write: %v", err)
		}
		if n.Crash("a") != 0 {
			t.Error("a reset connection is still known")
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		client, server := connected(t, n)
		client.SetWriteDeadline(time.Now().Add(time.Second))
		k, err := client.Write(make([]byte, 2*windowBytes))
		if k != windowBytes || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write past the window: %d %v", k, err)
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%v is not a timeout", err)
		}
		client.Close()
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read of a closed connection: %v", err)
		}
		server.Close()
	})
}

func TestListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		if _, err := n.Host("b").Dial(t.Context(), "a:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial without listener: %v", err)
		}
		l, _ := n.Listen("a:0")
		if _, err := n.Listen(l.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second listener: %v", err)
		}
		c, err := n.Host("b").Dial(t.Context(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("connection that nobody accepted: %v", err)
		}
	})
}

// HTTP's server and client lean on deadlines and on closing while reading; they must work and end cleanly.
func TestHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		l, _ := n.Listen("a:80")
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
		})}
		served := make(chan error)
		go func() { served <- server.Serve(l) }()
		transport := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return n.Host("b").Dial(ctx, addr)
		}}
		client := &http.Client{Transport: transport}
		for range 3 {
			resp, err := client.Get("http://a:80/")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		transport.CloseIdleConnections()
		server.Shutdown(t.Context())
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// A write that finds the other end gone ends reading in the same moment, whatever is still under way: whoever writes
// again and again until the reader has noticed would otherwise keep virtual time from moving on.
func TestWriteToAClosedEndResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		client, server := connected(t, n)
		n.Delay("a", "b", time.Minute, 0)
		if _, err := server.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
		n.Delay("a", "b", time.Second, 0)
		server.Close()
		if _, err := client.Write([]byte("x")); err != nil {
			t.Errorf("before the other end can have answered: %v", err)
		}
		time.Sleep(time.Second)
		start := time.Now()
		if _, err := client.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("after that: %v", err)
		}
		if _, err := client.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNRESET) || time.Since(start) != 0 {
			t.Errorf("reading: %v after %v", err, time.Since(start))
		}
		client.Close()
		if len(n.conns) != 0 {
			t.Error("closed connection is still known to the network")
		}
	})
}
