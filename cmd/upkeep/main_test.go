package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/tests/ports"
)

// TestMain lets the test program be upkeep itself, for what can be seen only from outside of a process.
func TestMain(m *testing.M) {
	if os.Getenv("UPKEEP_TEST_MAIN") != "" {
		os.Unsetenv("UPKEEP_TEST_MAIN")
		main()
	}
	os.Exit(m.Run())
}

// fakeServer is a member that stops when it is told to.
type fakeServer struct {
	ready, done chan struct{}
	err         error
	closeErr    error
}

func (f *fakeServer) Ready() <-chan struct{} { return f.ready }
func (f *fakeServer) Done() <-chan struct{}  { return f.done }
func (f *fakeServer) Err() error             { return f.err }
func (f *fakeServer) Close() error           { return f.closeErr }

// testProgram returns a program whose member is what start returns, and where it writes to.
func testProgram(start func(context.Context) (member, error)) (program, *bytes.Buffer, *bytes.Buffer) {
	var out, errs bytes.Buffer
	return program{
		start:  func(ctx context.Context, _ *config.Config, _ *zap.Logger) (member, error) { return start(ctx) },
		notify: func(string) {}, stdout: &out, stderr: &errs,
	}, &out, &errs
}

func TestExitCodes(t *testing.T) {
	closed := make(chan struct{})
	close(closed)
	logFile := filepath.Join(t.TempDir(), "log")
	for _, c := range []struct {
		name     string
		args     string
		server   *fakeServer
		startErr error
		want     int
		out, err string // a part of what is written
		log      string
	}{
		{name: "help", args: "--help", want: 0, out: "--quota-backend-bytes '0'"},
		{name: "version", args: "--version", want: 0, out: "etcd Version: 3.7.3\nGit SHA: "},
		{name: "unknown flag", args: "--nosuch", want: 2, err: "flag provided but not defined: --nosuch\nUsage:"},
		{name: "bad value", args: "--pre-vote=maybe", want: 2, err: "for flag --pre-vote"},
		{name: "validation", args: "--max-txn-ops=0", want: 1, err: "upkeep: --max-txn-ops must be positive\n"},
		{name: "no such log directory", args: "--log-outputs=/no/such/dir/log", want: 1, err: "upkeep: --log-outputs: open /no/such/dir/log"},
		{name: "does not start", startErr: errors.New("port 2379 is taken"), want: 1, log: "port 2379 is taken"},
		{name: "stops by itself", server: &fakeServer{done: closed, err: errors.New("disk on fire")}, want: 1, log: "disk on fire"},
		{name: "fails to close", server: &fakeServer{done: closed, closeErr: errors.New("cannot sync")}, want: 1, log: "cannot sync"},
		{name: "was removed", server: &fakeServer{done: closed}, want: 0, log: "starting an upkeep server"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, out, errs := testProgram(func(context.Context) (member, error) { return c.server, c.startErr })
			args := strings.Fields(c.args)
			if c.args == "" {
				args = []string{"--log-outputs=" + logFile}
			}
			if got := p.run(args, nil); got != c.want {
				t.Errorf("exit code %d, want %d", got, c.want)
			}
			if !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.err) {
				t.Errorf("stdout %q, stderr %q", out, errs)
			}
			if c.log != "" {
				if text, err := os.ReadFile(logFile); err != nil || !strings.Contains(string(text), c.log) {
					t.Errorf("log %q, %v", text, err)
				}
			}
		})
	}
}

// A signal while the member starts cuts the start short.
func TestSignalWhileStarting(t *testing.T) {
	p, _, _ := testProgram(func(ctx context.Context) (member, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	cfg := config.Default()
	cfg.Complete()
	if received, err := p.serve(cfg, zap.NewNop(), signals); received != syscall.SIGTERM || err != nil {
		t.Errorf("received %v, %v", received, err)
	}
}

// child runs upkeep as a process and returns it with its log, line by line.
func child(t *testing.T, environ []string, args ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), "UPKEEP_TEST_MAIN=1"), environ...)
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // the test looks at ProcessState
		writer.Close()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		go func() { _, _ = io.Copy(io.Discard, reader) }()
		<-ended
	})
	return cmd, bufio.NewScanner(reader)
}

// await reads lines until one contains text; it returns all that were read.
func await(t *testing.T, lines *bufio.Scanner, text string) string {
	t.Helper()
	var read strings.Builder
	for lines.Scan() {
		fmt.Fprintln(&read, lines.Text())
		if text != "" && strings.Contains(lines.Text(), text) {
			return read.String()
		}
	}
	if text != "" {
		t.Fatalf("no %q in\n%s", text, &read)
	}
	return read.String()
}

func memberArgs(t *testing.T, dir string) []string {
	client, peer := "http://"+ports.Address(t), "http://"+ports.Address(t)
	return []string{"--name=m1", "--data-dir=" + dir, "--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer}
}

// The real thing: it serves, tells the service manager, stops gracefully, and ends by the signal it got.
func TestServesUntilSignal(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd, lines := child(t, []string{"NOTIFY_SOCKET=" + socket}, memberArgs(t, t.TempDir())...)
		await(t, lines, "ready to serve client requests")
		if got := notified(t, manager); got != "READY=1" {
			t.Errorf("service manager was told %q", got)
		}
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		rest := await(t, lines, "")
		if !strings.Contains(rest, "closed upkeep server") {
			t.Errorf("after %v:\n%s", s, rest)
		}
		if got := notified(t, manager); got != "STOPPING=1" {
			t.Errorf("service manager was told %q", got)
		}
		status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !ok || !status.Signaled() || status.Signal() != s {
			t.Errorf("ended with %v, want %v", cmd.ProcessState, s)
		}
	}
}

func notified(t *testing.T, manager *net.UnixConn) string {
	t.Helper()
	message := make([]byte, 100)
	if err := manager.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := manager.Read(message)
	if err != nil {
		t.Fatal(err)
	}
	return string(message[:n])
}

func TestPortInUse(t *testing.T) {
	args := memberArgs(t, t.TempDir())
	taken, err := net.Listen("tcp", strings.TrimPrefix(args[2], "--listen-client-urls=http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cmd, lines := child(t, nil, args...)
	await(t, lines, "--listen-client-urls")
	await(t, lines, "")
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}
