package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// request is one line of a table.
type request struct {
	method, path, body string
	headers            []string // "Name: value"; Host is the one that HTTP knows
	lines              int      // answers to read of a stream, which is then left
	own                []string // fields of ours, to leave out
}

func get(path string, headers ...string) request {
	return request{method: "GET", path: path, headers: headers}
}

func post(path, body string, headers ...string) request {
	return request{method: "POST", path: path, body: body, headers: headers}
}

func stream(path, body string, lines int) request {
	return request{method: "POST", path: path, body: body, lines: lines}
}

// ownFields are the names of the fields that etcd's message does not have: ours have numbers from 1000 up.
func ownFields(message proto.Message) []string {
	var names []string
	fields := message.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if field := fields.Get(i); field.Number() >= 1000 {
			names = append(names, string(field.Name()))
		}
	}
	return names
}

// compared are the headers that clients see.
var compared = []string{
	"Content-Type", "Grpc-Metadata-Content-Type", "Allow", "Location", "X-Content-Type-Options", "Www-Authenticate",
	"Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers",
}

// send returns all that is compared of the answer, as text.
func send(t *testing.T, m *proc.Member, r request) string {
	t.Helper()
	return sendTo(t, m.ClientURL, nil, r)
}

func sendTo(t *testing.T, url string, secure *tls.Config, r request) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, url+r.path, strings.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range r.headers {
		name, value, _ := strings.Cut(header, ": ")
		if req.Header.Set(name, value); name == "Host" {
			req.Host = value
		}
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: secure},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	defer response.Body.Close()
	var b strings.Builder
	fmt.Fprintln(&b, response.Status, response.TransferEncoding)
	for _, name := range compared {
		if values := response.Header.Values(name); len(values) > 0 {
			fmt.Fprintf(&b, "%s: %q\n", name, values)
		}
	}
	if r.lines > 0 {
		lines := bufio.NewScanner(response.Body)
		lines.Buffer(nil, 64<<20)
		for i := 0; i < r.lines && lines.Scan(); i++ {
			b.WriteString(mask(lines.Bytes(), r.own) + "\n")
		}
		return b.String()
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	for line := range bytes.Lines(body) {
		b.WriteString(mask(line, r.own) + "\n")
	}
	return b.String()
}

// masked are the fields that differ from member to member.
var masked = []string{"cluster_id", "member_id", "raft_term", "raftTerm", "raftIndex", "raftAppliedIndex", "leader", "dbSize", "dbSizeInUse"}

var urlPattern = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// mask writes a line of JSON in one form, without what must differ; other lines stay.
func mask(line []byte, own []string) string {
	var value any
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.UseNumber()
	if decoder.Decode(&value) != nil {
		return strings.TrimSuffix(string(line), "\n")
	}
	text, err := json.Marshal(maskValue(value, own))
	if err != nil {
		return err.Error()
	}
	// The protobuf library writes this space now so, now so.
	return urlPattern.ReplaceAllString(strings.ReplaceAll(string(text), "\u00a0", " "), "HOST")
}

func maskValue(value any, own []string) any {
	switch v := value.(type) {
	case map[string]any:
		for name, inner := range v {
			switch {
			case slices.Contains(own, name):
				delete(v, name)
			case slices.Contains(masked, name), name == "ID" && v["clientURLs"] != nil:
				v[name] = "?"
			default:
				v[name] = maskValue(inner, own)
			}
		}
	case []any:
		for i := range v {
			v[i] = maskValue(v[i], own)
		}
	case string:
		// The text form of a message has one space or two, by the whim of the build.
		return strings.ReplaceAll(v, "  ", " ")
	}
	return value
}

