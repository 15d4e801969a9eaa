package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Nothing is connected for a gateway that nobody uses, nor for the description.
func TestCostsNothingUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		response, err := w.client.Get("http://member" + OpenAPIPath)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if w.gateway.conn != nil || w.gateway.handler != nil || w.dialed != 0 {
			t.Errorf("before the first request: connection %v, handler %v, %d dialed", w.gateway.conn, w.gateway.handler, w.dialed)
		}
		for range 3 {
			if code, text := w.post("/v3/kv/range", `{"key":"Zm9v"}`); code != 200 {
				t.Fatalf("%d %s", code, text)
			}
		}
		if w.dialed != 1 {
			t.Errorf("%d connections for three requests", w.dialed)
		}
	})
}

// Calls arrive under etcd's names, with the client's token.
func TestCallsAsEtcds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		request, _ := http.NewRequestWithContext(t.Context(), "POST", "http://member/v3/maintenance/defrag", nil)
		request.Header.Set("Authorization", "the token")
		response, err := w.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		if got, want := strings.ReplaceAll(string(text), ", ", ","), `{"header":{"cluster_id":"18446744073709551615"},"hash":4294967295}`; got != want {
			t.Errorf("answer %s, want %s", got, want)
		}
		if got, want := fmt.Sprint(w.member.calls), "[/etcdserverpb.Maintenance/Hash /etcdserverpb.Maintenance/Defragment]"; got != want {
			t.Errorf("calls %s, want %s", got, want)
		}
		if !slices.Equal(w.member.token, []string{"the token"}) {
			t.Errorf("token %q", w.member.token)
		}
		w.member.failure = status.Error(codes.FailedPrecondition, "no room")
		if code, text := w.post("/v3/maintenance/defrag", ""); code != 400 || text != `{"code":9,"message":"no room"}` {
			t.Errorf("a defragmentation that fails: %d %s", code, text)
		}
	})
}

func create(key string) string {
	return `{"create_request":{"key":"` + base64.StdEncoding.EncodeToString([]byte(key)) + `"}}`
}

func TestSizes(t *testing.T) {
	const tooLarge = `"code":8,"message":"http: received message larger than max (4000 bytes)"`
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{MaxMessageBytes: 1000})
		for size, want := range map[int]int{1000: 200, 3900: 200, 4100: 429, 1 << 20: 429} {
			body := `{"key":"` + strings.Repeat("x", size) + `"}`
			if code, text := w.post("/v3/kv/range", body); code != want || want == 429 && text != "{"+tooLarge+"}" {
				t.Errorf("%d bytes: %d %s, want %d", size, code, text, want)
			}
		}
		// Of a stream each message is bounded, and not their sum.
		sender, response := w.stream("/v3/watch")
		lines := bufio.NewScanner(response.Body)
		for i := range 20 {
			key := fmt.Sprintf("%01500d", i)
			if _, err := io.WriteString(sender, create(key)); err != nil {
				t.Fatal(err)
			}
			if !lines.Scan() || !strings.Contains(lines.Text(), key) {
				t.Fatalf("message %d: %q, %v", i, lines.Text(), lines.Err())
			}
		}
		go func() {
			_, _ = io.WriteString(sender, create(strings.Repeat("x", 10_000))) // nobody reads it to its end
			sender.Close()
		}()
		if !lines.Scan() || !strings.Contains(strings.ReplaceAll(lines.Text(), ", ", ","), tooLarge) {
			t.Errorf("a large message: %q, %v", lines.Text(), lines.Err())
		}
		if lines.Scan() {
			t.Errorf("after the error: %q", lines.Text())
		}
		response.Body.Close()
	})
}

// stream begins a request whose body is what the caller writes.
func (w *world) stream(path string) (*io.PipeWriter, *http.Response) {
	w.t.Helper()
	reader, writer := io.Pipe()
	request, err := http.NewRequestWithContext(w.t.Context(), "POST", "http://member"+path, reader)
	if err != nil {
		w.t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(writer, create("first")) }()
	response, err := w.client.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	line, err := bufio.NewReader(response.Body).ReadString('\n')
	if err != nil || !strings.Contains(line, "first") {
		w.t.Fatalf("begin of the stream: %q, %v", line, err)
	}
	return writer, response
}

// What cannot be read is answered at once, in streams too.
func TestMalformed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		for _, c := range []struct{ path, body, want string }{
			{"/v3/kv/range", `{`, "unexpected EOF"},
			{"/v3/kv/range", `{"key":1}`, "invalid value for bytes field key: 1"},
			{"/v3/kv/range", `{"key":"%"}`, "invalid value for bytes field key"},
			{"/v3/kv/range", `[]`, "unexpected token ["},
			{"/v3/kv/range", `key=1`, "invalid character 'k'"},
			{"/v3/kv/range", "\x00\xff", "invalid character"},
			{"/v3/kv/range", strings.Repeat(`{"a":`, 20_000), "exceeded max depth"},
			{"/v3/watch", `{`, "Failed to decode request: unexpected EOF"},
			{"/v3/watch", `{"create_request":1}`, "Failed to decode request"},
			{"/v3/watch", `[]`, "Failed to decode request"},
			{"/v3/watch", "\x00\xff", "Failed to decode request: invalid character"},
			{"/v3/snapshot/save", `{`, "unexpected EOF"},
			{"/v3/snapshot/save", `[]`, "unexpected token ["},
			{"/v3/maintenance/defrag", `{`, "unexpected EOF"},
		} {
			start := time.Now()
			code, text := w.post(c.path, c.body)
			text = strings.ReplaceAll(text, "\u00a0", " ")
			if code != 400 || !strings.Contains(text, `"code":3`) || !strings.Contains(text, c.want) {
				t.Errorf("%s %.20q: %d %s, want 400 with %q", c.path, c.body, code, text, c.want)
			}
			if took := time.Since(start); took > 0 {
				t.Errorf("%s %.20q: answered after %v", c.path, c.body, took)
			}
		}
		w.member.mu.Lock()
		defer w.member.mu.Unlock()
		if len(w.member.calls) > 4 { // a watch is called before its first message is there
			t.Errorf("called %v", w.member.calls)
		}
	})
}

