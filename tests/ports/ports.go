// Package ports finds ports that nobody else takes: not the kernel for an outgoing connection, and not another test that
// looks at the same moment, in this process or another. For a test whose process is to listen on a port that it is told:
//
//	address := ports.Address(t) // "127.0.0.1:23456", this test's until it ends
//
// That no one listens on a port says little: its owner may not have started yet, or be restarting. So each port is also a
// locked file, which the system unlocks when the test process ends, in whatever way.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// The range lies below what the kernel gives to outgoing connections.
const first, behind = 10_000, 32_000

// Free returns n ports of loopback.
func Free(t testing.TB, n int) []int {
	t.Helper()
	// Not os.TempDir, which a test may set for itself.
	dir := filepath.Join("/tmp", fmt.Sprintf("upkeep-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var out []int
	var err error
	for range 100 * n {
		if len(out) == n {
			return out
		}
		port := first + rand.IntN(behind-first)
		if taken := reserve(t, dir, port); taken != nil {
			err = taken
			continue
		}
		out = append(out, port)
	}
	t.Fatalf("ports: found %d free ports of %d: %v", len(out), n, err)
	return nil
}

// Address returns a free port as "127.0.0.1:port".
func Address(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", Free(t, 1)[0])
}

func reserve(t testing.TB, dir string, port int) error {
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(port)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return err
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		f.Close()
		return err
	}
	l.Close()
	t.Cleanup(func() { f.Close() })
	return nil
}
