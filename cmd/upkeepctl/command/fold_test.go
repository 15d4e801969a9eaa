package command

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// TestHelpFits: the help of every command is readable in a terminal of 80 columns, and names its flags.
func TestHelpFits(t *testing.T) {
	commands := 0
	var visit func(path []string, cmd *cobra.Command)
	visit = func(path []string, cmd *cobra.Command) {
		commands++
		var out, errs bytes.Buffer
		if code := Run(append(path, "--help"), strings.NewReader(""), &out, &errs); code != 0 {
			t.Errorf("%v --help ends with %d: %s", path, code, &errs)
		}
		for line := range strings.Lines(out.String()) {
			line = strings.TrimSuffix(line, "\n")
			// A word that is too long by itself is an address or a list, and better left whole.
			if utf8.RuneCountInString(line) > helpColumns && strings.Contains(strings.TrimSpace(line), " ") {
				t.Errorf("%v --help: %d columns: %s", path, utf8.RuneCountInString(line), line)
			}
		}
		for _, sub := range cmd.Commands() {
			if sub.Name() != "help" && !sub.Hidden {
				visit(append(path[:len(path):len(path)], sub.Name()), sub)
			}
		}
	}
	visit(nil, newRoot(&app{}))
	if commands < 60 {
		t.Errorf("only %d commands seen", commands)
	}
}

func TestFold(t *testing.T) {
	word := strings.Repeat("word ", 20)
	got := fold("short\n      --flag string   " + word + "\n" + word + "\n  upkeepctl " + word)
	want := "short\n" +
		"      --flag string   word word word word word word word word word word word\n" +
		"                      word word word word word word word word word \n" +
		"word word word word word word word word word word word word word word word word\n" +
		"word word word word \n" +
		"  upkeepctl word word word word word word word word word word word word word\n" +
		"      word word word word word word word \n"
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
