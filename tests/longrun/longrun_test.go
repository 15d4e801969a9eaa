package longrun

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// What make test-long runs is what has a part, and the parts are all of the time.
func TestPartsAreAHundredAndInTheMakefile(t *testing.T) {
	sum := 0
	for _, part := range parts() {
		sum += part
	}
	if sum != 100 {
		t.Errorf("the parts add up to %d", sum)
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^LONG_TESTS := (.*)$`).FindSubmatch(makefile)
	if line == nil {
		t.Fatal("the Makefile has no LONG_TESTS")
	}
	named := strings.Split(string(line[1]), "|")
	slices.Sort(named)
	if want := slices.Sorted(maps.Keys(parts())); !slices.Equal(named, want) {
		t.Errorf("LONG_TESTS of the Makefile names %v, want %v", named, want)
	}
}

// named is a test of another name, whose fatal error is kept.
type named struct {
	*testing.T
	name, said string
}

func (n *named) Name() string { return n.name }
func (n *named) Fatalf(format string, args ...any) {
	n.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestLength(t *testing.T) {
	for _, c := range []struct {
		name, seconds string
		want          time.Duration
		said          string
	}{
		{name: "TestSoak", want: 6 * time.Second},
		{name: "TestSoak/one", seconds: "1000", want: 120 * time.Second},
		{name: "TestSoak", seconds: "1", want: 6 * time.Second},
		{name: "TestSoak", seconds: "0.5", want: 6 * time.Second},
		{name: "TestSoak", seconds: "1m", said: `UPKEEP_TEST_SECONDS is "1m": a number of seconds is expected`},
		{name: "TestSoak", seconds: "-1", said: `UPKEEP_TEST_SECONDS is "-1": a number of seconds is expected`},
		{name: "TestSoak", seconds: "NaN", said: `UPKEEP_TEST_SECONDS is "NaN": a number of seconds is expected`},
		{name: "TestElse", said: "longrun: TestElse has no part of the time: give it one in tests/longrun, and name it in the Makefile"},
	} {
		t.Run(c.name+" "+c.seconds, func(t *testing.T) {
			t.Setenv("UPKEEP_TEST_SECONDS", c.seconds)
			n := &named{T: t, name: c.name}
			var got time.Duration
			done := make(chan struct{})
			go func() { defer close(done); got = Length(n, 6*time.Second) }()
			<-done
			if got != c.want || n.said != c.said {
				t.Errorf("got %v and %q, want %v and %q", got, n.said, c.want, c.said)
			}
		})
	}
}
