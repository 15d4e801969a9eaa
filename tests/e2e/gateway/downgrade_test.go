package gateway

import (
	"strings"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestDowngrade: what each step answers once the versions have settled, which takes etcd some seconds.
func TestDowngrade(t *testing.T) {
	t.Parallel()
	ask := func(action, version string) request {
		return post("/v3/maintenance/downgrade", `{"action":"`+action+`","version":"`+version+`"}`)
	}
	status := post("/v3/maintenance/status", `{}`)
	steps := []struct {
		settled string // the storage version to wait for first
		table   []request
	}{
		{"3.7.0", []request{status, ask("VALIDATE", "3.6"), ask("VALIDATE", "3.6.9"), ask("VALIDATE", "3.5"), ask("VALIDATE", "3.7"), ask("VALIDATE", ""),
			ask("CANCEL", ""), ask("ENABLE", "3.5"), ask("ENABLE", "x"), ask("ENABLE", "3.6")}},
		{"3.6.0", []request{status, ask("VALIDATE", "3.6"), ask("VALIDATE", "3.5"), ask("ENABLE", "3.6"), ask("ENABLE", "3.5"), ask("VALIDATE", "3.7"),
			post("/v3/kv/put", `{"key":"YQ=="}`), ask("CANCEL", "")}},
		{"3.7.0", []request{status, ask("CANCEL", "3.6"), ask("VALIDATE", "3.6")}},
	}
	etcd := proc.Start(t, proc.Peer(t, "etcd"), 1).Members[0]
	upkeep := proc.Start(t, proc.Build(t, "upkeep"), 1).Members[0]
	for _, step := range steps {
		for _, m := range []*proc.Member{etcd, upkeep} {
			for deadline := time.Now().Add(time.Minute); !strings.Contains(send(t, m, status), `"storageVersion":"`+step.settled+`"`); {
				if time.Now().After(deadline) {
					t.Fatalf("storage version %s never came: %s", step.settled, send(t, m, status))
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		for _, r := range step.table {
			if want, got := send(t, etcd, r), send(t, upkeep, r); got != want {
				t.Errorf("%s %s\nupkeep: %s\netcd:   %s", r.path, r.body, got, want)
			}
		}
	}
}
