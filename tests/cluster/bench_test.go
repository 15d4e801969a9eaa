package cluster_test

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// BenchmarkStart measures how long a cluster of three takes until every member serves clients: real-ms/start in real
// time, also inside of a bubble. ns/op covers the end as well, with its checks.
func BenchmarkStart(b *testing.B) {
	for _, where := range []struct {
		name   string
		bubble bool
		opts   []cluster.Option
	}{
		{"bubble", true, nil},
		{"real", false, nil},
		{"real-10ms-heartbeat", false, []cluster.Option{cluster.Heartbeat(10 * time.Millisecond)}},
	} {
		b.Run(where.name, func(b *testing.B) {
			var took time.Duration
			for b.Loop() {
				runAsTest(b, func(t *testing.T) {
					start := func(t *testing.T) {
						begin := monotonic(t)
						cluster.Start(t, where.opts...)
						took += monotonic(t) - begin
					}
					if where.bubble {
						synctest.Test(t, start)
					} else {
						start(t)
					}
				})
			}
			b.ReportMetric(float64(took.Microseconds())/1000/float64(b.N), "real-ms/start")
		})
	}
}

// BenchmarkVirtualHour measures what an hour of a cluster of three costs at a heartbeat of a second.
func BenchmarkVirtualHour(b *testing.B) {
	runAsTest(b, func(t *testing.T) {
		var took time.Duration
		synctest.Test(t, func(t *testing.T) {
			cluster.Start(t, cluster.Heartbeat(time.Second), cluster.Retention(time.Hour))
			begin := monotonic(t)
			for range b.N {
				time.Sleep(time.Hour)
			}
			took = monotonic(t) - begin
		})
		b.ReportMetric(float64(took.Microseconds())/1000/float64(b.N), "real-ms/hour")
	})
}

// monotonic is the time outside of any bubble.
func monotonic(t *testing.T) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// runAsTest gives a benchmark a *testing.T, without what package testing prints about it.
func runAsTest(b *testing.B, fn func(*testing.T)) {
	output := os.Stdout
	quiet, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer quiet.Close()
	os.Stdout = quiet
	all := func(_, _ string) (bool, error) { return true, nil }
	ok := testing.RunTests(all, []testing.InternalTest{{Name: b.Name(), F: fn}})
	os.Stdout = output
	if !ok {
		b.Fatal("failed")
	}
}
