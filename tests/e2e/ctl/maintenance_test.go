package ctl

import (
	"context"
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestMaintenance runs the lines of a script against three members; what is different from run to run stands as a word in
// capitals. Each is followed by its exit status if that is not 0.
func TestMaintenance(t *testing.T) {
	c := proc.Start(t, proc.Build(t, "upkeep"), 3, "--upkeep-settle=10ms", "--upkeep-check-interval=0")
	awaitWellMembers(t, c)
	datadriven.RunTest(t, "testdata/maintenance", func(t *testing.T, d *datadriven.TestData) string {
		if d.Cmd != "maintenance" {
			d.Fatalf(t, "unknown command %q, expected maintenance", d.Cmd)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*stepDeadline)
		defer cancel()
		args := append([]string{"--command-timeout=20s", "--endpoints=" + c.Members[0].ClientURL, "maintenance"}, words(d.Input)...)
		if strings.Contains(d.Input, "--follow") {
			args = args[1:] // its timeout would be that of the whole run
		}
		cmd := exec.CommandContext(ctx, upkeepctl, args...)
		out, err := cmd.CombinedOutput()
		text := shownAlike(string(out))
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit):
			text += "\n" + exit.String()
		case err != nil:
			t.Fatal(err)
		}
		return text
	})
}

// awaitWellMembers returns once nothing would hold a run up: a member that has just started may not have been reached yet.
func awaitWellMembers(t *testing.T, c *proc.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*stepDeadline)
	defer cancel()
	for {
		out, err := exec.CommandContext(ctx, upkeepctl, "--endpoints="+c.Members[0].ClientURL, "maintenance", "plan", "defrag").CombinedOutput()
		if err == nil && !strings.Contains(string(out), "not now") {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("the members are not well: %v\n%s", err, out)
		}
	}
}

// words splits at blanks outside of single quotes.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

var (
	etcdClientLog = regexp.MustCompile(`(?m)^\{"level".*\n`)
	wrapped       = regexp.MustCompile(`\n {8,}`)
	changing      = []struct {
		what *regexp.Regexp
		word string
	}{
		{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "TIME"},
		{regexp.MustCompile(`\d\d-\d\d \d\d:\d\d `), "TIME "},
		{regexp.MustCompile(`\d+(\.\d+)? [KMG]iB`), "SIZE"},
		{regexp.MustCompile(`\d+ %`), "N %"},
		{regexp.MustCompile(`in [0-9.]+m?s, longest pause [0-9.]+.?s`), "in LONG, longest pause SHORT"},
		{regexp.MustCompile(`\bm[012]\b`), "MEMBER"},
		{regexp.MustCompile(`[ \t]+`), " "},
		{regexp.MustCompile(`MEMBER (leader|follower)`), "MEMBER ROLE"},
	}
)

func shownAlike(text string) string {
	text = etcdClientLog.ReplaceAllString(text, "")
	text = wrapped.ReplaceAllString(text, " ")
	for _, c := range changing {
		text = c.what.ReplaceAllString(text, c.word)
	}
	return strings.TrimSpace(text)
}
