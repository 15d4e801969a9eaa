package longrun

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// parts of a hundred that each test gets.
func parts() map[string]int {
	return map[string]int{
		"TestProcesses":         18,
		"TestVirtualCluster":    18,
		"TestKillAtEveryStep":   5,
		"TestSimulation":        20,
		"TestDay":               5,
		"TestSoak":              12,
		"TestKillNine":          6,
		"TestSameAnswersAsEtcd": 4,
		"TestSameUsersAsEtcd":   4,
		"TestLog":               4,
		"TestKilledMember":      4,
	}
}

// Length is how long the test goes on with its rounds: its part of UPKEEP_TEST_SECONDS, or short, whichever is more.
func Length(t testing.TB, short time.Duration) time.Duration {
	t.Helper()
	test, _, _ := strings.Cut(t.Name(), "/")
	part, known := parts()[test]
	if !known {
		t.Fatalf("longrun: %s has no part of the time: give it one in tests/longrun, and name it in the Makefile", test)
	}
	total, given := seconds(t)
	if !given {
		return short
	}
	return max(short, time.Duration(total*float64(part)/100*float64(time.Second)))
}

// Asked tells whether this is a long run, however short its part.
func Asked(t testing.TB) bool {
	t.Helper()
	_, given := seconds(t)
	return given
}

func seconds(t testing.TB) (n float64, given bool) {
	t.Helper()
	text := os.Getenv("UPKEEP_TEST_SECONDS")
	if text == "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n >= 0 && n <= 1e8) {
		t.Fatalf("UPKEEP_TEST_SECONDS is %q: a number of seconds is expected", text)
	}
	return n, true
}

// Seed is where the test's seeds begin: UPKEEP_TEST_SEED, or def. given tells that it was asked for, and so is to be the
// only one.
func Seed(t testing.TB, def uint64) (seed uint64, given bool) {
	t.Helper()
	text := os.Getenv("UPKEEP_TEST_SEED")
	if text == "" {
		return def, false
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("UPKEEP_TEST_SEED is %q: a whole number is expected", text)
	}
	return seed, true
}
