package command

import (
	"slices"
	"testing"
)

func TestSplitWords(t *testing.T) {
	for line, want := range map[string][]string{
		``:                      nil,
		`  `:                    nil,
		`put a b`:               {"put", "a", "b"},
		"put\ta  b ":            {"put", "a", "b"},
		`put "a b" 'c d' e"f`:   {"put", "a b", "c d", `e"f`},
		`put "a\tb" 'a\tb'`:     {"put", "a\tb", `a\tb`},
		`put "\"q\"" x`:         {"put", `"q"`, "x"},
		`put a "unclosed word`:  {"put", "a", "unclosed", "word"},
		`put "" ''`:             {"put", "", ""},
		`put "x"y`:              {"put", "x", "y"},
		`put "no \zuch escape"`: {"put", `no \zuch escape`},
	} {
		if got := splitWords(line); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}
