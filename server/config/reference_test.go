package config

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestUsageFits: the usage text is readable in a terminal of 80 columns.
func TestUsageFits(t *testing.T) {
	var b bytes.Buffer
	WriteUsage(&b)
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

const (
	document = "../../docs/configuration.md"
	begin    = "<!-- flags: written by go test ./server/config -rewrite -->\n"
)

// TestDocument: docs/configuration.md ends with a table of every flag, made from the flags.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	prose, table, found := strings.Cut(string(text), begin)
	if !found {
		t.Fatalf("%s has no line %s", document, begin)
	}
	want := reference()
	if table == want {
		return
	}
	if f := flag.Lookup("rewrite"); f != nil && f.Value.String() == "true" {
		if err := os.WriteFile(document, []byte(prose+begin+want), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s does not have the flags as they are: run go test ./server/config -rewrite", document)
}

func reference() string {
	var b strings.Builder
	var in section
	for _, o := range newParser().options {
		if o.hidden {
			continue
		}
		if o.section != in {
			in = o.section
			fmt.Fprintf(&b, "\n### %s\n\n| flag | default | environment | meaning |\n|---|---|---|---|\n", in)
		}
		preset := ""
		if o.preset != "" {
			preset = "`" + o.preset + "`"
		}
		fmt.Fprintf(&b, "| `--%s` | %s | `%s` | %s |\n", o.name, preset, o.env(), strings.ReplaceAll(o.usage, "|", "\\|"))
	}
	return b.String()
}
