// Package e2e drives real processes with the real etcdctl and etcdutl, and with upkeepctl.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

const (
	quotaBytes = 16 << 20
	noSpace    = "etcdserver: mvcc: database space exceeded"
	compacted  = "etcdserver: mvcc: required revision has been compacted"
)

// tool runs a command line tool against a cluster.
type tool struct {
	t         *testing.T
	path      string
	endpoints string
}

// try runs the tool and returns what it printed on stdout and stderr, and whether it succeeded.
func (c tool) try(stdin string, args ...string) (out, errOut string, ok bool) {
	c.t.Helper()
	if c.endpoints != "" {
		args = append([]string{"--endpoints", c.endpoints, "--command-timeout", "30s"}, args...)
	}
	cmd := exec.Command(c.path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	return stdout.String(), stderr.String(), err == nil
}

func (c tool) run(args ...string) string {
	c.t.Helper()
	out, errOut, ok := c.try("", args...)
	if !ok {
		c.t.Fatalf("%s %s failed: %s%s", filepath.Base(c.path), strings.Join(args, " "), out, errOut)
	}
	return out
}

// fails runs the tool, which must fail and say want.
func (c tool) fails(want string, args ...string) {
	c.t.Helper()
	out, errOut, ok := c.try("", args...)
	if ok || !strings.Contains(errOut, want) {
		c.t.Fatalf("%s %s: ok=%v, printed %q, want %q", filepath.Base(c.path), strings.Join(args, " "), ok, out+errOut, want)
	}
}

func expect(t *testing.T, what, out, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(out) {
		t.Fatalf("%s printed\n%s\nwant a match of %s", what, out, pattern)
	}
}

func TestMaintenanceWalk(t *testing.T) {
	for _, members := range []int{1, 3} {
		for _, name := range []string{"etcdctl", "upkeepctl"} {
			t.Run(fmt.Sprintf("%d members, %s", members, name), func(t *testing.T) {
				path := proc.Build(t, "upkeepctl")
				if name == "etcdctl" {
					path = proc.Peer(t, "etcdctl")
				}
				walk(t, members, path)
			})
		}
	}
}

// walk is the story of the README: fill, refuse, compact, defragment, disarm, go on, back up, lose, restore.
func walk(t *testing.T, members int, ctlPath string) {
	c := proc.Start(t, proc.Build(t, "upkeep"), members, fmt.Sprintf("--quota-backend-bytes=%d", quotaBytes))
	ctl := tool{t, ctlPath, c.Endpoints()}

	// 1. Fill the quota.
	ctl.run("put", "first", "1")
	fillQuota(t, ctl)
	before := largestFile(t, c)
	expect(t, "endpoint status", ctl.run("endpoint", "status", "-w", "table"), `(?s)DB SIZE.*alarm:NOSPACE`)
	expect(t, "alarm list", ctl.run("alarm", "list"), `^memberID:\d+ +alarm:NOSPACE`)
	for _, m := range c.Members {
		one := tool{t, ctlPath, m.ClientURL}
		one.fails(noSpace, "put", "more", "x")
		expect(t, "get", one.run("get", "first"), `^first\n1\n`)
	}
	expect(t, "del", ctl.run("del", "filler-0"), `^1\n`)

	// 2. Compact, defragment, disarm.
	rev := revisionOf(t, ctl)
	expect(t, "compact", ctl.run("compact", fmt.Sprint(rev)), fmt.Sprintf(`^compacted revision %d\n`, rev))
	ctl.fails(compacted, "get", "first", fmt.Sprintf("--rev=%d", rev-1))
	expect(t, "defrag", ctl.run("defrag"), `Finished defragmenting etcd member\[`)
	waitShrunk(t, c, before)
	ctl.run("alarm", "disarm")
	expect(t, "put", ctl.run("put", "newkey", "123"), `^OK\n`)

	// 3. Back up, lose, restore.
	backup := filepath.Join(t.TempDir(), "backup.db")
	one := tool{t, ctlPath, c.Members[0].ClientURL}
	expect(t, "snapshot save", one.run("snapshot", "save", backup), `Snapshot saved at `+regexp.QuoteMeta(backup))
	checkStatus(t, backup)
	ctl.run("del", "newkey")
	restoreAndServe(t, ctlPath, backup)
}

// fillQuota puts 1 MiB values until the cluster refuses.
func fillQuota(t *testing.T, ctl tool) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	for i := range 64 {
		value := make([]byte, 1<<20)
		for j := range value {
			value[j] = 'a' + byte(random.Uint64()%26)
		}
		// Few keys, so that compaction has something to free.
		_, errOut, ok := ctl.try(string(value), "put", fmt.Sprintf("filler-%d", i%2))
		if ok {
			continue
		}
		if !strings.Contains(errOut, noSpace) {
			t.Fatalf("put %d: %s", i, errOut)
		}
		return
	}
	t.Fatal("64 MiB fit into a quota of 16 MiB")
}