// compare runs the table against both, with flags, and reports what differs.
func compare(t *testing.T, table []request, flags ...string) {
	t.Helper()
	etcd := proc.Start(t, proc.Peer(t, "etcd"), 1, flags...).Members[0]
	upkeep := proc.Start(t, proc.Build(t, "upkeep"), 1, flags...).Members[0]
	for _, r := range table {
		want, got := send(t, etcd, r), send(t, upkeep, r)
		if got != want {
			t.Errorf("%s %s %q %.300s\nupkeep: %.2000s\netcd:   %.2000s", r.method, r.path, r.headers, r.body, got, want)
		}
	}
}

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func TestKV(t *testing.T) {
	t.Parallel()
	compare(t, []request{
		post("/v3/kv/put", `{"key":"Zm9v","value":"YmFy"}`),
		post("/v3/kv/put", `{"key":"Zm9v","value":"/+8=","prev_kv":true}`),
		post("/v3/kv/put", `{"key":"Zm9v","value":"_-8","prevKv":true}`),
		post("/v3/kv/put", `{"key":"Zm9vMg==","value":""}`),
		post("/v3/kv/put", `{"value":"YmFy"}`),
		post("/v3/kv/put", `{"key":"Zm9v","lease":"12345"}`),
		post("/v3/kv/put", `{"key":"Zm9v","lease":12345}`),
		post("/v3/kv/put", `{"key":"bm9uZQ==","ignore_value":true}`),
		post("/v3/kv/range", `{"key":"Zm9v"}`),
		post("/v3/kv/range", `{"key":"Zm9v"}`, "Content-Type: text/xml", "Accept: text/xml"),
		post("/v3/kv/range", `{"key":"Zm9v"}`, "Content-Type: application/x-www-form-urlencoded"),
		post("/v3/kv/range", `{"key":"Zm9v","range_end":"AA==","sort_order":"DESCEND","sortTarget":"MOD"}`),
		post("/v3/kv/range", `{"key":"Zm9v","range_end":"AA==","sort_order":2,"sort_target":0,"limit":1}`),
		post("/v3/kv/range", `{"key":"Zm9v","range_end":"AA==","limit":"1","keys_only":true}`),
		post("/v3/kv/range", `{"key":"Zm9v","range_end":"AA==","count_only":true}`),
		post("/v3/kv/range", `{"key":"Zm9v","revision":"2"}`),
		post("/v3/kv/range", `{"key":"Zm9v","revision":"2000"}`),
		post("/v3/kv/range", `{"key":"Zm9v","sort_order":"BOGUS"}`),
		post("/v3/kv/range", `{"key":"Zm9v","bogus":{"a":[1]},"keysOnly":true}`),
		post("/v3/kv/range", `{"key":"bm9uZQ=="}`),
		post("/v3/kv/range", `{}`), post("/v3/kv/range", ``), post("/v3/kv/range", `{"key":null}`),
		post("/v3/kv/range?key=Zm9v", ``),
		post("/v3/kv/range", `{"key":"Zm9v"} and more`),
		post("/v3/kv/txn", `{"compare":[{"key":"Zm9v","target":"CREATE","create_revision":"0"}],`+
			`"success":[{"requestPut":{"key":"eA==","value":"eQ=="}}],"failure":[{"request_range":{"key":"Zm9v"}}]}`),
		post("/v3/kv/txn", `{"compare":[{"key":"Zm9v","target":"VALUE","result":"NOT_EQUAL","value":"eA=="}],`+
			`"success":[{"requestPut":{"key":"eA==","value":"eQ=="}},{"request_delete_range":{"key":"Zm9vMg=="}},{"request_txn":{}}]}`),
		post("/v3/kv/txn", `{}`),
		post("/v3/kv/txn", `{"success":[{}]}`),
		post("/v3/kv/txn", `{"success":[{"request_put":{"key":"eA=="}},{"request_put":{"key":"eA=="}}]}`),
		post("/v3/kv/deleterange", `{"key":"eA==","prev_kv":true}`),
		post("/v3/kv/deleterange", `{"key":"eA=="}`),
		post("/v3/kv/compaction", `{"revision":"3","physical":true}`),
		post("/v3/kv/compaction", `{"revision":"3"}`),
		post("/v3/kv/compaction", `{"revision":"3000"}`),
		post("/v3/maintenance/hashkv", `{}`),
		post("/v3/maintenance/hashkv", `{"revision":"4"}`),
		post("/v3/maintenance/hashkv", `{"revision":"4000"}`),
		post("/v3/kv/compaction", `{"revision":"7","physical":true}`),
		post("/v3/maintenance/hashkv", `{}`),
		post("/v3/maintenance/hashkv", `{"revision":"7"}`),
		post("/v3/maintenance/hashkv", `{"revision":"6"}`),
		post("/v3beta/kv/range", `{"key":"Zm9v"}`),
		stream("/v3/watch", `{"create_request":{"key":"Zm9v","start_revision":"4","prev_kv":true}}`, 2),
		stream("/v3/watch", `{"create_request":{"key":"Zm9v","start_revision":"2"}}`, 2),
		stream("/v3/watch", `{"create_request":{"key":"eA==","start_revision":"4","filters":["NOPUT"],"watch_id":7}}`, 2),
		stream("/v3/watch", `{"create_request":{"key":"eA=="}} {"cancel_request":{"watch_id":"0"}}`, 2),
		stream("/v3/watch", `{"create_request":{"watch_id":"0"}}`, 1),
	})
}

