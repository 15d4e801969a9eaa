package badinput

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestGarbageOnTheWire: whatever comes in, it is refused or taken for what it can be, and the member serves on, with the
// process that it was started as, and again after a restart.
func TestGarbageOnTheWire(t *testing.T) {
	t.Parallel()
	m := proc.Single(t, upkeep(t), filepath.Join(t.TempDir(), "data"), peerURL(t))
	client := m.Client()
	put(t, client, "k", "v")
	address := m.ClientURL[len("http://"):]
	pid := m.Pid()
	t.Run("messages", func(t *testing.T) { badMessages(t, address) })
	t.Run("frames", func(t *testing.T) { badFrames(t, address, m.PeerURL[len("http://"):]) })
	t.Run("json", func(t *testing.T) { badBodies(t, m.ClientURL) })
	t.Run("tokens", func(t *testing.T) { badTokens(t, client, address) })
	if got := get(t, client, "k"); got != "v" || m.Pid() != pid {
		t.Errorf("the key is %q", got)
	}
	select {
	case <-m.Exited():
		t.Fatal("the member ended")
	default:
	}
	m.Stop()
	m.Restart()
	if got := get(t, m.Client(), "k"); got != "v" {
		t.Errorf("after a restart, the key is %q", got)
	}
}

type rawBytes struct{}

func (rawBytes) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (rawBytes) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (rawBytes) Name() string                       { return "proto" }

// badMessages sends each of a few bodies that are no messages, or hardly, to every unary method.
func badMessages(t *testing.T, address string) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	defer conn.Close()
	bodies := [][]byte{
		{0x0a}, {0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, {0x0b}, {0x02, 0}, {0x0a, 2, 0xff, 0xfe}, {0x08, 1, 0x0a, 2, 0xff, 0xfe},
		bytes.Repeat([]byte{0xff}, 100), bytes.Repeat([]byte{0x0b}, 100_000), bytes.Repeat([]byte{0x22, 3, 0x22, 1, 0x22}, 10_000),
	}
	services := pb.File_rpc_proto.Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			method := services.Get(i).Methods().Get(j)
			if method.IsStreamingClient() || method.IsStreamingServer() || method.Name() == "Defragment" {
				continue
			}
			name := fmt.Sprintf("/%s/%s", services.Get(i).FullName(), method.Name())
			for _, body := range bodies {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				var out []byte
				err := conn.Invoke(ctx, name, body, &out, grpc.ForceCodec(rawBytes{}))
				cancel()
				switch status.Code(err) {
				case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
					t.Fatalf("%s with %x: %v", name, body[:min(len(body), 20)], err)
				}
			}
		}
	}
}

// badFrames speaks HTTP/2 and HTTP/1.1 badly, at the clients' port and at the peers'.
func badFrames(t *testing.T, addresses ...string) {
	preface := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	for name, text := range map[string]string{
		"nothing":            "",
		"noise":              strings.Repeat("\x00\xff\x17", 1000),
		"a cut preface":      preface[:20],
		"no settings":        preface + strings.Repeat("\xff", 200),
		"a huge frame":       preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\xff\xff\xff\x00\x00\x00\x00\x00\x01",
		"data of no stream":  preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x05\x00\x00\x00\x00\x00\x07hello",
		"bad headers":        preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x03\x01\x05\x00\x00\x00\x01\xff\xff\xff",
		"TLS where none is":  "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"a long first line":  "GET /" + strings.Repeat("x", 2<<20) + " HTTP/1.1\r\n\r\n",
		"many headers":       "GET / HTTP/1.1\r\n" + strings.Repeat("X-A: b\r\n", 300_000) + "\r\n",
		"a length that lies": "POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n{",
		"a bad length":       "POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n{}",
	} {
		for _, address := range addresses {
			conn, err := net.DialTimeout("tcp", address, patience)
			check(t, err)
			check(t, conn.SetDeadline(time.Now().Add(patience)))
			_, _ = io.WriteString(conn, text) // it may be refused before its end
			_ = conn.(*net.TCPConn).CloseWrite()
			if _, err := io.Copy(io.Discard, conn); err != nil && os.IsTimeout(err) {
				t.Errorf("%s: the connection was neither answered nor closed: %v", name, err)
			}
			conn.Close()
		}
	}
	conn, err := tls.Dial("tcp", addresses[0], &tls.Config{InsecureSkipVerify: true})
	if err == nil {
		conn.Close()
		t.Error("a TLS handshake succeeds where there is none")
	}
}