// A body that stops coming ends the request; a stream that is silent stays.
func TestHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{BodyTimeout: time.Minute})
		conn := w.listener.dial()
		start := time.Now()
		if _, err := io.WriteString(conn, "POST /v3/kv/range HTTP/1.1\r\nHost: m\r\nContent-Length: 100\r\n\r\n{\"key\":"); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if took := time.Since(start); err != nil || took < time.Minute || took > 2*time.Minute {
			t.Errorf("ended after %v, %v", took, err)
		}
		if !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") || !strings.Contains(string(answer), "timeout") {
			t.Errorf("answer %s", answer)
		}
		conn.Close()

		sender, response := w.stream("/v3/watch")
		time.Sleep(24 * time.Hour)
		if _, err := io.WriteString(sender, create("later")); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(response.Body).ReadString('\n'); err != nil || !strings.Contains(line, "later") {
			t.Errorf("after a day: %q, %v", line, err)
		}
		sender.Close()
		response.Body.Close()

		// A slow answer is not cut off: the limit is for the body alone.
		if code, _ := w.post("/v3/kv/range", `{"key":"Zm9v"}`); code != 200 {
			t.Errorf("after it all: %d", code)
		}
	})
}

// Thousands of streams cost what their messages need, and end with the gateway.
func TestManyStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		const streams = 2000
		for range streams {
			conn := w.listener.dial()
			t.Cleanup(func() { conn.Close() })
			request := create("first")
			if _, err := fmt.Fprintf(conn, "POST /v3/watch HTTP/1.1\r\nHost: m\r\nContent-Length: 100000\r\n\r\n%s", request); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 200") {
				t.Fatalf("%q, %v", line, err)
			}
			go func() { _, _ = io.Copy(io.Discard, conn) }()
		}
		if w.dialed != 1 {
			t.Errorf("%d connections for %d streams", w.dialed, streams)
		}
		if code, text := w.post("/v3/kv/range", `{"key":"Zm9v"}`); code != 200 {
			t.Errorf("beside them: %d %s", code, text)
		}
		w.gateway.Close() // returns only when all have ended
		if code, text := w.post("/v3/kv/range", `{"key":"Zm9v"}`); code != 503 || text != `{"code":14,"message":"etcdserver: server stopped"}` {
			t.Errorf("after Close: %d %s", code, text)
		}
	})
}

func TestCloseBeforeUse(t *testing.T) {
	g := New(Config{Dial: nil})
	g.Close()
	recorder := httptest.NewRecorder()
	if g.ServeHTTP(recorder, httptest.NewRequest("POST", "/v3/kv/range", nil)); recorder.Code != 503 {
		t.Errorf("%d %s", recorder.Code, recorder.Body)
	}
}

// A snapshot arrives whole, with its length said beforehand, or the client is told that it is not.
func TestSave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		sum := strings.Repeat("s", 32)
		w.member.blobs = []string{"first,", "second", sum}
		response, err := w.client.Post("http://member/v3/snapshot/save", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := io.ReadAll(response.Body)
		if err != nil || string(whole) != "first,second"+sum || response.ContentLength != 12+32 ||
			response.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("%q of %d bytes, %v, %v", whole, response.ContentLength, response.Header, err)
		}
		w.member.failure = status.Error(codes.Unavailable, "disk on fire")
		for _, blobs := range [][]string{{"first,", "second", sum}, {"first,", "second"}} {
			w.member.blobs = blobs
			if response, err = w.client.Post("http://member/v3/snapshot/save", "", nil); err == nil {
				_, err = io.ReadAll(response.Body)
			}
			if err == nil {
				t.Errorf("%d messages and then an error look like a whole snapshot", len(blobs))
			}
		}
		w.member.blobs = nil
		if code, text := w.post("/v3/snapshot/save", "{}"); code != 503 || text != `{"code":14,"message":"disk on fire"}` {
			t.Errorf("no snapshot: %d %s", code, text)
		}
	})
}

// A client that counts on its certificate's name is refused, where names count.
func TestCommonName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := false
		w := newWorld(t, Config{IgnoresCommonName: func() bool { return count }})
		for _, c := range []struct {
			count bool
			name  string
			want  int
		}{{false, "", 200}, {false, "root", 200}, {true, "", 200}, {true, "root", 400}} {
			count = c.count
			request := httptest.NewRequest("POST", "/v3/kv/range", strings.NewReader(`{"key":"Zm9v"}`)).WithContext(context.Background())
			request.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{CommonName: c.name}}}}
			recorder := httptest.NewRecorder()
			w.gateway.ServeHTTP(recorder, request)
			if recorder.Code != c.want || c.want == 400 && recorder.Body.String() != commonNameRefused+"\n" {
				t.Errorf("%+v: %d %s", c, recorder.Code, recorder.Body)
			}
		}
	})
}
