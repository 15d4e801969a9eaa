package badinput

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// electionTimeout is long here, so that waiting for one cannot be mistaken for anything else.
const electionTimeout = 6 * time.Second

// TestStop: a leader that is stopped hands over, so that clients need not wait for an election; members that are all
// stopped at once do not wait for each other.
func TestStop(t *testing.T) {
	t.Parallel()
	c := proc.Start(t, upkeep(t), 3, "--election-timeout=6000")
	put(t, c.Client(), "k", "v")
	waitLevel(t, c)
	lead := leader(t, c)

	stopped := time.Now()
	lead.Stop()
	rest := without(c, lead)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := rest.Members[0].Client().Put(ctx, "k", "w"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(stopped); took > electionTimeout/2 {
		t.Errorf("the next write came %v after the leader was stopped: an election, not a hand-over", took)
	}
	mustMatch(t, lead.Output(), `handed over leadership`)

	lead.Restart()
	waitLevel(t, c)
	for range 3 {
		leader(t, c)
		var all sync.WaitGroup
		start := time.Now()
		for _, m := range c.Members {
			all.Go(m.Stop)
		}
		all.Wait()
		if took := time.Since(start); took > electionTimeout/3 {
			t.Errorf("stopping all took %v", took)
		}
		for _, m := range c.Members {
			m.Launch()
		}
		for _, m := range c.Members {
			m.WaitReady()
		}
	}
	if got := get(t, c.Members[2].Client(), "k"); got != "w" {
		t.Errorf("k is %q", got)
	}
}
