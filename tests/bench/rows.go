package main

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Metrics. The name says the unit; better says which way is good.
const (
	metricRate      = "requests/s"
	metricP50       = "p50 ms"
	metricP99       = "p99 ms"
	metricCPU       = "server CPU µs/request"
	metricFirstRead = "time to first read ms"
	metricResident  = "resident memory MiB"
	metricAnonymous = "of it not page cache MiB"
	metricTook      = "took s"
	metricRetried   = "refused and sent again"
)

func higherIsBetter(metric string) bool { return metric == metricRate }

const getKeys = 10_000

// steady measures puts and gets of servers with a small store. Both clusters
// are up, and each workload runs on one right after the other: what else the
// machine does drifts, and should hit both.
func (b *bench) steady(ctx context.Context) error {
	for round := range b.rounds {
		for _, members := range b.members {
			if err := b.steadyRound(ctx, round, members); err != nil {
				return fmt.Errorf("round %d, %s: %w", round+1, plural(members, "member"), err)
			}
		}
	}
	return nil
}

type workload struct {
	name    string
	request request
}

func (b *bench) workloads() []workload {
	var workloads []workload
	if b.wants("put") {
		workloads = append(workloads, workload{"put", putOne(100_000)})
	}
	if b.wants("get") {
		workloads = append(workloads, workload{"get, linearizable", getOne("get", getKeys)},
			workload{"get, serializable", getOne("get", getKeys, clientv3.WithSerializable())})
	}
	return workloads
}

func (b *bench) steadyRound(ctx context.Context, round, members int) error {
	var clusters []*cluster
	for _, server := range b.order(round) {
		c, err := startFresh(ctx, server, b.dir, members)
		if err != nil {
			return fmt.Errorf("%s: %w", server.name, err)
		}
		defer c.remove()
		if err := fill(ctx, c, "get", getKeys, valueBytes); err != nil {
			return fmt.Errorf("%s: %w", server.name, err)
		}
		clusters = append(clusters, c)
	}
	for _, w := range b.workloads() {
		for _, clients := range b.clients {
			row := fmt.Sprintf("%s, %s, %s", w.name, plural(members, "member"), plural(clients, "client"))
			for _, c := range clusters {
				loop := closedLoop{callers: clients, warmup: b.warmup, duration: b.duration, request: w.request}
				result, err := loop.runAgain(ctx, c)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", c.server.name, row, err)
				}
				b.record(c.server, row, metricRate, result.perSecond)
				b.record(c.server, row, metricP50, result.quantile(50))
				b.record(c.server, row, metricP99, result.quantile(99))
				b.record(c.server, row, metricCPU, float64(result.cpu.Nanoseconds())/1000)
			}
		}
	}
	return nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// restart measures how servers come back with many keys. The data is written
// once; every round starts on it again.
func (b *bench) restart(ctx context.Context) error {
	row := fmt.Sprintf("restart, %d keys of %d B", b.keys, valueBytes)
	clusters := map[string]*cluster{}
	defer func() {
		for _, c := range clusters {
			c.remove()
		}
	}()
	for _, server := range b.servers {
		c, err := startFresh(ctx, server, b.dir, 1)
		if err != nil {
			return err
		}
		clusters[server.name] = c
		if err := fill(ctx, c, "many", b.keys, valueBytes); err != nil {
			return err
		}
		c.stop()
	}
	return b.turns(func(_ int, server contender) error {
		c := clusters[server.name]
		defer c.stop()
		start := time.Now()
		if err := c.start(); err != nil {
			return err
		}
		read, err := c.firstRead(ctx)
		if err != nil {
			return err
		}
		resident, anonymous, err := c.memory()
		if err != nil {
			return err
		}
		b.record(server, row, metricFirstRead, float64(read.Sub(start).Microseconds())/1000)
		b.record(server, row, metricResident, float64(resident)/(1<<20))
		b.record(server, row, metricAnonymous, float64(anonymous)/(1<<20))
		return nil
	})
}
