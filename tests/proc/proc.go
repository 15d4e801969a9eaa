// Package proc runs members as real processes on loopback ports, for tests that kill them. The program may be upkeep
// or etcd: both take the same flags.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/upkeep-kv/upkeep/tests/ports"
)

// patience bounds the wait for a member to start or stop.
const patience = 60 * time.Second

// Root returns the root of the module, where go.mod is.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "LICENSE")); err == nil {
			return dir
		}
	}
	t.Fatal("not inside the module")
	return ""
}

// Peer returns the path of a program of etcd's, built by `make peer`, and skips the test where it is missing.
func Peer(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Root(t), "bin", "peer", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is missing: run `make peer`", path)
	}
	return path
}

var built struct {
	sync.Mutex
	done map[string]bool
}

// Build builds one of our commands and returns its path. It builds each once per test process.
func Build(t testing.TB, command string) string {
	t.Helper()
	return build(t, command, "./cmd/"+command)
}

func build(t testing.TB, command, source string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	path := filepath.Join(Root(t), "bin", command)
	if built.done[command] {
		return path
	}
	cmd := exec.Command("go", "build", "-o", path, source)
	cmd.Dir = Root(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", command, err, out)
	}
	if built.done == nil {
		built.done = map[string]bool{}
	}
	built.done[command] = true
	return path
}

// Cluster is a set of member processes.
type Cluster struct {
	Members []*Member
	t       testing.TB
}

// Member is one member process.
type Member struct {
	Name      string
	ClientURL string
	PeerURL   string
	DataDir   string

	t       testing.TB
	program string
	args    []string
	environ []string // beside the test's own
	cmd     *exec.Cmd
	exited  chan struct{} // closed when cmd has exited
	output  *tail
	gate    *SyncGate // nil for a disk as it is
}

// Start runs a cluster of n members of program and waits until each serves. flags are added to each member's.
func Start(t testing.TB, program string, n int, flags ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	dir := t.TempDir()
	free := ports.Free(t, 2*n)
	var initial []string
	for i := range n {
		m := &Member{
			t: t, program: program, Name: fmt.Sprintf("m%d", i),
			ClientURL: fmt.Sprintf("http://127.0.0.1:%d", free[2*i]),
			PeerURL:   fmt.Sprintf("http://127.0.0.1:%d", free[2*i+1]),
		}
		m.DataDir = filepath.Join(dir, m.Name)
		initial = append(initial, m.Name+"="+m.PeerURL)
		c.Members = append(c.Members, m)
	}
	for _, m := range c.Members {
		m.args = append(m.arguments(strings.Join(initial, ",")), flags...)
		m.Launch()
	}
	t.Cleanup(c.stop)
	for _, m := range c.Members {
		m.WaitReady()
	}
	return c
}

// Single runs one member on an existing directory that was made for peerURL and the name m0, and waits until it serves.
func Single(t testing.TB, program, dataDir, peerURL string, flags ...string) *Member {
	t.Helper()
	m := Prepare(t, program, "m0", dataDir, peerURL, flags...)
	m.Restart()
	return m
}

// Prepare describes a member without starting it; whatever runs of it is ended with the test. flags come last, and so
// override those that every member gets, such as an --initial-cluster of this member alone.
func Prepare(t testing.TB, program, name, dataDir, peerURL string, flags ...string) *Member {
	t.Helper()
	m := &Member{
		t: t, program: program, Name: name, DataDir: dataDir, PeerURL: peerURL,
		ClientURL: fmt.Sprintf("http://127.0.0.1:%d", ports.Free(t, 1)[0]), output: &tail{},
	}
	m.args = append(m.arguments(name+"="+peerURL), flags...)
	c := &Cluster{t: t, Members: []*Member{m}}
	t.Cleanup(c.stop)
	return m
}

// Arguments are the command line that the member is started with. The caller may append, to start a like one.
func (m *Member) Arguments() []string { return slices.Clip(m.args) }

// Append adds flags for the next start. They come last, and so override those before.
func (m *Member) Append(flags ...string) { m.args = append(slices.Clip(m.args), flags...) }

// Only replaces all flags for the next start.
func (m *Member) Only(flags ...string) { m.args = flags }

// Setenv sets a variable for the next start.
func (m *Member) Setenv(name, value string) { m.environ = append(m.environ, name+"="+value) }

func (m *Member) arguments(initialCluster string) []string {
	return []string{
		"--name", m.Name, "--data-dir", m.DataDir,
		"--listen-client-urls", m.ClientURL, "--advertise-client-urls", m.ClientURL,
		"--listen-peer-urls", m.PeerURL, "--initial-advertise-peer-urls", m.PeerURL,
		"--initial-cluster", initialCluster, "--initial-cluster-token", "upkeep-test",
	}
}

