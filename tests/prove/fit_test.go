package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Trying all mutations takes long, so `make test` only sees that each still fits the code it breaks.
func TestMutationsFit(t *testing.T) {
	all := mutations()
	if len(all) == 0 {
		t.Fatal("no mutations")
	}
	for _, m := range all {
		text, err := os.ReadFile(filepath.Join("..", "..", m.file))
		if err != nil {
			t.Errorf("%s: %v", m.what, err)
			continue
		}
		if n := strings.Count(string(text), m.old); n != 1 {
			t.Errorf("%s: what it replaces stands %d times in %s, want once:\n%s", m.what, n, m.file, m.old)
		}
	}
	t.Logf("%d mutations", len(all))
}
