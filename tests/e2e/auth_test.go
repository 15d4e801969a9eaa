package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

const (
	denied      = "etcdserver: permission denied"
	nobody      = "etcdserver: user name is empty"
	wrongSecret = "etcdserver: authentication failed, invalid user ID or password"
)

// TestUsers walks through users, roles and permissions with the real etcdctl.
func TestUsers(t *testing.T) {
	c := proc.Start(t, proc.Build(t, "upkeep"), 3, "--bcrypt-cost=4")
	setUpUsers(t, tool{t, proc.Peer(t, "etcdctl"), c.Endpoints()})
	useUsers(t, c.Members[0].ClientURL)
	checkUsers(t, c.Members[1].ClientURL)
	for _, m := range c.Members {
		m.Kill()
	}
	for _, m := range c.Members {
		m.Launch()
	}
	for _, m := range c.Members {
		m.WaitReady()
	}
	checkUsers(t, c.Members[2].ClientURL)
	backUpUsers(t, c.Members[0])
	tearDownUsers(t, tool{t, proc.Peer(t, "etcdctl"), c.Endpoints()})
}

// TestAdoptUsers starts upkeep on a directory in which etcd has enabled authentication.
func TestAdoptUsers(t *testing.T) {
	m := proc.Start(t, proc.Peer(t, "etcd"), 1, "--bcrypt-cost=4").Members[0]
	setUpUsers(t, tool{t, proc.Peer(t, "etcdctl"), m.ClientURL})
	m.Stop()
	m.Replace(proc.Build(t, "upkeep"), m.DataDir)
	m.Restart()
	checkUsers(t, m.ClientURL)
}

// as returns the tool in the hands of a user.
func (c tool) as(user string, args ...string) []string {
	return append([]string{"--user", user}, args...)
}

func setUpUsers(t *testing.T, ctl tool) {
	t.Helper()
	ctl.run("put", "app/a", "1")
	ctl.run("put", "secret", "s")
	ctl.fails("etcdserver: user name not found", "user", "grant-role", "root", "root")
	ctl.run("user", "add", "root:rpw")
	ctl.run("user", "add", "ann:apw")
	expect(t, "user add", ctl.run("user", "add", "cert", "--no-password"), `^User cert created\n`)
	expect(t, "role add", ctl.run("role", "add", "app"), `^Role app created\n`)
	ctl.run("role", "grant-permission", "app", "--prefix", "readwrite", "app/")
	ctl.run("role", "grant-permission", "app", "read", "shared")
	ctl.run("user", "grant-role", "ann", "app")
	expect(t, "user get", ctl.run("user", "get", "ann"), `(?s)^User: ann\nRoles: app\n`)
	expect(t, "auth enable", ctl.run("auth", "enable"), `^Authentication Enabled\n`)
}

// checkUsers: users are there, and enforced.
func checkUsers(t *testing.T, endpoint string) {
	t.Helper()
	ctl := tool{t, proc.Peer(t, "etcdctl"), endpoint}
	ctl.fails(nobody, "get", "app/a")
	ctl.fails(wrongSecret, ctl.as("ann:wrong", "get", "app/a")...)
	expect(t, "get", ctl.run(ctl.as("ann:apw", "get", "app/a")...), `^app/a\n1\n`)
	ctl.fails(denied, ctl.as("ann:apw", "put", "shared", "x")...)
}

