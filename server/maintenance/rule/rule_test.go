package rule

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestRules: `parse` shows a rule in its plainest form, or the place of the mistake; `match` tries one rule against figures
// given as arguments, in MiB.
func TestRules(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "parse":
				var out strings.Builder
				for line := range strings.Lines(d.Input) {
					r, err := Parse(strings.TrimSuffix(line, "\n"))
					if err != nil {
						fmt.Fprintln(&out, pointed(t, err))
						continue
					}
					fmt.Fprintln(&out, r)
				}
				return out.String()
			case "match":
				r, err := Parse(d.Input)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				var f Figures
				for _, arg := range d.CmdArgs {
					var mib int64
					arg.Scan(t, 0, &mib)
					*map[string]*int64{"file": &f.File, "in_use": &f.InUse, "quota": &f.Quota, "disk_free": &f.DiskFree}[arg.Key] = mib << 20
				}
				return fmt.Sprintln(r.Matches(f))
			}
			d.Fatalf(t, "unknown command %q, expected parse or match", d.Cmd)
			return ""
		})
	})
}

func pointed(t *testing.T, err error) string {
	var fault *Error
	if !errors.As(err, &fault) {
		t.Fatalf("%v is no *Error", err)
	}
	return fault.Pointed()
}

// What parses is spelled so that it parses to the same spelling and the same answer; what does not has a column inside it.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"free > 100MiB && fragmented > 45%", "!(file<1GB)||quota_used>=90%", "free >", "((true", "free > 1.2.3MiB", "! ! false",
		"free == file && (in_use != 0 || disk_free < 1.5TiB)", "é", "free > 5 MiB",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Parse(text)
		if err != nil {
			var fault *Error
			if !errors.As(err, &fault) || fault.Column < 1 || fault.Column > len(text)+1 {
				t.Fatalf("%q: %#v", text, err)
			}
			return
		}
		again, err := Parse(r.String())
		if err != nil || again.String() != r.String() {
			t.Fatalf("%q is spelled %q, and that %q, %v", text, r, again, err)
		}
		for _, figures := range []Figures{
			{}, {File: 1 << 30, InUse: 400 << 20, Quota: 2 << 30, DiskFree: 1 << 40}, {File: 1 << 20, InUse: 1 << 20, Quota: -1},
		} {
			if r.Matches(figures) != again.Matches(figures) {
				t.Fatalf("%q and %q differ on %+v", text, r, figures)
			}
		}
	})
}
