package linearizability

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Seconds is how long a test that goes on for as long as it is let should take: its share of UPKEEP_TEST_SECONDS, or def.
func Seconds(def int) time.Duration {
	if n, err := strconv.Atoi(os.Getenv("UPKEEP_TEST_SECONDS")); err == nil && n/4 > def {
		def = n / 4
	}
	return time.Duration(def) * time.Second
}

// Seed returns the seed of the first run: UPKEEP_TEST_SEED, or def. given tells that it was asked for, and that this run
// is to be the only one.
func Seed(t testing.TB, def uint64) (seed uint64, given bool) {
	t.Helper()
	s := os.Getenv("UPKEEP_TEST_SEED")
	if s == "" {
		return def, false
	}
	seed, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("UPKEEP_TEST_SEED=%s: a number is expected: %v", s, err)
	}
	return seed, true
}

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