// useUsers goes through what each may do.
func useUsers(t *testing.T, endpoint string) {
	t.Helper()
	ctl := tool{t, proc.Peer(t, "etcdctl"), endpoint}
	ctl.fails(nobody, "get", "app/a")
	ctl.fails(nobody, "put", "app/a", "2")
	ctl.fails(wrongSecret, ctl.as("ann:wrong", "get", "app/a")...)
	ctl.fails(wrongSecret, ctl.as("zoe:zpw", "get", "app/a")...)
	expect(t, "get", ctl.run(ctl.as("ann:apw", "get", "app/", "--prefix")...), `^app/a\n1\n`)
	expect(t, "put", ctl.run(ctl.as("ann:apw", "put", "app/b", "2", "--prev-kv")...), `^OK\n`)
	ctl.fails(denied, ctl.as("ann:apw", "get", "secret")...)
	ctl.fails(denied, ctl.as("ann:apw", "get", "", "--from-key")...)
	ctl.fails(denied, ctl.as("ann:apw", "put", "shared", "x")...)
	ctl.fails(denied, ctl.as("ann:apw", "del", "secret")...)
	ctl.fails(denied, ctl.as("ann:apw", "user", "list")...)
	ctl.fails(denied, ctl.as("ann:apw", "defrag")...)
	ctl.fails(denied, ctl.as("ann:apw", "snapshot", "save", filepath.Join(t.TempDir(), "stolen.db"))...)
	expect(t, "own roles", ctl.run(ctl.as("ann:apw", "user", "get", "ann")...), `Roles: app`)
	expect(t, "own permissions", ctl.run(ctl.as("ann:apw", "role", "get", "app")...), `(?s)KV Read:.*\[app/, app0\) \(prefix app/\).*shared.*KV Write:`)
	expect(t, "root", ctl.run(ctl.as("root:rpw", "get", "secret")...), `^secret\ns\n`)
	expect(t, "user list", ctl.run(ctl.as("root:rpw", "user", "list")...), `^ann\ncert\nroot\n`)
	expect(t, "auth status", ctl.run("auth", "status"), `^Authentication Status: true\nAuthRevision: \d+\n`)
	txn := "value(\"secret\") = \"s\"\n\nget app/a\n\n\n"
	if _, errOut, ok := ctl.try(txn, ctl.as("ann:apw", "txn")...); ok || !strings.Contains(errOut, denied) {
		t.Fatalf("a comparison with what may not be read: %v, %s", ok, errOut)
	}
}

// backUpUsers saves a snapshot and serves it with either program: users are part of it.
func backUpUsers(t *testing.T, m *proc.Member) {
	t.Helper()
	ctl := tool{t, proc.Peer(t, "etcdctl"), m.ClientURL}
	backup := filepath.Join(t.TempDir(), "backup.db")
	ctl.run(ctl.as("root:rpw", "snapshot", "save", backup)...)
	for _, program := range []string{proc.Build(t, "upkeep"), proc.Peer(t, "etcd")} {
		dir := filepath.Join(t.TempDir(), "restored")
		peerURL := fmt.Sprintf("http://127.0.0.1:%d", ports.Free(t, 1)[0])
		tool{t, proc.Peer(t, "etcdutl"), ""}.run("snapshot", "restore", backup, "--data-dir", dir, "--name", "m0",
			"--initial-cluster", "m0="+peerURL, "--initial-advertise-peer-urls", peerURL)
		checkUsers(t, proc.Single(t, program, dir, peerURL, "--bcrypt-cost=4").ClientURL)
	}
}

func tearDownUsers(t *testing.T, ctl tool) {
	t.Helper()
	root := func(args ...string) []string { return ctl.as("root:rpw", args...) }
	ctl.run(root("role", "revoke-permission", "app", "app/", "app0")...)
	ctl.fails(denied, ctl.as("ann:apw", "get", "app/a")...)
	ctl.fails("etcdserver: invalid auth management", root("user", "delete", "root")...)
	expect(t, "user delete", ctl.run(root("user", "delete", "ann")...), `^User ann deleted\n`)
	ctl.fails(wrongSecret, ctl.as("ann:apw", "get", "app/a")...)
	expect(t, "auth disable", ctl.run(root("auth", "disable")...), `^Authentication Disabled\n`)
	expect(t, "get", ctl.run("get", "app/a"), `^app/a\n1\n`)
}
