package httpapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/upkeep-kv/upkeep/raftnode/memnet"
	"github.com/upkeep-kv/upkeep/server/tlsconfig"
	"github.com/upkeep-kv/upkeep/tests/certs"
)

// witness answers health checks and remembers who asked.
type witness struct {
	healthpb.UnimplementedHealthServer
	mu     sync.Mutex
	caller string
}

func (w *witness) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	from, _ := peer.FromContext(ctx)
	info, ok := from.AuthInfo.(credentials.TLSInfo)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.caller = fmt.Sprintf("%T", from.AuthInfo)
	if ok && len(info.State.VerifiedChains) > 0 {
		w.caller = info.State.VerifiedChains[0][0].Subject.CommonName
	}
	return &healthpb.HealthCheckResponse{}, nil
}

func (w *witness) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.caller
}

// securePort serves gRPC and HTTP on one port with TLS, as a member does.
type securePort struct {
	address string
	ca      *certs.Authority
	client  *tls.Config
	witness *witness
}

func newSecurePort(t *testing.T) *securePort {
	t.Helper()
	ca := certs.NewAuthority(t, "ca")
	own := ca.Issue(t, certs.Spec{CommonName: "server", IPs: []string{"127.0.0.1"}})
	ring, err := tlsconfig.Open(tlsconfig.Client, tlsconfig.Settings{
		CertFile: own.CertFile, KeyFile: own.KeyFile, TrustedCAFile: ca.CertFile,
	}, tlsconfig.Protocol{}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &securePort{address: plain.Addr().String(), ca: ca, witness: &witness{}}
	p.client = ca.Client(t, ca.Issue(t, certs.Spec{CommonName: "alice"}))
	secure := tlsconfig.NewListener(plain, ring.Server(), func(net.Addr, string, error) {})
	forGRPC, forHTTP := Split(secure)
	calls := grpc.NewServer(grpc.Creds(tlsconfig.Terminated()))
	healthpb.RegisterHealthServer(calls, p.witness)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
			name = r.TLS.VerifiedChains[0][0].Subject.CommonName
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s from %s: %d bytes", r.Proto, r.URL.Path, name, len(body))
	})}
	Secure(server, calls)
	var serving sync.WaitGroup
	serving.Go(func() { _ = calls.Serve(forGRPC) })
	serving.Go(func() { _ = server.Serve(forHTTP) })
	t.Cleanup(func() {
		server.Close()
		calls.Stop()
		serving.Wait()
	})
	return p
}

func (p *securePort) httpClient(t *testing.T, http2Too bool) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: p.client, ForceAttemptHTTP2: http2Too}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (p *securePort) post(t *testing.T, client *http.Client, size int) string {
	t.Helper()
	resp, err := client.Post("https://"+p.address+"/x", "application/json", strings.NewReader(strings.Repeat("x", size)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// One TLS port serves gRPC, HTTP/2 and HTTP/1, and each knows the client's certificate.
func TestSecurePort(t *testing.T) {
	p := newSecurePort(t)
	conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(credentials.NewTLS(p.client)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := p.witness.last(); got != "alice" {
		t.Errorf("gRPC saw %q", got)
	}
	// Larger than the windows, so that the settings of the server behind take effect.
	for http2Too, want := range map[bool]string{
		false: "HTTP/1.1 /x from alice: 3000000 bytes", true: "HTTP/2.0 /x from alice: 3000000 bytes",
	} {
		client := p.httpClient(t, http2Too)
		for range 2 {
			if got := p.post(t, client, 3_000_000); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	}
}

// A call of gRPC on a connection that began with another request, as a proxy sends it.
func TestCallOnConnectionOfHTTP(t *testing.T) {
	p := newSecurePort(t)
	client := p.httpClient(t, true)
	p.post(t, client, 1)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		"https://"+p.address+"/grpc.health.v1.Health/Check", bytes.NewReader(make([]byte, 5)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc+proto")
	req.Header.Set("TE", "trailers")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	if status := resp.Trailer.Get("Grpc-Status"); status != "0" || p.witness.last() != "alice" {
		t.Errorf("status %q, seen %q", status, p.witness.last())
	}
}

// secureConn stands for a connection behind its handshake.
type secureConn struct{ net.Conn }

func (secureConn) ConnectionState() tls.ConnectionState { return tls.ConnectionState{} }

type secureListener struct{ net.Listener }

func (l secureListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return secureConn{conn}, nil
}

// dialogue splits a port that is said to be secure and returns a connection to it, and the two sides.
func dialogue(t *testing.T) (client net.Conn, forGRPC, forHTTP net.Listener) {
	t.Helper()
	network := memnet.New(1)
	l, err := network.Host("server").Listen(1)
	if err != nil {
		t.Fatal(err)
	}
	forGRPC, forHTTP = Split(secureListener{l})
	client, err = network.Host("client").Dial(t.Context(), "server:1")
	if err != nil {
		t.Fatal(err)
	}
	return client, forGRPC, forHTTP
}

func begin(framer *http2.Framer, out *bytes.Buffer, contentType string, ackFirst bool) {
	out.WriteString(http2.ClientPreface)
	_ = framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	if ackFirst {
		_ = framer.WriteSettingsAck()
	}
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", "POST"}, {":path", "/x"}, {":scheme", "https"}, {":authority", "a"}, {"content-type", contentType}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	half := head.Len() / 2
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes()[:half]})
	_ = framer.WriteContinuation(1, true, head.Bytes()[half:])
	if !ackFirst {
		_ = framer.WriteSettingsAck()
	}
	_ = framer.WriteData(1, true, []byte("body"))
	_ = framer.WriteSettingsAck() // of the settings of the server behind
}

// The first request decides, and the server behind reads what the client sent without its answer to our settings,
// whether that came before or after the request, in one piece or byte by byte.
func TestFirstRequestDecides(t *testing.T) {
	for _, c := range []struct {
		kind     string
		isGRPC   bool
		ackFirst bool
		bytewise bool
	}{
		{"application/grpc", true, true, false},
		{"application/grpc+proto", true, false, true},
		{"application/grpc-web", false, true, true},
		{"application/json", false, false, false},
		{"text/html", false, false, true},
	} {
		t.Run(fmt.Sprintf("%s %t %t", c.kind, c.ackFirst, c.bytewise), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, forGRPC, forHTTP := dialogue(t)
				defer client.Close()
				var sent, want, ack bytes.Buffer
				begin(http2.NewFramer(&sent, nil), &sent, c.kind, c.ackFirst)
				_ = http2.NewFramer(&ack, nil).WriteSettingsAck()
				want.Write(bytes.Replace(sent.Bytes(), ack.Bytes(), nil, 1))
				size := sent.Len()
				if c.bytewise {
					size = 1
				}
				for piece := range slices.Chunk(sent.Bytes(), size) {
					if _, err := client.Write(piece); err != nil {
						t.Fatal(err)
					}
				}
				to, other := forHTTP, forGRPC
				if c.isGRPC {
					to, other = forGRPC, forHTTP
				}
				conn, err := to.Accept()
				if err != nil {
					t.Fatal(err)
				}
				got := make([]byte, want.Len())
				if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want.Bytes()) {
					t.Errorf("the server behind reads %q, want %q: %v", got, want.Bytes(), err)
				}
				if _, ok := tlsconfig.State(conn); !ok {
					t.Error("the connection has forgotten its handshake")
				}
				conn.Close()
				to.Close()
				other.Close()
			})
		})
	}
}