// stop ends every member and shows the logs of a failed test.
func (c *Cluster) stop() {
	for _, m := range c.Members {
		m.Kill()
		if c.t.Failed() {
			c.t.Logf("--- %s ---\n%s", m.Name, m.output.String())
		}
	}
}

// Endpoints returns the client URLs of all members, joined by commas.
func (c *Cluster) Endpoints() string {
	var urls []string
	for _, m := range c.Members {
		urls = append(urls, m.ClientURL)
	}
	return strings.Join(urls, ",")
}

// Client returns a client of all members, closed with the test.
func (c *Cluster) Client() *clientv3.Client {
	c.t.Helper()
	return newClient(c.t, strings.Split(c.Endpoints(), ","))
}

// Client returns a client of this member alone, closed with the test.
func (m *Member) Client() *clientv3.Client {
	m.t.Helper()
	return newClient(m.t, []string{m.ClientURL})
}

func newClient(t testing.TB, endpoints []string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientConfig(endpoints))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// clientConfig tries again soon where a member is just being started: gRPC by itself would wait a second.
func clientConfig(endpoints []string) clientv3.Config {
	pauses := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond},
		MinConnectTimeout: 2 * time.Second,
	}
	return clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(), DialTimeout: patience,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(pauses)},
	}
}

// Replace makes the member run on another data directory and with another program from its next start on.
func (m *Member) Replace(program, dataDir string) {
	m.program = program
	i := slices.Index(m.args, "--data-dir")
	m.DataDir, m.args[i+1] = dataDir, dataDir
}

// Launch starts the process and returns at once.
func (m *Member) Launch() {
	m.t.Helper()
	cmd := exec.Command(m.program, m.args...)
	if m.output == nil {
		m.output = &tail{}
	}
	cmd.Stdout, cmd.Stderr = m.output, m.output
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "UPKEEP_") || strings.HasPrefix(v, "ETCD_") // meant for the test
	})
	cmd.Env = append(cmd.Env, m.environ...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	exited := make(chan struct{})
	start := cmd.Start
	if m.gate != nil {
		start = func() error { return m.gate.start(cmd, exited) }
	}
	if err := start(); err != nil {
		m.t.Fatal(err)
	}
	go func() { _ = cmd.Wait(); close(exited) }()
	m.cmd, m.exited = cmd, exited
}

// WaitReady waits until the member answers a linearizable read, if only by asking who wants to know.
func (m *Member) WaitReady() {
	m.t.Helper()
	client, err := clientv3.New(clientConfig([]string{m.ClientURL}))
	if err != nil {
		m.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	exited := m.exited
	go func() {
		select {
		case <-exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		once, done := context.WithTimeout(ctx, 2*time.Second)
		_, err := client.Get(once, "ready?")
		done()
		if err == nil || errors.Is(err, rpctypes.ErrUserEmpty) {
			return
		}
		if ctx.Err() != nil {
			m.t.Fatalf("%s did not get ready: %v\n%s", m.Name, err, m.output.String())
		}
	}
}

// Pid returns the process id of the running member.
func (m *Member) Pid() int { return m.cmd.Process.Pid }

// Kill ends the process with SIGKILL, and returns once it is gone. One that is gone already stays so.
func (m *Member) Kill() { m.end(syscall.SIGKILL) }

// Stop ends the process with SIGTERM and returns once it is gone.
func (m *Member) Stop() { m.end(syscall.SIGTERM) }

func (m *Member) end(signal syscall.Signal) {
	m.t.Helper()
	if m.cmd == nil {
		return
	}
	if err := m.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		m.t.Errorf("%s: %v", m.Name, err)
	}
	select {
	case <-m.exited:
	case <-time.After(patience):
		_ = m.cmd.Process.Kill()
		m.t.Errorf("%s did not stop on %v", m.Name, signal)
		<-m.exited
	}
	m.cmd = nil
}

// Exited is closed when the process that was launched last has ended.
func (m *Member) Exited() <-chan struct{} { return m.exited }

// WaitExit waits until the process ends by itself and returns its exit code.
func (m *Member) WaitExit() int {
	m.t.Helper()
	select {
	case <-m.exited:
		code := m.cmd.ProcessState.ExitCode()
		m.cmd = nil
		return code
	case <-time.After(patience):
		m.t.Fatalf("%s did not end\n%s", m.Name, m.output.String())
		return 0
	}
}

// Restart starts a stopped or killed member and waits until it serves.
func (m *Member) Restart() {
	m.t.Helper()
	m.Launch()
	m.WaitReady()
}

// Output returns the end of what the member has printed.
func (m *Member) Output() string { return m.output.String() }

// tail keeps the end of what a process prints.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const tailBytes = 64 << 10

func (o *tail) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	if extra := o.buf.Len() - tailBytes; extra > 0 {
		o.buf.Next(extra)
	}
	return len(p), nil
}

func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
