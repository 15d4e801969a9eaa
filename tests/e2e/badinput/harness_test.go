// Package badinput gives real processes what they cannot serve: contradictory flags, ports and directories of others,
// damaged files, full disks, and a kill -9 at the worst moment. Each must end in a message that says what is wrong and
// what to do, must lose nothing that was acknowledged, and must never end in a panic.
package badinput

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// ended is how a process ended that was not meant to go on.
type ended struct {
	code int
	out  string // stdout and stderr
}

// nobody is a user without rights.
const nobody = 65534

// run waits until a program has ended by itself; one that serves instead is killed, and fails the test.
func run(t *testing.T, program string, args ...string) ended {
	t.Helper()
	return runAs(t, 0, program, args...)
}

// runAs is run as another user, 0 for the one of the test.
func runAs(t *testing.T, uid uint32, program string, args ...string) ended {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Dir = os.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s %s did not end:\n%s", filepath.Base(program), strings.Join(args, " "), out.String())
	}
	return ended{code: cmd.ProcessState.ExitCode(), out: out.String()}
}

// says checks exit code and message. Every element of want must match, as a regular expression.
func (e ended) says(t *testing.T, code int, want ...string) {
	t.Helper()
	if e.code != code {
		t.Errorf("exit code %d, want %d", e.code, code)
	}
	noPanic(t, e.out)
	mustMatch(t, e.out, want...)
	if t.Failed() {
		t.Fatalf("it printed\n%s", e.out)
	}
}

func mustMatch(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, pattern := range want {
		if !regexp.MustCompile(pattern).MatchString(out) {
			t.Errorf("no match of %s", pattern)
		}
	}
}

func noPanic(t *testing.T, out string) {
	t.Helper()
	for _, sign := range []string{"panic:", "goroutine ", "SIGSEGV", "SIGBUS", "runtime error", "fatal error"} {
		if strings.Contains(out, sign) {
			t.Errorf("it printed %q", sign)
		}
	}
}

func upkeep(t *testing.T) string    { t.Helper(); return proc.Build(t, "upkeep") }
func upkeepctl(t *testing.T) string { t.Helper(); return proc.Build(t, "upkeepctl") }

func peerURL(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("http://127.0.0.1:%d", ports.Free(t, 1)[0])
}

// fails starts a member that must end by itself with exit code 1, saying want, and saying the same at a second try.
func fails(t *testing.T, m *proc.Member, want ...string) {
	t.Helper()
	for range 2 {
		m.Launch()
		ended{m.WaitExit(), m.Output()}.says(t, 1, want...)
	}
}

// waitOutput waits until the member has printed a match of pattern.
func waitOutput(t *testing.T, m *proc.Member, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	eventually(t, "output of "+m.Name+" that matches "+pattern, func() bool { return re.MatchString(m.Output()) })
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

func put(t *testing.T, client *clientv3.Client, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := client.Put(ctx, key, value); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func get(t *testing.T, client *clientv3.Client, key string, opts ...clientv3.OpOption) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := client.Get(ctx, key, opts...)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

// database is the path of a member's database, and segments those of its log, oldest first.
func database(m *proc.Member) string { return filepath.Join(m.DataDir, "member", "snap", "db") }

func segments(t *testing.T, m *proc.Member) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(m.DataDir, "member", "wal", "*.wal"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no log in %s: %v", m.DataDir, err)
	}
	return found
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