// A client that connects ahead of its first call finds settings, and is gRPC's after a while, or when it pings.
func TestSilentConnectionIsGRPC(t *testing.T) {
	for name, ping := range map[string]bool{"silent": false, "pings": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, forGRPC, forHTTP := dialogue(t)
				defer client.Close()
				start := time.Now()
				framer := http2.NewFramer(client, client)
				if _, err := client.Write([]byte(http2.ClientPreface)); err != nil {
					t.Fatal(err)
				}
				_ = framer.WriteSettings()
				if frame, err := framer.ReadFrame(); err != nil || frame.Header().Type != http2.FrameSettings {
					t.Fatalf("%v %v", frame, err)
				}
				_ = framer.WriteSettingsAck()
				want := idleTimeout
				if ping {
					_ = framer.WritePing(false, [8]byte{})
					want = 0
				}
				conn, err := forGRPC.Accept()
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took != want {
					t.Errorf("decided after %s, want %s", took, want)
				}
				_ = conn.SetReadDeadline(time.Now().Add(time.Second))
				if rest, err := io.ReadAll(conn); !errors.Is(err, os.ErrDeadlineExceeded) || bytes.Contains(rest, []byte{4, 1, 0, 0, 0, 0}) {
					t.Errorf("read %q, %v", rest, err)
				}
				conn.Close()
				forGRPC.Close()
				forHTTP.Close()
			})
		})
	}
}

// replay is a connection whose other side has sent everything and waits.
type replay struct {
	net.Conn
	sent io.Reader
}

func (r replay) Read(p []byte) (int, error)     { return r.sent.Read(p) }
func (replay) Write(p []byte) (int, error)      { return len(p), nil }
func (replay) SetDeadline(time.Time) error      { return nil }
func (replay) SetReadDeadline(time.Time) error  { return nil }
func (replay) SetWriteDeadline(time.Time) error { return nil }

// Whatever comes, the server behind reads it as it was sent, up to one answer to settings and a frame without its end.
func FuzzFirstRequest(f *testing.F) {
	for _, kind := range []string{"application/grpc", "text/html"} {
		var sent bytes.Buffer
		begin(http2.NewFramer(&sent, nil), &sent, kind, kind == "text/html")
		f.Add(sent.Bytes())
	}
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x01\x01\x04\x00\x00\x00\x01\xff"))
	f.Add([]byte("PRI /x HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		if len(sent) < len(preface) || string(sent[:len(preface)]) != preface {
			return
		}
		begun, _, err := firstRequest(replay{sent: bytes.NewReader(sent[len(preface):])}, sent[:len(preface):len(preface)])
		if err != nil {
			return
		}
		got, _ := io.ReadAll(begun)
		if want := cutAck(sent); !bytes.HasPrefix(want, got) || len(want)-len(got) > frameHeaderBytes {
			t.Errorf("sent %q, read %q", sent, got)
		}
	})
}

// cutAck is what settledConn is to do, on a text in memory.
func cutAck(sent []byte) []byte {
	at := len(http2.ClientPreface)
	for at+frameHeaderBytes <= len(sent) {
		if sent[at+3] == byte(http2.FrameSettings) && sent[at+4]&1 != 0 && bytes.Equal(sent[at:at+3], []byte{0, 0, 0}) {
			return append(bytes.Clone(sent[:at]), sent[at+frameHeaderBytes:]...)
		}
		at += frameHeaderBytes + int(sent[at])<<16 + int(sent[at+1])<<8 + int(sent[at+2])
	}
	return sent
}
