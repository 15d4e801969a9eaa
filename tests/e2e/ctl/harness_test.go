package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/tests/ports"
)

const (
	peerDir      = "../../../bin/peer" // where the build puts etcd's own programs
	stepDeadline = 30 * time.Second
)

// upkeepctl is the program under test, built once.
var upkeepctl string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		panic(err)
	}
	upkeepctl = filepath.Join(dir, "upkeepctl")
	build := exec.Command("go", "build", "-o", upkeepctl, "../../../cmd/upkeepctl")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// peer returns the path of one of etcd's programs.
func peer(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(peerDir, name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Skipf("no %s to compare with: build etcd's programs into bin/peer first (%v)", name, err)
	}
	return path
}

// addresses are the URLs of a cluster, kept so that a second cluster gets the same.
type addresses struct{ client, peer []string }

func freeAddresses(t *testing.T, members int) addresses {
	t.Helper()
	var a addresses
	for range members {
		a.client = append(a.client, ports.Address(t))
		a.peer = append(a.peer, ports.Address(t))
	}
	return a
}

func (a addresses) endpoints() string { return strings.Join(a.client, ",") }

// startEtcd runs a fresh etcd cluster and returns the function that ends it.
func startEtcd(t *testing.T, a addresses) (stop func()) {
	t.Helper()
	program := peer(t, "etcd")
	dir := t.TempDir()
	var cluster []string
	for i, address := range a.peer {
		cluster = append(cluster, fmt.Sprintf("m%d=http://%s", i, address))
	}
	var running []*exec.Cmd
	logs := &lockedBuffer{} // of all members
	for i := range a.client {
		cmd := exec.Command(program,
			"--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(dir, fmt.Sprintf("m%d", i)),
			"--listen-client-urls", "http://"+a.client[i], "--advertise-client-urls", "http://"+a.client[i],
			"--listen-peer-urls", "http://"+a.peer[i], "--initial-advertise-peer-urls", "http://"+a.peer[i],
			"--initial-cluster", strings.Join(cluster, ","), "--log-level", "error", "--unsafe-no-fsync", "--bcrypt-cost", "4")
		cmd.Stderr = logs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, cmd)
	}
	stop = sync.OnceFunc(func() {
		for _, cmd := range running {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	t.Cleanup(stop)
	for _, address := range a.client {
		waitHealthy(t, address, logs)
	}
	return stop
}

func waitHealthy(t *testing.T, address string, logs fmt.Stringer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stepDeadline)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := http.Get("http://" + address + "/health")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("etcd at %s did not become healthy: %v\n%s", address, err, logs)
		}
	}
}

// lockedBuffer may be written to and read at the same time.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// step is one command line of both tools.
type step struct {
	args  string // split at blanks; '...' keeps a word together; $NAME is what was captured before
	stdin string // "" is /dev/null
	env   []string
	// until is what a command that goes on for ever prints last. Its input is
	// closed then, and if it is still running it is killed.
	until string
	// capture is a regular expression; what its group matches in the output is
	// $NAME in later steps, and masked in all output. NAME is the group's name.
	capture string
	// usage: only the first line of stderr counts, the rest is help in our own words.
	usage bool
	// queue: keys end with leases that the server made up, and revisions depend on when others ended.
	queue bool
	// unordered: the answer lists members in the order of IDs that the server made up.
	unordered bool
}

type result struct {
	stdout, stderr string
	code           int
}

// session runs steps with one tool.
type session struct {
	t        *testing.T
	program  string
	env      []string
	captured map[string]string
	everSeen []string // all values ever captured, to be masked
	dir      string   // working directory, and what $DIR is in steps
}

func newSession(t *testing.T, program string, env ...string) *session {
	return &session{t: t, program: program, env: env, captured: map[string]string{}, dir: t.TempDir()}
}

var variable = regexp.MustCompile(`\$[A-Z]+\b`)

func (s *session) words(line string) []string {
	line = variable.ReplaceAllStringFunc(line, func(name string) string {
		if name == "$DIR" {
			return s.dir
		}
		value, ok := s.captured[name[1:]]
		if !ok {
			s.t.Fatalf("%s is used before it was captured: %s", name, line)
		}
		return value
	})
	var words []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}

func (s *session) run(st step) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), stepDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.program, s.words(st.args)...)
	cmd.Env = append(append(os.Environ(), s.env...), st.env...)
	cmd.Dir = s.dir
	seen := newWatchedOutput(st.until)
	cmd.Stdout, cmd.Stderr = seen.stream(&seen.out), seen.stream(&seen.err)

	var input io.WriteCloser
	if st.stdin != "" || st.until != "" {
		var err error
		if input, err = cmd.StdinPipe(); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	if input != nil {
		// A tool that refuses its arguments does not read: the pipe may break.
		_, _ = io.WriteString(input, st.stdin)
		if st.until == "" {
			input.Close()
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	if st.until != "" {
		err = s.awaitOutput(cmd, seen, input, ended)
	} else {
		err = <-ended
	}
	if ctx.Err() != nil {
		s.t.Fatalf("%s %s did not end; stdout %q, stderr %q", filepath.Base(s.program), st.args, seen.out.String(), seen.err.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	r := result{seen.out.String(), seen.err.String(), cmd.ProcessState.ExitCode()}
	if st.capture != "" {
		pattern := regexp.MustCompile(st.capture)
		match := pattern.FindStringSubmatch(r.stdout)
		if match == nil {
			s.t.Fatalf("%s %s: no %s in %q, stderr %q", filepath.Base(s.program), st.args, st.capture, r.stdout, r.stderr)
		}
		s.captured[pattern.SubexpNames()[1]] = match[1]
		s.everSeen = append(s.everSeen, match[1])
	}
	return r
}

// awaitOutput waits until the command printed what it should, tells it to end,
// and returns how it did. One that ends at the end of its input is given the chance to.
func (s *session) awaitOutput(cmd *exec.Cmd, seen *watchedOutput, input io.Closer, ended <-chan error) error {
	select {
	case <-seen.found:
	case err := <-ended: // by itself, or at its deadline
		return err
	}
	input.Close()
	if !slices.Contains(cmd.Args, "-i") {
		_ = cmd.Process.Kill()
	}
	return <-ended
}

// watchedOutput collects stdout and stderr, and tells when a text came up in either.
type watchedOutput struct {
	mu       sync.Mutex
	out, err bytes.Buffer
	until    string
	found    chan struct{}
	done     bool
}

func newWatchedOutput(until string) *watchedOutput {
	return &watchedOutput{until: until, found: make(chan struct{})}
}

type watchedStream struct {
	o   *watchedOutput
	buf *bytes.Buffer
}

func (o *watchedOutput) stream(buf *bytes.Buffer) io.Writer { return &watchedStream{o, buf} }

func (s *watchedStream) Write(p []byte) (int, error) {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	s.buf.Write(p)
	if !s.o.done && s.o.until != "" && strings.Contains(s.buf.String(), s.o.until) {
		s.o.done = true
		close(s.o.found)
	}
	return len(p), nil
}
