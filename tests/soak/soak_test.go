package soak

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/tests/longrun"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

func TestSoak(t *testing.T) {
	c := proc.Start(t, proc.Build(t, "upkeep"), 3, "--snapshot-count=2000", "--snapshot-catchup-entries=1000")
	warmUp(t, c)
	idle := measureAll(t, c, 0)

	start, length := time.Now(), longrun.Length(t, 6*time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	l := startLoad(ctx, c)
	samples := make([][]Sample, len(c.Members))
	every := max(length/100, 250*time.Millisecond)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for running := true; running; {
		select {
		case <-ticker.C:
			for i, s := range measureAll(t, c, time.Since(start)) {
				samples[i] = append(samples[i], s)
			}
		case <-ctx.Done():
			running = false
		}
	}
	l.work.Wait()
	report(t, c, samples)
	t.Logf("%d requests, %d failed, %d events in %v", l.requests.Load(), l.failed.Load(), l.events.Load(), time.Since(start).Round(time.Second))
	if failed := l.failed.Load(); failed*20 > l.requests.Load() {
		t.Errorf("%d of %d requests failed: this load says nothing", failed, l.requests.Load())
	}
	calmDown(t, c, idle)
}

// warmUp gives each member one full round of load, so that pools are filled, and waits until that is over.
func warmUp(t *testing.T, c *proc.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	startLoad(ctx, c).work.Wait()
	// Connections end a moment after their clients; without the wait, idle would be measured too high.
	for low := measureAll(t, c, 0); ; {
		time.Sleep(300 * time.Millisecond) // between two looks
		now := measureAll(t, c, 0)
		steady := true
		for i := range now {
			steady = steady && now[i].Goroutines >= low[i].Goroutines && now[i].Descriptors >= low[i].Descriptors
		}
		if low = now; steady {
			return
		}
	}
}

func measureAll(t *testing.T, c *proc.Cluster, at time.Duration) []Sample {
	t.Helper()
	var out []Sample
	for _, m := range c.Members {
		s, err := measure(m.Pid(), m.DataDir, m.ClientURL)
		if err != nil {
			t.Fatalf("%s: %v", m.Name, err)
		}
		s.At = at
		out = append(out, s)
	}
	return out
}

// report judges the samples behind the first third, which is the warm-up.
func report(t *testing.T, c *proc.Cluster, samples [][]Sample) {
	t.Helper()
	for i, m := range c.Members {
		all := samples[i]
		if len(all) < 12 {
			t.Errorf("%s: only %d samples", m.Name, len(all))
			continue
		}
		settled := all[len(all)/3:]
		t.Logf("%s: %v", m.Name, settled[0])
		t.Logf("%s: %v", m.Name, settled[len(settled)-1])
		for _, grown := range Judge(settled) {
			t.Errorf("%s: %s", m.Name, grown)
			for _, s := range settled {
				t.Log(s)
			}
		}
	}
}

// calmDown waits until goroutines and descriptors are back at what they were without clients. The few more are
// connections between members, which come with use.
func calmDown(t *testing.T, c *proc.Cluster, idle []Sample) {
	t.Helper()
	const moreGoroutines, moreDescriptors = 12, 6
	var left string
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		left = ""
		for i, s := range measureAll(t, c, 0) {
			if s.Goroutines > idle[i].Goroutines+moreGoroutines || s.Descriptors > idle[i].Descriptors+moreDescriptors {
				left += c.Members[i].Name + " without clients, before: " + idle[i].String() + "; now: " + s.String() + "\n"
			}
		}
		if left == "" {
			return
		}
	}
	t.Error("clients left something behind:\n" + left)
}

// A judge that never complains is worth nothing.
func TestJudge(t *testing.T) {
	const mib = 1 << 20
	steady := func(change func(i int, s *Sample)) []Sample {
		var all []Sample
		for i := range 100 {
			s := Sample{
				MemoryBytes: int64(80+i%10*4) * mib, DiskBytes: int64(150+i%2*64) * mib, Files: int64(6 + i%3),
				Goroutines: int64(200 + i%7*5), Descriptors: int64(40 + i%5),
			}
			change(i, &s)
			all = append(all, s)
		}
		return all
	}
	tests := []struct {
		name, want string
		change     func(i int, s *Sample)
	}{
		{"steady", "", func(int, *Sample) {}},
		{"one peak", "", func(i int, s *Sample) {
			if i == 90 {
				s.Goroutines, s.MemoryBytes = 5000, 900*mib
			}
		}},
		{"leaking memory", "memory", func(i int, s *Sample) { s.MemoryBytes += int64(i) * 2 * mib }},
		{"a log that is never released", "disk", func(i int, s *Sample) { s.DiskBytes += int64(i/10) * 64 * mib }},
		{"snapshots that pile up", "files", func(i int, s *Sample) { s.Files += int64(i / 5) }},
		{"a goroutine for each client that was", "goroutines", func(i int, s *Sample) { s.Goroutines += int64(i) * 2 }},
		{"connections that stay open", "descriptors", func(i int, s *Sample) { s.Descriptors += int64(i) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			grown := Judge(steady(test.change))
			if test.want == "" {
				if len(grown) > 0 {
					t.Error(grown)
				}
			} else if len(grown) != 1 || !strings.HasPrefix(grown[0], test.want+" grew") {
				t.Errorf("got %v, want growth of %s alone", grown, test.want)
			}
		})
	}
}
