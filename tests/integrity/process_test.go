package integrity

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// The commands and the HTTP path of an operator, on real processes.
func TestOnlineRestoreByOperator(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real processes")
	}
	ctl, server := proc.Build(t, "upkeepctl"), proc.Build(t, "upkeep")
	peer := fmt.Sprintf("http://127.0.0.1:%d", ports.Free(t, 1)[0])
	dir := t.TempDir()
	m := proc.Prepare(t, server, "m0", dir, peer, "--initial-cluster=m0="+peer, "--log-level=error")
	m.Launch()
	m.WaitReady()
	upkeepctl := func(want string, args ...string) string {
		t.Helper()
		out, err := exec.Command(ctl, append([]string{"--endpoints", m.ClientURL}, args...)...).CombinedOutput()
		// Lines are broken to fit a terminal.
		if !strings.Contains(strings.Join(strings.Fields(string(out)), " "), want) {
			t.Fatalf("upkeepctl %v: %v\n%s\nwant %q", args, err, out, want)
		}
		return string(out)
	}
	upkeepctl("OK", "put", "k", "old")
	backup := filepath.Join(t.TempDir(), "backup.db")
	upkeepctl("saved", "snapshot", "save", backup)
	upkeepctl("OK", "put", "k", "new")
	hash := hashOf(t, backup)
	upkeepctl("give its hash with --confirm", "restore", "--online", backup)
	upkeepctl("that of the snapshot is "+hash, "restore", "--online", backup, "--confirm", "deadbeef")
	upkeepctl("All 1 members are back at revision 2", "restore", "--online", backup, "--confirm", hash)
	upkeepctl("old", "get", "k")
	upkeepctl("OK", "put", "k", "newer")
	upkeepctl("nothing was restored: the history does not hold revision 2", "restore", "--online", "--to-revision", "2")

	content, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	post := func(query string, body []byte) string {
		t.Helper()
		resp, err := http.Post(m.ClientURL+"/v3/snapshot/restore?"+query, "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		out, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(resp.StatusCode, " ", string(out))
	}
	for _, c := range []struct{ query, want string }{
		{"confirm=deadbeef", "400 "},
		{"confirm=deadbeef", "that of the snapshot is " + hash},
		{"hash=" + hash, "there is no such parameter"},
		{"confirm=" + hash, "200 "},
		{"confirm=" + hash, `"restored_revision"`},
	} {
		if got := post(c.query, content); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %q", c.query, got, c.want)
		}
	}
	upkeepctl("old", "get", "k")
	m.Kill()
	m.Launch()
	m.WaitReady()
	upkeepctl("old", "get", "k")
	upkeepctl("1 of 1 members were compared", "maintenance", "check")
	upkeepctl("nobody to rebuild it from", "maintenance", "rebuild", "m0")
}
