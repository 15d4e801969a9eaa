package cluster_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// browser returns an HTTP client on the cluster's network, and what it dials with.
func browser(t *testing.T, c *cluster.Cluster) (*http.Client, func(ctx context.Context, address string) (net.Conn, error)) {
	dial := c.Network().Host(cluster.ClientHost).Dial
	transport := &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return dial(ctx, address)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}, dial
}

func request(t *testing.T, client *http.Client, method, url, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", response.StatusCode, strings.TrimSpace(string(text)))
}

// A member that has lost the others says so, and still serves what it can answer for.
func TestHTTPWithoutLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(3))
		client, _ := browser(t, c)
		alone := c.Member(0)
		url := alone.ClientURL()
		if got := request(t, client, "POST", url+"/v3/kv/put", `{"key":"Zm9v","value":"YmFy"}`); !strings.HasPrefix(got, "200 ") {
			t.Fatal(got)
		}
		if got := request(t, client, "GET", url+"/health", ""); got != `200 {"health":"true","reason":""}` {
			t.Fatal(got)
		}
		c.Partition(alone)
		time.Sleep(time.Minute)
		for _, check := range []struct{ method, path, body, want string }{
			{"GET", "/health", "", `503 {"health":"false","reason":"RAFT NO LEADER"}`},
			{"GET", "/health?serializable=true", "", `200 {"health":"true","reason":""}`},
			{"GET", "/livez", "", "200 ok"},
			{"GET", "/readyz?exclude=linearizable_read", "", "200 ok"},
			{"GET", "/readyz/linearizable_read", "", "503 [-]linearizable_read failed: "},
			{"POST", "/v3/kv/range", `{"key":"Zm9v","serializable":true}`, "200 "},
			{"POST", "/v3/kv/range", `{"key":"Zm9v"}`, "503 "},
			{"POST", "/v3/kv/put", `{"key":"Zm9v"}`, "503 "},
		} {
			if got := request(t, client, check.method, url+check.path, check.body); !strings.HasPrefix(got, check.want) {
				t.Errorf("%s %s: %s, want %s", check.method, check.path, got, check.want)
			}
		}
		c.Heal()
		time.Sleep(time.Minute)
		if got := request(t, client, "GET", url+"/readyz", ""); got != "200 ok" {
			t.Error(got)
		}
	})
}

// Connections that ask nothing are closed after minutes; streams stay, for as long as they like.
func TestHTTPIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(1))
		client, dial := browser(t, c)
		address := strings.TrimPrefix(c.Member(0).ClientURL(), "http://")
		ended := make(chan string, 3)
		for sent, most := range map[string]time.Duration{
			"":                                       3 * time.Minute, // not even the first bytes
			"POST /v3/kv/range HTTP/1.1\r\nHost: ":   6 * time.Minute,
			"GET /livez HTTP/1.1\r\nHost: m\r\n\r\n": 11 * time.Minute, // and nothing after it
		} {
			conn, err := dial(t.Context(), address)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				start := time.Now()
				_, _ = io.WriteString(conn, sent)
				_, err := io.Copy(io.Discard, conn)
				if took := time.Since(start); took > most {
					ended <- fmt.Sprintf("%.20q: closed after %v, %v; want %v at most", sent, took, err, most)
				} else {
					ended <- ""
				}
				conn.Close()
			}()
		}
		stream, err := client.Post(c.Member(0).ClientURL()+"/v3/watch", "", strings.NewReader(`{"create_request":{"key":"Zm9v"}}`))
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Body.Close()
		lines := bufio.NewScanner(stream.Body)
		if !lines.Scan() || !strings.Contains(lines.Text(), `"created":true`) {
			t.Fatalf("%q, %v", lines.Text(), lines.Err())
		}
		for range 3 {
			if text := <-ended; text != "" {
				t.Error(text)
			}
		}
		time.Sleep(20 * time.Minute)
		c.Put("foo", "bar")
		if !lines.Scan() || !strings.Contains(lines.Text(), `"value":"YmFy"`) {
			t.Errorf("after a while: %q, %v", lines.Text(), lines.Err())
		}
	})
}
