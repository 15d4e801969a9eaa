package maintenance

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// An operator changes parts of the policy: what is not named stays, for parts that were never touched the flags go on to count,
// and what makes no sense is refused with one reason.
func TestPolicyByOperator(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real processes")
	}
	ctl, server := proc.Build(t, "upkeepctl"), proc.Build(t, "upkeep")
	peer := fmt.Sprintf("http://127.0.0.1:%d", ports.Free(t, 1)[0])
	dir := t.TempDir()
	backups := filepath.Join(dir, "b")
	m := proc.Prepare(t, server, "m0", dir, peer, "--initial-cluster=m0="+peer, "--log-level=error", "--upkeep-settle=1s")
	m.Launch()
	m.WaitReady()
	run := func(args ...string) string {
		t.Helper()
		out, _ := exec.Command(ctl, append([]string{"--endpoints", m.ClientURL, "maintenance", "policy"}, args...)...).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if len(line) > 81 && !strings.Contains(line, backups) && !strings.HasPrefix(line, "Error:") && !strings.Contains(line, " ^ ") {
				t.Errorf("%v: wider than 80 columns: %q", args, line)
			}
		}
		return strings.Join(strings.Fields(string(out)), " ")
	}
	expect := func(want string, args ...string) {
		t.Helper()
		if got := run(args...); !strings.Contains(got, want) {
			t.Errorf("%v:\n%s\nwant %q", args, got, want)
		}
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"must not be negative", []string{"--min-interval", "-1s"}},
		{"must not be negative", []string{"--check-interval", "-1s"}},
		{"must not be negative", []string{"--settle", "-1s"}},
		{"must not be negative", []string{"--recover-keep-revisions", "-1"}},
		{"must not be negative", []string{"--backup-to", backups, "--backup-keep-count", "-1"}},
		{"the rule makes no sense", []string{"--rule", "free >"}},
		{"the window makes no sense", []string{"--backup-window", "sometimes"}},
		{"absolute", []string{"--backup-to", "relative/path"}},
		{"neither the full nor the incremental interval", []string{"--backup-to", backups, "--backup-full-interval", "0", "--backup-incremental-interval", "0"}},
	} {
		out := run(append([]string{"set"}, c.args...)...)
		if !strings.Contains(out, c.want) || strings.Count(out, "Error:") != 1 {
			t.Errorf("%v: %s, want %q", c.args, out, c.want)
		}
	}
	expect("from the flags Defragment yes", "get")
	expect("Compare members: interval every 24h -> every 2h", "set", "--check-interval", "2h")
	expect("Back up no -> yes Back up: to nowhere -> "+backups, "set", "--backup-to", backups)
	expect("Back up: keep count 7 -> 3", "set", "--backup-keep-count", "3")
	expect("Compare members yes -> no", "set", "--check-interval", "0")
	expect("Nothing has changed", "set", "--check-interval", "0")
	expect("to "+backups, "get")

	// The rule was never set, so a member that is started with another one follows that.
	m.Stop()
	m.Append("--upkeep-defrag-rule", "free > 3GiB", "--upkeep-backup-keep-count=9")
	m.Launch()
	m.WaitReady()
	expect("rule free > 3GiB", "get")
	expect("keep count 3", "get")
	expect("rule free > 3GiB -> free > 2GiB", "set", "--rule", "free > 2GiB")
	expect("Settle 1s", "get")
	expect("The flags of whoever leads count again. Defragment: rule free > 2GiB -> free > 3GiB", "reset")
}
