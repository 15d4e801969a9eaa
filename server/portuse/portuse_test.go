package portuse

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestMain is also the other process of TestOtherProcess: with a listener as descriptor 3 it waits for its end.
func TestMain(m *testing.M) {
	if os.Getenv("PORTUSE_HOLD") != "" {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Skipf("cannot listen on %s: %v", address, err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestThisProcess(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		taken := listen(t, "tcp", address).Addr().String()
		_, err := net.Listen("tcp", taken)
		var e *Error
		if err = Explain(err, taken); !errors.As(err, &e) || e.PID != os.Getpid() || !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: %v", taken, err)
		}
	}
}

func TestOtherProcess(t *testing.T) {
	l := listen(t, "tcp", "127.0.0.1:0")
	taken := l.Addr().String()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	holder := exec.Command(os.Args[0], "holding-the-port")
	holder.Env = append(os.Environ(), "PORTUSE_HOLD=1")
	holder.ExtraFiles = []*os.File{file}
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stdin.Close(); _ = holder.Wait() }()
	file.Close()
	l.Close()
	_, err = net.Listen("tcp", taken)
	var e *Error
	if err = Explain(err, taken); !errors.As(err, &e) || e.PID != holder.Process.Pid || !strings.Contains(err.Error(), "holding-the-port") {
		t.Errorf("got %v, want process %d", err, holder.Process.Pid)
	}
}

func TestOtherErrors(t *testing.T) {
	_, err := net.Listen("tcp", "192.0.2.1:1")
	if got := Explain(err, "192.0.2.1:1"); got != err {
		t.Errorf("%v became %v", err, got)
	}
}
