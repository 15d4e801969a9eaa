package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/upkeep-kv/upkeep/server/config"
)

// TestMain lets the test program play two other parts: a member, as far as upkeep local sees one, and upkeep local
// itself, whose members are then the first part.
func TestMain(m *testing.M) {
	switch os.Getenv("LOCAL_TEST_PART") {
	case "member":
		os.Exit(fakeMember())
	case "local":
		os.Setenv("LOCAL_TEST_PART", "member")
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// fakeMember serves /health and notes its starts in the data directory. A file named "broken" there makes it fail.
func fakeMember() int {
	cfg, err := config.Parse(os.Args[1:], os.Environ())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return config.ExitCode(err)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return 1
	}
	starts, err := os.OpenFile(filepath.Join(cfg.DataDir, "starts"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 1
	}
	fmt.Fprintln(starts, os.Getpid())
	fmt.Fprintf(os.Stderr, `{"level":"info","ts":"2026-01-02T10:04:05.123456Z","caller":"x/y.go:1","msg":"fake member","quota":%d}`+"\n", cfg.QuotaBackendBytes)
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "broken")); err == nil {
		fmt.Fprintln(os.Stderr, "cannot go on")
		return 3
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	l, err := net.Listen("tcp", cfg.ListenClientURLs[0].Host)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() { _ = http.Serve(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) }()
	<-stop
	fmt.Fprintln(os.Stdout, "stopped gracefully")
	return 0
}

// transcript collects output and lets a test wait for a text in it.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed and replaced with every write
}

func newTranscript() *transcript { return &transcript{more: make(chan struct{})} }

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.more)
	s.more = make(chan struct{})
	return s.text.Write(p)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits for each text in turn, after the one before.
func (s *transcript) await(t *testing.T, texts ...string) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	from := 0
	for _, text := range texts {
		for {
			s.mu.Lock()
			all, more := s.text.String(), s.more
			s.mu.Unlock()
			if at := strings.Index(all[from:], text); at >= 0 {
				from += at + len(text)
				break
			}
			select {
			case <-more:
			case <-timeout:
				t.Fatalf("no %q after the first %d bytes of:\n%s", text, from, all)
			}
		}
	}
}

// skip forgets what was written so far.
func (s *transcript) skip() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Reset()
}

// testOptions returns options for n members on ports that are free.
func testOptions(t *testing.T, n int, extra ...string) *options {
	t.Helper()
	for range 100 {
		o := &options{members: n, basePort: 20000 + rand.IntN(40000), dataDir: filepath.Join(t.TempDir(), "data"), color: "never", extra: extra}
		if checkPorts(o.specs()) == nil {
			return o
		}
	}
	t.Fatal("no free ports")
	return nil
}

// session is a cluster of fake members that runs in the test.
type session struct {
	out      *transcript
	commands chan string
	cancel   context.CancelFunc
	done     chan struct{}
	err      error // valid after done
}

func startSession(t *testing.T, o *options) *session {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &session{out: newTranscript(), commands: make(chan string), cancel: cancel, done: make(chan struct{})}
	c := &cluster{
		program: os.Args[0], environ: append(os.Environ(), "LOCAL_TEST_PART=member"),
		out: s.out, probe: probeHealth, banner: "the banner",
	}
	for _, spec := range o.specs() {
		c.members = append(c.members, &member{spec: spec})
	}
	go func() {
		defer close(s.done)
		s.err = c.run(ctx, s.commands)
	}()
	t.Cleanup(func() { cancel(); <-s.done })
	return s
}

func (s *session) end(t *testing.T) error {
	t.Helper()
	s.cancel()
	select {
	case <-s.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("does not stop:\n%s", s.out)
	}
	return s.err
}

