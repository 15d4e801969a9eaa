// Package tls runs members with certificates as real processes, and drives them with etcdctl and upkeepctl.
// The tests run beside each other, since most of their time they wait.
package tls

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/tests/certs"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// patience bounds every wait of these tests.
const patience = 60 * time.Second

// sockets makes a directory for Unix sockets, whose paths must be short.
func sockets(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tls")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// run runs a program to its end, within the test's patience.
func run(t *testing.T, program string, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	_ = cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s %s did not end:\n%s", filepath.Base(program), strings.Join(args, " "), both.String())
	}
	return both.String(), cmd.ProcessState.ExitCode()
}

// tools are the clients to drive members with: ours, and etcd's where it was built.
func tools(t *testing.T) []string {
	t.Helper()
	return []string{proc.Build(t, "upkeepctl"), proc.Peer(t, "etcdctl")}
}

// ctl runs a command of a client and wants it to end with this code and to print this.
func ctl(t *testing.T, tool string, code int, want string, args ...string) {
	t.Helper()
	out, got := run(t, tool, args...)
	if got != code || !strings.Contains(out, want) {
		t.Errorf("%s %s: exit code %d, want %d and %q in\n%s", filepath.Base(tool), strings.Join(args, " "), got, code, want, out)
	}
}

// credentials are a client's flags.
func credentials(ca *certs.Authority, shown ...certs.Pair) []string {
	flags := []string{"--cacert", ca.CertFile, "--dial-timeout", "10s", "--command-timeout", "20s"}
	for _, p := range shown {
		flags = append(flags, "--cert", p.CertFile, "--key", p.KeyFile)
	}
	return flags
}

func with(flags []string, more ...string) []string {
	return append(append([]string{}, flags...), more...)
}

// shown is the common name of the certificate that a server shows.
func shown(t *testing.T, address string, config *tls.Config) (string, error) {
	t.Helper()
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: config}
	conn, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// eventually waits for a condition that another process brings about.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatalf("in vain: %s", what)
		}
	}
}

func matches(t *testing.T, out, want string) {
	t.Helper()
	if !regexp.MustCompile("(?s)" + want).MatchString(out) {
		t.Errorf("no match of %q in\n%s", want, out)
	}
}