func largestFile(t *testing.T, c *proc.Cluster) int64 {
	t.Helper()
	var size int64
	for _, m := range c.Members {
		size = max(size, fileSize(t, m))
	}
	return size
}

func fileSize(t *testing.T, m *proc.Member) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(m.DataDir, "member", "snap", "db"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// waitShrunk checks that every member's file on disk is much smaller than before.
func waitShrunk(t *testing.T, c *proc.Cluster, before int64) {
	t.Helper()
	for _, m := range c.Members {
		if now := fileSize(t, m); now > before/2 {
			t.Fatalf("%s: the file has %d bytes after the defragmentation, %d before", m.Name, now, before)
		}
	}
}

func revisionOf(t *testing.T, ctl tool) int64 {
	t.Helper()
	var status []struct {
		Status struct {
			Header struct{ Revision int64 }
		}
	}
	out := ctl.run("endpoint", "status", "-w", "json")
	if err := json.Unmarshal([]byte(out), &status); err != nil || len(status) == 0 {
		t.Fatalf("endpoint status -w json: %v\n%s", err, out)
	}
	return status[0].Status.Header.Revision
}

// checkStatus compares what upkeepctl and the real etcdutl say of a snapshot.
func checkStatus(t *testing.T, backup string) {
	t.Helper()
	ours := tool{t, proc.Build(t, "upkeepctl"), ""}
	theirs := tool{t, proc.Peer(t, "etcdutl"), ""}
	for _, format := range []string{"table", "simple", "json"} {
		got := ours.run("snapshot", "status", backup, "-w", format)
		want := theirs.run("snapshot", "status", backup, "-w", format)
		if got != want {
			t.Fatalf("snapshot status -w %s: upkeepctl prints\n%setcdutl prints\n%s", format, got, want)
		}
	}
}

// restoreAndServe restores with upkeepctl and with etcdutl, and serves each result with upkeep and with etcd: all four
// hold the same history.
func restoreAndServe(t *testing.T, ctlPath, backup string) {
	t.Helper()
	hashes := map[uint32]bool{}
	for _, restorer := range []string{proc.Build(t, "upkeepctl"), proc.Peer(t, "etcdutl")} {
		for _, program := range []string{proc.Build(t, "upkeep"), proc.Peer(t, "etcd")} {
			dir := filepath.Join(t.TempDir(), "restored")
			ports := ports.Free(t, 1)
			peerURL := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
			tool{t, restorer, ""}.run("snapshot", "restore", backup, "--data-dir", dir, "--name", "m0",
				"--initial-cluster", "m0="+peerURL, "--initial-advertise-peer-urls", peerURL)
			m := proc.Single(t, program, dir, peerURL)
			expect(t, "get", tool{t, ctlPath, m.ClientURL}.run("get", "newkey"), `^newkey\n123\n`)
			hashes[hashOf(t, m.Client())] = true
		}
	}
	if len(hashes) != 1 {
		t.Fatalf("the restored histories differ: %v", hashes)
	}
}

func hashOf(t *testing.T, client *clientv3.Client) uint32 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	resp, err := client.HashKV(ctx, client.Endpoints()[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Hash
}
