package linearizability

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Require fails the test if the history shows broken promises, and leaves the history and its picture.
func Require(t testing.TB, h *History, report *Report) {
	t.Helper()
	if len(report.Violations) == 0 {
		return
	}
	for _, v := range report.Violations[:min(len(report.Violations), 10)] {
		t.Error(v)
	}
	Keep(t, h, report)
}

// Keep leaves the history of a failed test in a directory, and tells where and how to run it again.
func Keep(t testing.TB, h *History, report *Report) {
	t.Helper()
	base := os.Getenv("UPKEEP_TEST_ARTIFACTS")
	if base == "" {
		base = filepath.Join(os.TempDir(), "upkeep-failures")
	}
	name := strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
	dir := filepath.Join(base, fmt.Sprintf("%s-seed-%d", name, h.Seed))
	if err := report.SaveTo(dir, h); err != nil {
		t.Errorf("keeping the history: %v", err)
	}
	test, _, _ := strings.Cut(t.Name(), "/")
	t.Errorf("%v\nhistory, faults and picture: %s\nthe same faults again: UPKEEP_TEST_SEED=%d go test ./tests/linearizability -run '^%s$'\n"+
		"check the history again: UPKEEP_HISTORY=%s go test ./tests/linearizability -run '^TestHistory$'", report, dir, h.Seed, test, dir)
}
