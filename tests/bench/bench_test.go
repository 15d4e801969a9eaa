package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A server that answers nothing for a second holds up every request that fell
// due in that second, and each waited for what was left of it.
func TestOpenLoopCountsFromWhenRequestsWereDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		loop := &openLoop{
			rate: 100, clients: []*clientv3.Client{nil},
			request: func(context.Context, *clientv3.Client, *rand.Rand) error {
				if since := time.Since(started); since >= time.Second && since < 2*time.Second {
					time.Sleep(2*time.Second - since)
				}
				return nil
			},
		}
		measured := newLatencies()
		loop.measured.Store(measured)
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second-time.Millisecond)
		defer cancel()
		loop.run(ctx)
		if n := measured.hist.TotalCount(); n != 400 {
			t.Errorf("%d requests in 4 s at 100/s", n)
		}
		if longest := measured.longest(); longest < 999 || longest > 1001 {
			t.Errorf("longest %v ms, want 1000", longest)
		}
		// A quarter of the requests fell into the stall, and half of those waited at least half of it.
		if p := measured.quantile(87.5); p < 480 || p > 520 {
			t.Errorf("87.5%% waited up to %v ms, want 500", p)
		}
		if p := measured.quantile(74); p > 0.01 {
			t.Errorf("most requests waited for nothing, but 74%% waited up to %v ms", p)
		}
	})
}

// A refused request is sent again, and has waited since it was due.
func TestOpenLoopRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		loop := &openLoop{
			rate: 10, clients: []*clientv3.Client{nil},
			request: func(context.Context, *clientv3.Client, *rand.Rand) error {
				if time.Since(started) < 500*time.Millisecond {
					return errors.New("too many requests")
				}
				return nil
			},
		}
		measured := newLatencies()
		loop.measured.Store(measured)
		ctx, cancel := context.WithTimeout(t.Context(), 950*time.Millisecond)
		defer cancel()
		loop.run(ctx)
		if measured.errors != 0 || measured.longest() < 499 || measured.retried.Load() == 0 {
			t.Errorf("%d failed, longest %v ms, %d retried", measured.errors, measured.longest(), measured.retried.Load())
		}
	})
}

func TestFailuresAreNotNumbers(t *testing.T) {
	part := newLatencies()
	part.record(time.Millisecond, nil)
	part.record(time.Millisecond, errors.New("no leader"))
	if _, err := summarize([]*latencies{part}, time.Second, 0); err == nil || !strings.Contains(err.Error(), "no leader") {
		t.Errorf("a failed request passed for a fast one: %v", err)
	}
}

func TestReport(t *testing.T) {
	o := &options{servers: [2]contender{{name: "old"}, {name: "new"}}}
	r := newResults()
	for round, slow := range []float64{1, 1, 10} { // the third round ran on a busy machine
		r.add("old", "put", metricRate, 100/slow)
		r.add("new", "put", metricRate, 200/slow)
		r.add("old", "put", metricP99, 3*slow)
		r.add("new", "put", metricP99, 3*slow+0.01*float64(round))
	}
	want := `| workload | metric     |  old |  new | new/old | better |
|----------|------------|-----:|-----:|--------:|-------:|
| put      | requests/s |  100 |  200 |    2.00 |    new |
|          | p99 ms     | 3.00 | 3.01 |    1.00 |   even |
`
	if got := r.markdown(o); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median of an even number: %v", got)
	}
}

func TestOptions(t *testing.T) {
	for _, args := range []string{
		"--etcd /nonexistent", "--rows put,nothing", "--clients 0", "--members x", "--size 1", "--size many", "--rounds 0", "--names one", "extra",
	} {
		if _, err := parseOptions(append([]string{"--etcd=/bin/sh", "--upkeep=/bin/sh"}, strings.Fields(args)...)); err == nil {
			t.Errorf("%s: no error", args)
		}
	}
	o, err := parseOptions([]string{"--etcd=/bin/sh", "--upkeep=/bin/sh --extra x", "--size=2GiB", "--clients=1,7"})
	if err != nil || o.sizeBytes != 2<<30 || len(o.servers[1].command) != 3 || o.clients[1] != 7 {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestFelt(t *testing.T) {
	o := &options{servers: [2]contender{{name: "old"}, {name: "new"}}}
	r := newResults()
	for _, server := range []struct {
		name         string
		p99, longest float64
	}{{"old", 30, 900}, {"new", 2.5, 19}} {
		r.add(server.name, "no maintenance, 1.0 GiB", "put p99 ms", 2)
		r.add(server.name, "no maintenance, 1.0 GiB", "put longest ms", 5)
		r.add(server.name, "defrag, 1.0 GiB", "put p99 ms", server.p99)
		r.add(server.name, "defrag, 1.0 GiB", "put longest ms", server.longest)
		r.add(server.name, "put, 1 member, 1 client", metricP99, 3)
	}
	want := `
The targets are a p99 of at most 1.5 times that without maintenance, and no wait of 20 ms or more.

| maintenance     | request | old p99 / p99 without | old longest ms | within the targets | new p99 / p99 without | new longest ms | within the targets |
|-----------------|---------|----------------------:|---------------:|-------------------:|----------------------:|---------------:|-------------------:|
| defrag, 1.0 GiB | put     |                  15.0 |            900 |                 no |                  1.25 |           19.0 |                yes |
`
	if got := r.felt(o); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := newResults().felt(o); got != "" {
		t.Errorf("without such rows: %q", got)
	}
}
