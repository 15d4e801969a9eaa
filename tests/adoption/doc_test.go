package adoption

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// endMark follows what a command has printed.
const endMark = "--- end of command ---"

// TestWalk runs the commands of docs/adopting.md in one shell, in order, and compares what they print with what stands
// below them. UPKEEP_REWRITE=1 writes what they print into the document.
func TestWalk(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl", "tail", "grep"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing", tool)
		}
	}
	peers := filepath.Dir(proc.Peer(t, "etcd-3.5"))
	ours := filepath.Dir(proc.Build(t, "upkeep"))
	proc.Build(t, "upkeepctl")
	s := startShell(t, peers, ours)
	path := filepath.Join(proc.Root(t), "docs", "adopting.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rewritten := s.walk(string(text))
	if os.Getenv("UPKEEP_REWRITE") != "" {
		if err := os.WriteFile(path, []byte(rewritten), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// shell is one shell that all commands share.
type shell struct {
	t     *testing.T
	in    io.Writer
	lines chan string
	// shown maps the document's ports to those that are free here.
	shown, real []string
}

func startShell(t *testing.T, path ...string) *shell {
	s := &shell{t: t, lines: make(chan string)}
	free := ports.Free(t, 6)
	for i := range 3 {
		for j := range 2 {
			s.shown = append(s.shown, fmt.Sprintf("127.0.0.1:%d", 2379+10*i+j))
			s.real = append(s.real, fmt.Sprintf("127.0.0.1:%d", free[2*i+j]))
		}
	}
	cmd := exec.Command("bash", "--norc", "-s")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+strings.Join(path, ":")+":"+os.Getenv("PATH"), "no_proxy=*")
	// A group of its own, so that the members that it starts end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		for range s.lines {
		}
		<-read
		_ = cmd.Wait()
	})
	go func() {
		defer close(read)
		defer close(s.lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			s.lines <- scanner.Text()
		}
	}()
	s.in = in
	return s
}

// run returns what a command prints.
func (s *shell) run(command string) string {
	s.t.Helper()
	if strings.HasPrefix(command, "url() ") { // the ports of this run
		command = fmt.Sprintf("ports=(%s); url() { echo http://${ports[$((2*$1 - 2 + $2))]}; }", strings.Join(s.real, " "))
	}
	if _, err := fmt.Fprintf(s.in, "%s\necho '%s'\n", command, endMark); err != nil {
		s.t.Fatal(err)
	}
	var printed strings.Builder
	timeout := time.After(2 * patience)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				s.t.Fatalf("the shell ended in %q, after\n%s", command, printed.String())
			}
			if line, ended := strings.CutSuffix(line, endMark); ended {
				if line != "" {
					printed.WriteString(line + "\n")
				}
				out := printed.String()
				for i := range s.real {
					out = strings.ReplaceAll(out, s.real[i], s.shown[i])
				}
				return out
			}
			printed.WriteString(line + "\n")
		case <-timeout:
			s.t.Fatalf("%q does not end, it printed\n%s", command, printed.String())
		}
	}
}

// walk runs all commands and returns the document with what they print now.
func (s *shell) walk(text string) string {
	s.t.Helper()
	var rewritten strings.Builder
	commands, inBlock := 0, false
	var command, want string
	finish := func() {
		if command == "" {
			return
		}
		commands++
		got := s.run(command)
		rewritten.WriteString("$ " + command + "\n" + got)
		if os.Getenv("UPKEEP_REWRITE") == "" && masked(got) != masked(want) {
			s.t.Errorf("%s prints\n%swant\n%s", command, got, want)
		}
		command, want = "", ""
	}
	for line := range strings.Lines(text) {
		switch {
		case inBlock && strings.HasPrefix(line, "$ "):
			finish()
			command = strings.TrimSpace(line[2:])
			continue
		case inBlock && !strings.HasPrefix(line, "```"):
			want += line
			continue
		case strings.HasPrefix(line, "```"):
			finish()
			inBlock = strings.HasPrefix(line, "```console")
		}
		rewritten.WriteString(line)
	}
	if commands < 25 {
		s.t.Errorf("only %d commands found", commands)
	}
	return rewritten.String()
}

// Member IDs are made of the peer URLs, and each election adds to the log, so both differ from run to run.
var (
	memberID = regexp.MustCompile(`(?m)^[0-9a-f]{1,16}, started, m\d, .*$`)
	logIndex = regexp.MustCompile(`index \d+`)
)

func masked(text string) string {
	return logIndex.ReplaceAllString(memberID.ReplaceAllString(text, "MEMBER"), "index N")
}
