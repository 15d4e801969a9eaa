package clients

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// script is what etcdctl is asked to do, in this order; "pause" lets the clock go on. A word in front of "<" is its input.
const script = `
put a 1
put b 2 --prev-kv
put a 3 --prev-kv
get a
get a --hex -w json
get "" --prefix --keys-only
get a c --sort-by VALUE --order DESCEND --limit 1
get a --rev 2 -w fields
get a --rev 99
put x y --lease=77
del nosuch
del a --prev-kv
del b z --range
compaction 3
compaction 3
compaction 99
get b --rev 2
lease grant 500 --lease-id=4d2
lease grant 500
put leased v --lease=4d2
lease list
lease timetolive 4d2 --keys
lease keep-alive 4d2 --once
lease keep-alive 999 --once
lease revoke 4d2
lease revoke 4d2
get leased
member list
member list -w json
member list -w fields
member add learner --learner --peer-urls=http://127.0.0.1:1
member add learner --learner --peer-urls=http://127.0.0.1:2
pause
member add learner --learner --peer-urls=http://127.0.0.1:1
member list -w simple
member update 1234 --peer-urls=http://127.0.0.1:2
member promote 1234
member remove 1234
move-leader 1234
endpoint health
endpoint status -w fields
endpoint hashkv -w json
alarm list
alarm disarm
defrag
snapshot save {dir}/snap.db
lock l echo locked
downgrade validate 3.6
downgrade validate 3.5
downgrade cancel
check datascale --load=s
auth status
user list
user add root --new-user-password=secret
user add root --new-user-password=secret
user add alice --new-user-password=pw
user add nobody --no-password
role add root
role add reader
role add reader
role grant-permission reader read a b
role grant-permission reader bogus a
role grant-permission reader write w --prefix
role get reader
role get nosuch
role revoke-permission reader w --prefix
role list
user grant-role root root
user grant-role alice reader
user grant-role alice nosuch
user get alice
user get alice --detail
auth enable
auth status
get a
get a --user=alice:wrong
get a --user=alice:pw
put a 1 --user=alice:pw
get z --user=alice:pw
user list --user=alice:pw
put a 1 --user=root:secret
user revoke-role alice reader --user=root:secret
get a --user=alice:pw
user passwd alice --interactive=false --user=root:secret < other
user delete alice --user=root:secret
get a --user=alice:other
role delete reader --user=root:secret
alarm list --user=root:secret
auth disable --user=root:secret
auth status
get "" --prefix --count-only -w fields
`

// Masks of what differs from server to server, and from run to run.
var masks = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`(?m)^\{"level":.*\n?`), ""},
	{regexp.MustCompile(`127\.0\.0\.1:\d{4,}`), "ADDRESS"},
	{regexp.MustCompile(`\b[0-9a-f]{14,16}\b|\b\d{15,20}\b`), "ID"},
	{regexp.MustCompile(`\b\d+(\.\d+)?(µs|ms|s)\b`), "TIME"},
	{regexp.MustCompile(`\b\d+(\.\d+)? (B|kB|KB|MB)\b`), "SIZE"},
	{regexp.MustCompile(`"(raft_term|RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|dbSize)" ?: ?\d+`), `"$1":N`},
	{regexp.MustCompile(`"Version" : "3\.7\.\d+"`), `"Version" : "3.7"`},
	{regexp.MustCompile(`(?m)(remaining|TTL)\((49\d|500)s?\)|\d+ / \d+ \[[^\]]*\].*$`), "COUNT"},
	{regexp.MustCompile(`remaining\([^)]*\)`), "COUNT"},
	{regexp.MustCompile(`SnapshotVersion.*|used : .*`), "FIGURE"},
}

// TestEtcdctl: what the real etcdctl prints, and how it ends, is the same against Upkeep as against etcd.
func TestEtcdctl(t *testing.T) {
	t.Parallel()
	ctl := proc.Peer(t, "etcdctl")
	ours := proc.Start(t, proc.Build(t, "upkeep"), 1, "--bcrypt-cost=4", "--unsafe-no-fsync").Members[0]
	theirs := proc.Start(t, proc.Peer(t, "etcd"), 1, "--bcrypt-cost=4", "--unsafe-no-fsync").Members[0]
	for line := range strings.Lines(strings.TrimSpace(script)) {
		line = strings.TrimSpace(line)
		if line == "pause" { // a member that is added in the same second has the same ID, and is refused for that
			time.Sleep(1100 * time.Millisecond)
			continue
		}
		got, want := etcdctl(t, ctl, ours, line), etcdctl(t, ctl, theirs, line)
		if got != want {
			t.Errorf("etcdctl %s\nagainst upkeep: %s\nagainst etcd:   %s", line, got, want)
		}
	}
}

func etcdctl(t *testing.T, program string, m *proc.Member, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	line, input, _ := strings.Cut(line, "<")
	args := []string{"--endpoints", m.ClientURL, "--command-timeout=30s", "--dial-timeout=30s"}
	for _, word := range strings.Fields(line) {
		word = strings.ReplaceAll(word, "{dir}", filepath.Dir(m.DataDir))
		args = append(args, strings.Trim(word, `"`))
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(strings.TrimSpace(input) + "\n")
	out, _ := cmd.CombinedOutput()
	text := strings.ReplaceAll(string(out), filepath.Dir(m.DataDir), "DIR")
	for _, mask := range masks {
		text = mask.pattern.ReplaceAllString(text, mask.with)
	}
	if strings.HasPrefix(line, "member ") {
		text = inOneOrder(text)
	}
	return fmt.Sprintf("exit %d\n%s", cmd.ProcessState.ExitCode(), text)
}

// inOneOrder sorts what etcdctl says of members, which it does in the order of their IDs, made from the time.
func inOneOrder(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if cluster, found := strings.CutPrefix(line, "ETCD_INITIAL_CLUSTER="); found {
			members := strings.Split(strings.Trim(cluster, `"`), ",")
			slices.Sort(members)
			lines[i] = "ETCD_INITIAL_CLUSTER=" + strings.Join(members, ",")
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