// TestRefusals: what the gateway itself has to say.
func TestRefusals(t *testing.T) {
	t.Parallel()
	table := []request{
		post("/v3/kv/range", `{`), post("/v3/kv/range", `[]`), post("/v3/kv/range", `"Zm9v"`), post("/v3/kv/range", `Zm9v`),
		post("/v3/kv/range", `{"key":1}`), post("/v3/kv/range", `{"key":"%"}`), post("/v3/kv/range", `{"key":"Zm9v","limit":"x"}`),
		post("/v3/kv/range", `{"key":"Zm9v","limit":1.5}`), post("/v3/kv/range", `{"key":"Zm9v","limit":"9223372036854775808"}`),
		post("/v3/kv/range", `{"key":"Zm9v","serializable":"true"}`), post("/v3/kv/range", `{"key":"Zm9v","key":"Zm9v"}`),
		post("/v3/kv/range", `{"key":"Zm9v"}`, "Grpc-Timeout: 1n"), post("/v3/kv/range", `{"key":"Zm9v"}`, "Grpc-Timeout: bogus"),
		post("/v3/kv/range", `{"key":"Zm9v"}`, "TE: trailers"), post("/v3/kv/range", `{}`, "TE: trailers"),
		post("/v3/kv/range", `{"key":"Zm9v"}`, "Grpc-Metadata-Hasleader: true"),
		post("/v3/kv/range", `{"key":"Zm9v"}`, "X-HTTP-Method-Override: GET", "Content-Type: application/x-www-form-urlencoded"),
		post("/v3/kv/range/", `{}`), post("/v3/kv", `{}`), post("/v3/", `{}`), post("/v3", `{}`), post("/v3//kv/range", `{}`),
		post("/v3/nothing", `{}`), post("/v3alpha/kv/range", `{}`), post("/v3beta", `{}`), post("/v3beta/", `{}`), post("/v3beta/nothing", `{}`),
		post("/v2/keys", ``), get("/"), get("/v3/kv/range"), get("/v3/maintenance/status"),
		{method: "PUT", path: "/v3/kv/put"}, {method: "DELETE", path: "/v3/kv/range"}, {method: "HEAD", path: "/v3/kv/range"},
		{method: "OPTIONS", path: "/v3/kv/range"}, {method: "OPTIONS", path: "/nothing"}, {method: "PATCH", path: "/v3/nothing"},
		post("/v3/kv/put", `{"key":"Zm9v","value":"`+b64(strings.Repeat("x", 1_600_000))+`"}`),
		post("/v3/kv/put", `{"key":"Zm9v","value":"`+b64(strings.Repeat("x", 2_200_000))+`"}`),
		post("/v3/kv/put", `{"key":"Zm9v","value":"`+b64(strings.Repeat("x", 1_000_000))+`"}`),
	}
	compare(t, table)
}

