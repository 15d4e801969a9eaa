package printer

import (
	"strings"
	"testing"
)

// On a terminal that is too narrow for a table, each field gets a line.
func TestTableOnNarrowTerminal(t *testing.T) {
	hashes := SnapshotStatus{Hash: 0xabc, Revision: 7, TotalKey: 3, TotalSize: 20480, Version: "3.7.0"}
	draw := func(width int) string {
		var out strings.Builder
		if err := (&tablePrinter{out: &out, width: width}).Print(hashes); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	const wide = `┌──────┬──────────┬────────────┬────────────┬─────────┐
│ HASH │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │
├──────┼──────────┼────────────┼────────────┼─────────┤
│  abc │        7 │          3 │      20 kB │   3.7.0 │
└──────┴──────────┴────────────┴────────────┴─────────┘
`
	const narrow = `┌────────────┬───────┐
│       HASH │ abc   │
│   REVISION │ 7     │
│ TOTAL KEYS │ 3     │
│ TOTAL SIZE │ 20 kB │
│    VERSION │ 3.7.0 │
└────────────┴───────┘
`
	for _, test := range []struct {
		width int
		want  string
	}{{0, wide}, {80, wide}, {55, wide}, {54, narrow}, {10, narrow}} {
		if got := draw(test.width); got != test.want {
			t.Errorf("%d columns:\n%s", test.width, got)
		}
	}
}