func startsOf(t *testing.T, o *options, number int) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(o.specs()[number-1].dataDir, "starts"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

func TestClusterRunsAndStops(t *testing.T) {
	o := testOptions(t, 3, "--quota-backend-bytes=12345")
	s := startSession(t, o)
	s.out.await(t, "the banner")
	for _, want := range []string{"m1 │ ", "m2 │ ", "m3 │ ", "fake member quota=12345", "m2 serves clients on " + o.specs()[1].clientURL()} {
		if !strings.Contains(s.out.String(), want) {
			t.Errorf("no %q in\n%s", want, s.out)
		}
	}
	if err := s.end(t); err != nil {
		t.Error(err)
	}
	if got := strings.Count(s.out.String(), "stopped gracefully"); got != 3 {
		t.Errorf("%d of 3 members stopped gracefully:\n%s", got, s.out)
	}
	if err := checkPorts(o.specs()); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

func TestCommands(t *testing.T) {
	o := testOptions(t, 3)
	s := startSession(t, o)
	s.out.await(t, "the banner")
	for _, step := range []struct {
		typed string
		want  []string
	}{
		{"", nil},
		{"kill 2", []string{"m2 was killed. Type 2 to start it again."}},
		{"kill 2", []string{"m2 does not run"}},
		{"status", []string{"m1       serving", "m2       exited    -"}},
		{"2", []string{"starting m2", "m2 serves clients on"}},
		{"2", []string{"m2 runs already (serving)"}},
		{"pause m3", []string{"m3 is paused. Type resume 3"}},
		{"pause 3", []string{"m3 is paused"}},
		{"status", []string{"m3       paused"}},
		{"resume 3", []string{"m3 runs on"}},
		{"resume 3", []string{"m3 is not paused"}},
		{"stop 1", []string{"m1 │ stopped gracefully", "m1 has stopped."}},
		{"help", []string{"pause N"}},
		{"kill 7", []string{`"kill 7" is not understood`}},
		{"dance 1", []string{`"dance 1" is not understood`}},
		{"rm -rf /", []string{`is not understood`}},
	} {
		s.out.skip()
		s.commands <- step.typed
		s.out.await(t, step.want...)
	}
	if first, again := len(startsOf(t, o, 1)), len(startsOf(t, o, 2)); first != 1 || again != 2 {
		t.Errorf("m1 was started %d times and m2 %d times, want 1 and 2", first, again)
	}
	// A paused member stops too when all are stopped.
	s.commands <- "pause 3"
	s.commands <- "quit"
	<-s.done
	if s.err != nil || !strings.Contains(s.out.String(), "m3 │ stopped gracefully") {
		t.Errorf("%v\n%s", s.err, s.out)
	}
}

func TestMemberThatDiesIsReported(t *testing.T) {
	o := testOptions(t, 2)
	s := startSession(t, o)
	s.out.await(t, "the banner")
	pid, err := strconv.Atoi(startsOf(t, o, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	s.out.await(t, "m1 has ended by itself", "Type 1 to start it again.")
}

func TestAllFail(t *testing.T) {
	o := testOptions(t, 2)
	for _, spec := range o.specs() {
		if err := os.MkdirAll(filepath.Join(spec.dataDir, "broken"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s := startSession(t, o)
	<-s.done
	if !errors.Is(s.err, errNoneServed) || strings.Count(s.out.String(), "cannot go on") != 2 {
		t.Errorf("%v\n%s", s.err, s.out)
	}
}

func TestNothingLeftWithoutCommands(t *testing.T) {
	o := testOptions(t, 1)
	s := startSession(t, o)
	s.out.await(t, "the banner")
	s.commands <- "stop 1"
	s.out.await(t, "m1 has stopped.")
	select {
	case <-s.done:
		t.Fatal("ended although the member can be started again")
	default:
	}
	close(s.commands)
	<-s.done
	if !errors.Is(s.err, errAllEnded) {
		t.Error(s.err)
	}
}

// program starts upkeep local itself, with a terminal or without, and returns it, its output and where to type.
func program(t *testing.T, terminal bool, args ...string) (*exec.Cmd, *transcript, io.Writer) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "LOCAL_TEST_PART=local")
	out := newTranscript()
	if !terminal {
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out, in
	}
	screen, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: 200})
	if err != nil {
		t.Fatal(err)
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(out, screen) // ends with an error when the program has gone
	}()
	t.Cleanup(func() { screen.Close(); <-copied })
	return cmd, out, screen
}

func programArgs(o *options, more ...string) []string {
	return append([]string{"--members", fmt.Sprint(o.members), "--base-port", fmt.Sprint(o.basePort), "--data-dir", o.dataDir}, more...)
}

func TestProgramOnTerminal(t *testing.T) {
	o := testOptions(t, 3)
	cmd, out, keys := program(t, true, programArgs(o)...)
	out.await(t, "A cluster of 3 on this machine", "export ETCDCTL_ENDPOINTS="+o.specs()[0].clientAddress()+","+o.specs()[1].clientAddress(), "snapshot save", "upkeep> ")
	if !strings.Contains(out.String(), "\x1b[36mm1 │\x1b[0m") {
		t.Errorf("no colours on a terminal:\n%s", out)
	}
	fmt.Fprint(keys, "kill 1\r")
	out.await(t, "m1 was killed")
	fmt.Fprint(keys, "1\r")
	out.await(t, "m1 was killed", "serves clients on "+o.specs()[0].clientURL())
	fmt.Fprint(keys, "\x03") // Ctrl-C
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	out.await(t, "stopping 3 member(s)")
}

// Commands may come from a pipe; a second run continues; --fresh starts over; contradictions are refused.
func TestProgramRunsAgain(t *testing.T) {
	o := testOptions(t, 2)
	once := func(args []string) string {
		cmd, out, keys := program(t, false, args...)
		out.await(t, "A cluster of 2")
		fmt.Fprintln(keys, "quit")
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return out.String()
	}
	once(programArgs(o))
	if again := once([]string{"--data-dir", o.dataDir}); !strings.Contains(again, "continuing with the data") {
		t.Errorf("second run:\n%s", again)
	}
	if n := len(startsOf(t, o, 2)); n != 2 {
		t.Errorf("data of %d runs, want 2", n)
	}
	cmd, out, _ := program(t, false, "--data-dir", o.dataDir, "--members", "5")
	if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "holds a cluster of 2 members; --fresh starts over") {
		t.Errorf("%v\n%s", err, out)
	}
	if fresh := once(programArgs(o, "--fresh")); strings.Contains(fresh, "continuing") {
		t.Errorf("fresh run:\n%s", fresh)
	}
	if n := len(startsOf(t, o, 2)); n != 1 {
		t.Errorf("data of %d runs after --fresh, want 1", n)
	}
}

// Without anybody to type, the cluster runs until a signal.
func TestProgramWithoutInput(t *testing.T) {
	o := testOptions(t, 1)
	cmd, out, keys := program(t, false, programArgs(o)...)
	keys.(io.Closer).Close()
	out.await(t, "A cluster of 1")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "stopped gracefully") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Members, even paused ones, do not outlive a program that is killed.
func TestMembersDieWithTheProgram(t *testing.T) {
	o := testOptions(t, 2)
	cmd, out, keys := program(t, false, programArgs(o)...)
	out.await(t, "A cluster of 2")
	fmt.Fprintln(keys, "pause 2")
	out.await(t, "m2 is paused")
	var members []*os.File
	for number := range 2 {
		// A process is gone when its descriptor becomes readable.
		pid, err := strconv.Atoi(startsOf(t, o, number+1)[0])
		if err != nil {
			t.Fatal(err)
		}
		fd, _, errno := syscall.Syscall(sysPidfdOpen, uintptr(pid), syscall.O_NONBLOCK, 0)
		if errno != 0 {
			t.Skipf("pidfd_open: %v", errno)
		}
		members = append(members, os.NewFile(fd, "pidfd"))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for i, member := range members {
		if err := awaitReadable(member, 10*time.Second); err != nil {
			t.Errorf("m%d outlives the program: %v", i+1, err)
		}
		member.Close()
	}
}
