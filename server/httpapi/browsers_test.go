package httpapi

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// pathEcho is a gateway that answers with the path it sees.
var pathEcho = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.URL.Path)) })

func TestOrigins(t *testing.T) {
	some := []string{"http://a.example:80", "https://b.example:8443"}
	for _, c := range []struct {
		origins      []string
		origin, want string
	}{
		{nil, "", "*"},
		{nil, "http://a.example:80", "*"},
		{some, "", ""},
		{some, "http://a.example:80", "http://a.example:80"},
		{some, "https://b.example:8443", "https://b.example:8443"},
		{some, "http://a.example", ""},
		{some, "http://A.example:80", ""},
		{[]string{}, "http://a.example:80", ""},
	} {
		handler := ClientHandler(Config{State: &fakeState{}, Origins: c.origins})
		for _, method := range []string{http.MethodGet, http.MethodOptions} {
			request := httptest.NewRequest(method, "http://member/version", nil)
			request.Header.Set("Origin", c.origin)
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, request)
			if got := recorder.Header().Get("Access-Control-Allow-Origin"); got != c.want || recorder.Code != http.StatusOK {
				t.Errorf("%s from %q, allowed %v: %d %q, want %q", method, c.origin, c.origins, recorder.Code, got, c.want)
			}
			if methods := recorder.Header().Get("Access-Control-Allow-Methods"); (methods != "") != (c.want != "") {
				t.Errorf("%s from %q, allowed %v: methods %q", method, c.origin, c.origins, methods)
			}
		}
	}
}

func TestHosts(t *testing.T) {
	some := []string{"Good.example", "::1", "127.0.0.1"}
	for _, c := range []struct {
		hosts []string
		host  string
		tls   bool
		want  int
	}{
		{nil, "anything", false, 200},
		{some, "Good.example", false, 200},
		{some, "Good.example:99", false, 200},
		{some, "good.example", false, 421},
		{some, "127.0.0.1:2379", false, 200},
		{some, "[::1]:2379", false, 200},
		{some, "evil.example", false, 421},
		{some, "", false, 421},
		{some, "evil.example", true, 200},
	} {
		handler := ClientHandler(Config{State: &fakeState{}, Hosts: c.hosts, Gateway: pathEcho})
		for _, path := range []string{"/version", "/v3/kv/range", "/v3beta/kv/range"} {
			request := httptest.NewRequest(http.MethodGet, path, nil)
			request.Host = c.host
			if c.tls {
				request.TLS = &tls.ConnectionState{}
			}
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, request)
			if recorder.Code != c.want {
				t.Errorf("%s to %q (TLS %v), known %v: %d, want %d", path, c.host, c.tls, c.hosts, recorder.Code, c.want)
			}
			if text := recorder.Body.String(); c.want == 421 && !(strings.Contains(text, "CVE-2018-5702") && strings.Contains(text, `--host-whitelist "`+c.host+`"`) || c.host != "" && strings.Contains(c.host, ":")) {
				t.Errorf("%s to %q: %s", path, c.host, text)
			}
		}
	}
	// The ports for metrics and for peers answer under any name.
	request := httptest.NewRequest(http.MethodGet, "http://evil.example/health", nil)
	recorder := httptest.NewRecorder()
	if MetricsHandler(Config{State: &fakeState{}, Hosts: some}).ServeHTTP(recorder, request); recorder.Code != 200 {
		t.Errorf("metrics port: %d", recorder.Code)
	}
}

func TestGatewayPaths(t *testing.T) {
	for _, c := range []struct {
		path      string
		code      int
		body      string
		noGateway bool
	}{
		{path: "/v3/kv/range", code: 200, body: "/v3/kv/range"},
		{path: "/v3beta/kv/range", code: 200, body: "/v3/kv/range"},
		{path: "/v3beta/v3beta/kv/range", code: 200, body: "/v3/v3beta/kv/range"},
		{path: "/v3", code: 307},
		{path: "/v3beta", code: 404},
		{path: "/v3alpha/kv/range", code: 404},
		{path: "/v3/kv/range", code: 404, noGateway: true},
		{path: "/v3beta/kv/range", code: 404, noGateway: true},
		{path: "/v3", code: 404, noGateway: true},
	} {
		config := Config{State: &fakeState{}, Gateway: pathEcho}
		if c.noGateway {
			config.Gateway = nil
		}
		recorder := httptest.NewRecorder()
		ClientHandler(config).ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, c.path, nil))
		if recorder.Code != c.code || c.body != "" && recorder.Body.String() != c.body {
			t.Errorf("POST %s: %d %q, want %d %q", c.path, recorder.Code, recorder.Body, c.code, c.body)
		}
	}
}
