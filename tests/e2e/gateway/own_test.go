package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// answer sends r and returns the JSON of its body.
func answer(t *testing.T, m *proc.Member, r request) map[string]any {
	t.Helper()
	text := send(t, m, r)
	at := strings.IndexByte(text, '{')
	var out map[string]any
	if !strings.HasPrefix(text, "200 ") || at < 0 || json.Unmarshal([]byte(text[at:]), &out) != nil {
		t.Fatalf("%s %s: %s", r.method, r.path, text)
	}
	return out
}

// The paths that etcd does not have.
func TestOwnPaths(t *testing.T) {
	t.Parallel()
	m := proc.Start(t, proc.Build(t, "upkeep"), 1).Members[0]
	for i := range 50 {
		answer(t, m, post("/v3/kv/put", fmt.Sprintf(`{"key":"%s","value":"%s"}`, b64(fmt.Sprint("k", i%10)), b64(strings.Repeat("v", 5000)))))
	}
	answer(t, m, post("/v3/kv/deleterange", `{"key":"`+b64("k1")+`"}`))
	answer(t, m, post("/v3/maintenance/compaction", `{"revision":"50","physical":true}`))
	if got := send(t, m, post("/v3/kv/range", `{"key":"azI=","revision":"49"}`)); !strings.Contains(got, "has been compacted") {
		t.Errorf("below the compaction: %s", got)
	}

	// The hash is that of the database as it was, and a defragmentation changes none of it.
	want := answer(t, m, post("/v3/maintenance/hash", `{}`))["hash"]
	for range 3 {
		got := answer(t, m, post("/v3/maintenance/defrag", ``))
		if got["hash"] != want || got["header"] == nil {
			t.Errorf("defragmentation answers %v, want the hash %v", got, want)
		}
	}
	answer(t, m, post("/v3/kv/put", `{"key":"Zm9v"}`))
	if got := answer(t, m, post("/v3/maintenance/defrag", `{}`)); got["hash"] == want {
		t.Errorf("after a put the hash is the same, %v", want)
	}

	for _, path := range []string{"/v3/members/list", "/v3/cluster/status"} {
		asked, posted := send(t, m, get(path)), send(t, m, post(path, `{}`))
		if asked != posted || !strings.HasPrefix(asked, "200 ") {
			t.Errorf("%s: GET answers %s, POST %s", path, asked, posted)
		}
	}
	if got := answer(t, m, get("/v3/members/list?linearizable=true")); len(got["members"].([]any)) != 1 {
		t.Errorf("members: %v", got)
	}
	if got := send(t, m, get("/v3/openapi.json")); !strings.HasPrefix(got, "200 ") || !strings.Contains(got, "/v3/snapshot/save") {
		t.Errorf("description: %s", got)
	}
	for _, r := range []request{get("/v3/maintenance/defrag"), get("/v3/snapshot/save"), get("/v3/maintenance/compaction"), post("/v3/openapi.json", `{}`)} {
		if got := send(t, m, r); !strings.HasPrefix(got, "501 ") && !strings.HasPrefix(got, "404 ") {
			t.Errorf("%s %s: %s", r.method, r.path, got)
		}
	}
}

// A learner's health, beside that of etcd's learner.
func TestHealthOfLearner(t *testing.T) {
	t.Parallel()
	var learners []*proc.Member
	for _, program := range []string{proc.Peer(t, "etcd"), proc.Build(t, "upkeep")} {
		first := proc.Start(t, program, 1).Members[0]
		peerURL := "http://" + ports.Address(t)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		client := first.Client()
		for {
			_, err := client.MemberAddAsLearner(ctx, []string{peerURL})
			if err == nil {
				break
			}
			if ctx.Err() != nil || !strings.Contains(err.Error(), "unhealthy cluster") {
				t.Fatal(err)
			}
		}
		learner := proc.Prepare(t, program, "m1", t.TempDir(), peerURL,
			"--initial-cluster", "m0="+first.PeerURL+",m1="+peerURL, "--initial-cluster-state", "existing")
		learner.Launch()
		for ready := false; !ready; {
			select {
			case <-learner.Exited():
				t.Fatal(learner.Output())
			case <-ctx.Done():
				t.Fatalf("the learner does not serve\n%s", learner.Output())
			case <-time.After(50 * time.Millisecond):
				ready = serves(learner)
			}
		}
		learners = append(learners, learner)
	}
	for _, r := range []request{
		get("/health"), get("/health?serializable=true"), get("/livez"), get("/readyz"), get("/readyz?exclude=non_learner"),
		get("/readyz/non_learner"), get("/readyz/linearizable_read"), get("/readyz/serializable_read"),
		post("/v3/kv/range", `{"key":"Zm9v"}`), post("/v3/kv/range", `{"key":"Zm9v","serializable":true}`),
		post("/v3/kv/put", `{"key":"Zm9v"}`), post("/v3/cluster/member/list", `{}`), post("/v3/watch", `{"create_request":{"key":"Zm9v"}}`),
	} {
		want, got := sortedLines(send(t, learners[0], r)), sortedLines(send(t, learners[1], r))
		if got != want {
			t.Errorf("%s %s\nupkeep: %s\netcd:   %s", r.method, r.path, got, want)
		}
	}
}
