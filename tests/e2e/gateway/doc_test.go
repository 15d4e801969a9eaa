package gateway

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestExamples runs the commands in the console blocks of docs/http.md, in order, and compares what they print with what
// stands below them. UPKEEP_REWRITE=1 writes what they print into the document.
func TestExamples(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is missing")
	}
	tools := filepath.Dir(proc.Peer(t, "etcdutl"))
	member := proc.Start(t, proc.Build(t, "upkeep"), 1).Members[0]
	dir := t.TempDir()
	run := func(command string) string {
		command = strings.ReplaceAll(command, "localhost:2379", strings.TrimPrefix(member.ClientURL, "http://"))
		cmd := exec.Command("bash", "-c", command)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"), "no_proxy=*")
		out, err := cmd.Output()
		if exit, ok := err.(*exec.ExitError); err != nil && !(ok && exit.ExitCode() == 28) { // 28: --max-time, for streams
			t.Fatalf("%s: %v\n%s", command, err, exit.Stderr)
		}
		// The protobuf library puts spaces behind commas in some builds and in others not.
		text := strings.ReplaceAll(string(out), `, "`, `,"`)
		text = strings.ReplaceAll(text, strings.TrimPrefix(member.ClientURL, "http://"), "localhost:2379")
		return strings.TrimRight(strings.ReplaceAll(text, strings.TrimPrefix(member.PeerURL, "http://"), "localhost:2380"), "\n") + "\n"
	}
	path := filepath.Join(proc.Root(t), "docs", "http.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var rewritten strings.Builder
	commands, inBlock := 0, false
	var command, want string
	finish := func() {
		if command == "" {
			return
		}
		commands++
		got := run(command)
		if got == "\n" {
			got = ""
		}
		rewritten.WriteString("$ " + command + "\n" + got)
		if os.Getenv("UPKEEP_REWRITE") == "" && maskNumbers(got) != maskNumbers(want) {
			t.Errorf("%s prints\n%swant\n%s", command, got, want)
		}
		command, want = "", ""
	}
	for line := range strings.Lines(string(text)) {
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
		t.Errorf("only %d commands found", commands)
	}
	if os.Getenv("UPKEEP_REWRITE") != "" {
		if err := os.WriteFile(path, []byte(rewritten.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var (
	longNumber = regexp.MustCompile(`\d{9,}`)
	sizeNumber = regexp.MustCompile(`"(raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|hash)":"?\d+"?`)
	// What etcdutl prints of a snapshot: hash, revision, keys, size.
	statusLine = regexp.MustCompile(`(?m)^[0-9a-f]+, (\d+), (\d+), .*$`)
)

// maskNumbers hides what differs from cluster to cluster and from moment to moment.
func maskNumbers(text string) string {
	text = strings.ReplaceAll(strings.ReplaceAll(text, ", ", ","), "\u00a0", " ")
	text = sizeNumber.ReplaceAllString(text, `"$1":?`)
	text = statusLine.ReplaceAllString(strings.ReplaceAll(text, ",", ", "), `HASH, $1, $2, SIZE`)
	return longNumber.ReplaceAllString(text, "N")
}
