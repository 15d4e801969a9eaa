package command

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestJudge(t *testing.T) {
	run := func(n int, each, odd time.Duration, failures int) string {
		m := &measured{texts: map[string]int{}, took: 10 * time.Second}
		for i := range n {
			took := each
			if i%10 == 0 {
				took = odd
			}
			m.add(took, nil)
		}
		for range failures {
			m.add(0, errors.New("refused"))
		}
		var out strings.Builder
		pass := (&app{out: &out}).judge(m, 100)
		if pass != strings.HasSuffix(out.String(), "\nPASS\n") {
			t.Errorf("judged %v, printed %q", pass, out.String())
		}
		return out.String()
	}
	for _, c := range []struct{ name, got, want string }{
		{"good", run(1000, time.Millisecond, time.Millisecond, 0), "PASS: Throughput is 101 writes/s\n" +
			"PASS: Slowest request took 0.001000s\nPASS: Stddev is 0.000000s\nPASS\n"},
		{"slow", run(500, time.Millisecond, time.Second, 11), "FAIL: Throughput too low: 51 writes/s\n" +
			"Slowest request took too long: 1.000000s\nStddev too high: 0.299700s\nFAIL: too many errors\n" +
			"FAIL: ERROR(refused) -> 11\nFAIL\n"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.name, c.got, c.want)
		}
	}
}

// Keys are handed out at the rate, no matter how eager the clients are.
func TestOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		keys := make(chan string)
		go func() {
			offer(ctx, keys, 1<<40, 150, "p/", time.Now())
			close(keys)
		}()
		n := 0
		for key := range keys {
			if n++; len(key) != 2+loadKeyBytes || !strings.HasPrefix(key, "p/") {
				t.Fatalf("key %q", key)
			}
		}
		if n != 1500 && n != 1501 {
			t.Errorf("%d keys in 10 s at 150 a second", n)
		}
	})
}
