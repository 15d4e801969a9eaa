package badinput

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestLogLostItsEnd: a member whose log lost what it had acknowledged, in a way that it cannot see by itself, is found
// out when the leader speaks to it, and must not go on.
func TestLogLostItsEnd(t *testing.T) {
	t.Parallel()
	// The database does not tell: it is committed only now and then.
	c := proc.Start(t, upkeep(t), 3, "--backend-batch-interval=1h")
	client := c.Client()
	for i := range 100 {
		put(t, client, fmt.Sprintf("key-%03d", i), strings.Repeat("v", 200))
	}
	m := follower(t, c)
	waitLevel(t, c)
	m.Kill()
	log := segments(t, m)[0]
	check(t, os.Truncate(log, endOfLog(t, log)/2))
	fails(t, m, `the log of this member is not what it was`, `remove this member from the cluster`)
	put(t, client, "after", "1")
}

// TestForeignDirectory: a member that comes with the data of another cluster, of another member, or of a member that was
// removed, says so, and the cluster is not disturbed.
func TestForeignDirectory(t *testing.T) {
	t.Parallel()
	c := proc.Start(t, upkeep(t), 3)
	client := c.Client()
	put(t, client, "k", "v")
	m := follower(t, c)
	m.Stop()

	t.Run("of another cluster", func(t *testing.T) {
		other := proc.Prepare(t, upkeep(t), m.Name, filepath.Join(t.TempDir(), "data"), m.PeerURL,
			"--initial-cluster", initialCluster(c), "--initial-cluster-token", "another")
		fails(t, other, `refuses this .*member: .*cluster ID mismatch`, `--initial-cluster-token|--data-dir`)
		mustMatch(t, other.Output(), `refuses this new member.*--initial-cluster-token`)
		// It has data now.
		mustMatch(t, other.Output(), `--data-dir .* belongs to member [0-9a-f]+ of cluster [0-9a-f]+`)
	})
	t.Run("of another member", func(t *testing.T) {
		running := c.Members[0]
		if running == m {
			running = c.Members[1]
		}
		copied := filepath.Join(t.TempDir(), "data")
		copyDir(t, running.DataDir, copied)
		other := proc.Prepare(t, upkeep(t), m.Name, copied, m.PeerURL, "--initial-cluster", initialCluster(c))
		fails(t, other, `--data-dir .* belongs to member [0-9a-f]+ \(`+running.Name+`\), but .* are those of member [0-9a-f]+ \(`+m.Name+`\)`)
	})
	t.Run("database of another cluster", func(t *testing.T) {
		stranger := proc.Single(t, upkeep(t), filepath.Join(t.TempDir(), "data"), peerURL(t))
		stranger.Stop()
		mixed := filepath.Join(t.TempDir(), "data")
		copyDir(t, m.DataDir, mixed)
		text, err := os.ReadFile(database(stranger))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(mixed, "member", "snap", "db"), text, 0o600))
		other := proc.Prepare(t, upkeep(t), m.Name, mixed, m.PeerURL, "--initial-cluster", initialCluster(c))
		fails(t, other, `member/snap/db`, `does not know member|do not belong together`)
	})
	t.Run("of a removed member", func(t *testing.T) {
		// Removed while it is down, so that only the others can tell it.
		_, err := client.MemberRemove(t.Context(), idOf(t, client, m.Name))
		check(t, err)
		fails(t, m, `was removed from its cluster: move --data-dir .* away and join as a new member`)
		put(t, client, "k", "w")
	})
	resp, err := client.MemberList(t.Context())
	check(t, err)
	if len(resp.Members) != 2 {
		t.Errorf("members are %v", resp.Members)
	}
}

func initialCluster(c *proc.Cluster) string {
	var parts []string
	for _, m := range c.Members {
		parts = append(parts, m.Name+"="+m.PeerURL)
	}
	return strings.Join(parts, ",")
}

func idOf(t *testing.T, client *clientv3.Client, name string) uint64 {
	t.Helper()
	resp, err := client.MemberList(t.Context())
	check(t, err)
	for _, m := range resp.Members {
		if m.Name == name {
			return m.ID
		}
	}
	t.Fatalf("no member is called %s", name)
	return 0
}

// leader returns the member that leads, once one does.
func leader(t *testing.T, c *proc.Cluster) *proc.Member {
	t.Helper()
	var lead *proc.Member
	eventually(t, "a leader", func() bool {
		for _, m := range c.Members {
			status, err := m.Client().Status(t.Context(), m.ClientURL)
			if err == nil && status.Leader == status.Header.MemberId {
				lead = m
				return true
			}
		}
		return false
	})
	return lead
}

func follower(t *testing.T, c *proc.Cluster) *proc.Member {
	t.Helper()
	lead := leader(t, c)
	for _, m := range c.Members {
		if m != lead {
			return m
		}
	}
	return nil
}

// waitLevel waits until all members have applied the same.
func waitLevel(t *testing.T, c *proc.Cluster) {
	t.Helper()
	eventually(t, "all members to be level", func() bool {
		revisions := map[int64]bool{}
		for _, m := range c.Members {
			status, err := m.Client().Status(t.Context(), m.ClientURL)
			if err != nil {
				return false
			}
			revisions[status.Header.Revision] = true
		}
		return len(revisions) == 1
	})
}