func TestLeasesMembersMaintenance(t *testing.T) {
	t.Parallel()
	compare(t, []request{
		post("/v3/lease/grant", `{"TTL":"600","ID":"77"}`), post("/v3/lease/grant", `{"TTL":600,"ID":77}`), post("/v3/lease/grant", `{"TTL":-1,"ID":"78"}`),
		post("/v3/lease/grant", `{"ID":"79"}`), post("/v3/kv/put", `{"key":"Zm9v","lease":"77"}`),
		stream("/v3/lease/keepalive", `{"ID":"77"}{"ID":77} {"ID":"99"}`, 3),
		post("/v3/lease/keepalive", `{"ID":"77"}`),
		post("/v3/lease/timetolive", `{"ID":"99","keys":true}`), post("/v3/kv/lease/timetolive", `{"ID":"99"}`),
		post("/v3/lease/revoke", `{"ID":"78"}`), post("/v3/kv/lease/revoke", `{"ID":"78"}`),
		post("/v3/lease/leases", `{}`), post("/v3/kv/lease/leases", `{}`),
		post("/v3/kv/lease/revoke", `{"ID":"77"}`), post("/v3/kv/range", `{"key":"Zm9v"}`),
		post("/v3/cluster/member/list", `{}`), post("/v3/cluster/member/list", ``), post("/v3/cluster/member/list", `{"linearizable":true}`),
		post("/v3/cluster/member/remove", `{"ID":"1"}`), post("/v3/cluster/member/promote", `{"ID":"1"}`),
		post("/v3/cluster/member/update", `{"ID":"1","peerURLs":["http://127.0.0.1:1"]}`),
		post("/v3/cluster/member/add", `{"peerURLs":["bogus"]}`), post("/v3/cluster/member/add", `{}`),
		post("/v3/maintenance/status", `{}`),
		{method: "POST", path: "/v3/maintenance/defragment", body: "{}", own: ownFields(&etcdserverpb.DefragmentResponse{})},
		post("/v3/maintenance/transfer-leadership", `{"targetID":"1"}`),
		post("/v3/maintenance/downgrade", `{"action":"VALIDATE","version":"bogus"}`),
		post("/v3/maintenance/downgrade", `{"action":"VALIDATE","version":"3.6"}`),
		post("/v3/maintenance/alarm", `{}`), post("/v3/maintenance/alarm", `{"action":"GET","alarm":"NOSPACE"}`),
		post("/v3/maintenance/alarm", `{"action":"ACTIVATE","memberID":"1","alarm":"NOSPACE"}`),
		post("/v3/kv/put", `{"key":"Zm9v"}`), post("/v3/maintenance/status", `{}`),
		post("/v3/maintenance/alarm", `{"action":2,"memberID":1,"alarm":1}`),
	})
}

