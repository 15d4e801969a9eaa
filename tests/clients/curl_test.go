package clients

import (
	"encoding/base64"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestCurlSession does what a shell script would: a lease, a key on it, a transaction, a watch, and the way back.
func TestCurlSession(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is missing")
	}
	m := proc.Start(t, proc.Build(t, "upkeep"), 1).Members[0]
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	post := func(path, body string) string {
		t.Helper()
		out, err := exec.Command(curl, "-sS", "--fail-with-body", "--max-time", "60", m.ClientURL+path, "-d", body).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", path, err, out)
		}
		return string(out)
	}
	has := func(out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Fatalf("%s is not in %s", w, out)
			}
		}
	}
	has(post("/v3/lease/grant", `{"TTL":"60","ID":"77"}`), `"ID":"77"`, `"TTL":"60"`)
	has(post("/v3/kv/put", `{"key":"`+b64("a")+`","value":"`+b64("1")+`","lease":"77"}`), `"revision":"2"`)
	has(post("/v3/kv/range", `{"key":"`+b64("a")+`"}`), `"value":"`+b64("1")+`"`, `"lease":"77"`, `"count":"1"`)
	has(post("/v3/kv/txn", `{"compare":[{"target":"VERSION","key":"`+b64("a")+`","version":"1"}],
		"success":[{"requestPut":{"key":"`+b64("b")+`","value":"`+b64("2")+`"}}]}`), `"succeeded":true`)
	has(post("/v3/lease/timetolive", `{"ID":"77","keys":true}`), b64("a"))
	has(post("/v3/kv/lease/revoke", `{"ID":"77"}`), `"revision":"4"`)

	watch := exec.Command(curl, "-sSN", "--max-time", "60", m.ClientURL+"/v3/watch", "-d",
		`{"create_request":{"key":"`+b64("a")+`","start_revision":"2"}}`)
	out, err := watch.StdoutPipe()
	check(t, err)
	check(t, watch.Start())
	defer func() { _ = watch.Process.Kill(); _ = watch.Wait() }()
	types, revisions := "", ""
	for d := json.NewDecoder(out); !strings.Contains(types, "DELETE"); {
		var message struct {
			Result struct {
				Events []struct {
					Type string
					Kv   struct {
						ModRevision string `json:"mod_revision"`
					}
				}
			}
		}
		check(t, d.Decode(&message))
		for _, e := range message.Result.Events {
			types, revisions = types+e.Type+",", revisions+e.Kv.ModRevision+","
		}
	}
	if types != ",DELETE," || revisions != "2,4," {
		t.Errorf("the watch told %q at %q", types, revisions)
	}
}