// badBodies are JSON that is none, or of another kind. The answer is an error in JSON.
func badBodies(t *testing.T, url string) {
	for _, body := range []string{
		``, `{`, `[]`, `null`, `"x"`, `{"key":5}`, `{"key":"%%%"}`, `{"key":"Zm9v","limit":"a"}`, "\xff", `{"nosuch":1}`,
		strings.Repeat(`{"a":`, 100_000), strings.Repeat("[", 1_000_000), `{"key":"` + strings.Repeat("A", 8<<20) + `"}`,
	} {
		for _, path := range []string{"/v3/kv/range", "/v3/kv/put", "/v3/kv/txn", "/v3/lease/grant", "/v3/auth/user/add"} {
			resp, err := http.Post(url+path, "application/json", strings.NewReader(body))
			if err != nil && len(body) > 1<<20 {
				continue // closed while it was being sent
			}
			check(t, err)
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
			resp.Body.Close()
			if resp.StatusCode >= 500 || resp.StatusCode != 200 && !bytes.Contains(text, []byte(`"message"`)) {
				t.Errorf("%s with %.40q: %d %.200s", path, body, resp.StatusCode, text)
			}
		}
	}
}

// badTokens: only a token that was given is one.
func badTokens(t *testing.T, client *clientv3.Client, address string) {
	_, err := client.UserAdd(t.Context(), "root", "secret")
	check(t, err)
	_, err = client.UserGrantRole(t.Context(), "root", "root")
	check(t, err)
	_, err = client.AuthEnable(t.Context())
	check(t, err)
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	for _, token := range []string{
		"x", ".", "..", "qrstuvwxyzabcdef", "qrstuvwxyzabcdef.", "qrstuvwxyzabcdef.1", "qrstuvwxyzabcdef.-1", "Bearer ",
		"eyJhbGciOiJub25lIn0.eyJ1c2VybmFtZSI6InJvb3QifQ.", strings.Repeat("a", 4000), "root", "qrstuvwxyzabcdef.99999999999999999999999",
	} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "token", token)
		_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")})
		if rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCInvalidAuthToken) {
			t.Errorf("token %.30q: %v", token, err)
		}
	}
	as, err := pb.NewAuthClient(conn).Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "root", Password: "secret"})
	check(t, err)
	_, err = pb.NewAuthClient(conn).AuthDisable(metadata.AppendToOutgoingContext(t.Context(), "token", as.Token), &pb.AuthDisableRequest{})
	check(t, err)
}

// TestIdleCrowd: thousands of connections that say nothing or half a request, streams and watches cost a bounded amount
// of memory, hold nobody up, and are given back.
func TestIdleCrowd(t *testing.T) {
	t.Parallel()
	m := proc.Single(t, upkeep(t), filepath.Join(t.TempDir(), "data"), peerURL(t))
	client := m.Client()
	put(t, client, "k", "v")
	before := residentBytes(t, m)
	address := m.ClientURL[len("http://"):]

	const silent = 1500
	var conns []net.Conn
	for i := range silent {
		conn, err := net.DialTimeout("tcp", address, patience)
		check(t, err)
		defer conn.Close()
		conns = append(conns, conn)
		half := []string{"", "PRI * HTTP/2.0\r\n", "POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{"}[i%3]
		_, err = io.WriteString(conn, half)
		check(t, err)
	}
	put(t, client, "k", "w")
	perConnection := (residentBytes(t, m) - before) / silent

	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	defer conn.Close()
	watched := residentBytes(t, m)
	const streams, watchers = 1000, 5
	for range streams {
		stream, err := pb.NewWatchClient(conn).Watch(t.Context())
		check(t, err)
		for range watchers {
			create := &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}
			check(t, stream.Send(&pb.WatchRequest{RequestUnion: create}))
		}
		for range watchers {
			_, err := stream.Recv()
			check(t, err)
		}
	}
	put(t, client, "k", "x")
	perWatcher := (residentBytes(t, m) - watched) / (streams * watchers)
	t.Logf("%d bytes per idle connection, %d per watcher, with %d to a stream", perConnection, perWatcher, watchers)
	if perConnection > 256<<10 || perWatcher > 64<<10 {
		t.Errorf("an idle connection costs %d bytes, a watcher %d", perConnection, perWatcher)
	}
	conn.Close()
	for _, conn := range conns {
		conn.Close()
	}
	if got := get(t, client, "k"); got != "x" {
		t.Errorf("the key is %q", got)
	}
	eventually(t, "the connections to be given back", func() bool {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.Pid()))
		return err == nil && len(files) < 200
	})
}

func residentBytes(t *testing.T, m *proc.Member) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", m.Pid()))
	check(t, err)
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	check(t, err)
	return pages * int64(os.Getpagesize())
}