// TestHealth: each form of the health checks, in each state that an alarm can bring about.
func TestHealth(t *testing.T) {
	t.Parallel()
	var checks []request
	for _, path := range []string{
		"/health", "/health?serializable=true", "/health?serializable=TRUE", "/health?exclude=NOSPACE", "/health?exclude=CORRUPT",
		"/health?exclude=NOSPACE&exclude=CORRUPT", "/health?exclude=NOSPACE,CORRUPT", "/health/", "/livez", "/livez?verbose", "/livez/",
		"/livez?exclude=serializable_read", "/livez?verbose&exclude=serializable_read", "/livez/serializable_read", "/livez/linearizable_read",
		"/readyz", "/readyz?exclude=data_corruption", "/readyz?exclude=bogus", "/readyz/bogus",
		"/readyz/data_corruption", "/readyz/data_corruption?verbose", "/readyz/data_corruption?exclude=data_corruption",
		"/readyz/serializable_read", "/readyz/linearizable_read?verbose=false", "/readyz/non_learner", "/readyz/non_learner?verbose",
	} {
		checks = append(checks, get(path), request{method: "HEAD", path: path}, request{method: "PUT", path: path})
	}
	alarm := func(action, alarm string) request {
		return post("/v3/maintenance/alarm", `{"action":"`+action+`","memberID":"1","alarm":"`+alarm+`"}`)
	}
	table := slices.Clone(checks)
	for _, kind := range []string{"NOSPACE", "CORRUPT"} {
		table = append(append(append(table, alarm("ACTIVATE", kind)), checks...), alarm("DEACTIVATE", kind))
	}
	etcd := proc.Start(t, proc.Peer(t, "etcd"), 1).Members[0]
	upkeep := proc.Start(t, proc.Build(t, "upkeep"), 1).Members[0]
	for i, r := range append(table, get("/health")) {
		want, got := sortedLines(send(t, etcd, r)), sortedLines(send(t, upkeep, r))
		if got != want {
			t.Errorf("step %d, %s %s\nupkeep: %s\netcd:   %s", i, r.method, r.path, got, want)
		}
	}
}

// sortedLines: etcd runs its checks in no particular order.
func sortedLines(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestBrowsers: who may call, and under which name. The text of a refusal is our own.
func TestBrowsers(t *testing.T) {
	t.Parallel()
	var table []request
	for _, path := range []string{"/version", "/health", "/v3/nothing", "/nothing"} {
		for _, origin := range []string{"", "http://a.example:80", "http://A.example:80", "http://a.example", "https://b.example:8443", "null"} {
			table = append(table, get(path, "Origin: "+origin), request{method: "OPTIONS", path: path, headers: []string{"Origin: " + origin}})
		}
	}
	for _, host := range []string{"good.example", "good.example:99", "Good.example", "evil.example", "[::1]:2379", "[::1]", "localhost"} {
		table = append(table, get("/version", "Host: "+host), post("/v3/kv/range", "{}", "Host: "+host), get("/metrics/nothing", "Host: "+host))
	}
	flags := []string{"--cors", "http://a.example:80,https://b.example:8443", "--host-whitelist", "good.example,127.0.0.1,::1"}
	etcd := proc.Start(t, proc.Peer(t, "etcd"), 1, flags...).Members[0]
	upkeep := proc.Start(t, proc.Build(t, "upkeep"), 1, flags...).Members[0]
	for _, r := range table {
		want, got := send(t, etcd, r), send(t, upkeep, r)
		if r.path == "/version" || strings.HasPrefix(want, "421") {
			want, got = headOf(want), headOf(got)
		}
		if got != want {
			t.Errorf("%s %s %q\nupkeep: %s\netcd:   %s", r.method, r.path, r.headers, got, want)
		}
	}
}

// headOf leaves the body out.
func headOf(text string) string {
	lines := strings.Split(text, "\n")
	isHeader := func(line string) bool { return strings.Contains(line, `: ["`) }
	for i := 1; i < len(lines); i++ {
		if !isHeader(lines[i]) {
			return strings.Join(lines[:i], "\n")
		}
	}
	return text
}

func TestWithoutGateway(t *testing.T) {
	t.Parallel()
	compare(t, []request{
		post("/v3/kv/range", `{"key":"Zm9v"}`), post("/v3beta/kv/range", `{}`), post("/v3", `{}`), get("/v3/nothing"), get("/health"),
	}, "--enable-grpc-gateway=false")
}

// serves tells whether the member answers HTTP, and has heard of a leader.
func serves(m *proc.Member) bool {
	response, err := http.Get(m.ClientURL + "/readyz?exclude=non_learner")
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}
