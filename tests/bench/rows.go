package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
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
	metricPutP99    = "put p99 ms"
	metricPutMax    = "put longest ms"
	metricGetP99    = "get p99 ms"
	metricGetMax    = "get longest ms"
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

const bigValueBytes = 4096

// maintenance measures what requests notice of maintenance of a large store.
func (b *bench) maintenance(ctx context.Context) error {
	return b.turns(func(_ int, server contender) error {
		c, err := startFresh(ctx, server, b.dir, 1)
		if err != nil {
			return err
		}
		defer c.remove()
		keys := int(b.sizeBytes / bigValueBytes)
		if err := fill(ctx, c, "big", keys, bigValueBytes); err != nil {
			return err
		}
		size := humanize.IBytes(uint64(b.sizeBytes))
		if err := b.under(ctx, c, keys, "no maintenance, "+size, func(ctx context.Context, _ *clientv3.Client) error {
			pause(ctx, b.duration)
			return nil
		}); err != nil {
			return err
		}
		if b.wants("defrag") {
			if err := b.under(ctx, c, keys, "defrag, "+size, func(ctx context.Context, client *clientv3.Client) error {
				_, err := client.Defragment(ctx, client.Endpoints()[0])
				return err
			}); err != nil {
				return err
			}
		}
		if b.wants("snapshot") {
			if err := b.under(ctx, c, keys, "snapshot save, "+size, saveSnapshot(c.dir)); err != nil {
				return err
			}
		}
		if b.wants("compaction") {
			return b.compaction(ctx, c, keys)
		}
		return nil
	})
}

// saveSnapshot receives a snapshot into a file, as a backup job on the same disk does.
func saveSnapshot(dir string) func(context.Context, *clientv3.Client) error {
	return func(ctx context.Context, client *clientv3.Client) error {
		snapshot, err := client.SnapshotWithVersion(ctx)
		if err != nil {
			return err
		}
		defer snapshot.Snapshot.Close()
		file, err := os.CreateTemp(dir, "snapshot")
		if err != nil {
			return err
		}
		defer os.Remove(file.Name())
		defer file.Close()
		if _, err := io.Copy(file, snapshot.Snapshot); err != nil {
			return err
		}
		return file.Sync()
	}
}

// compaction writes revisions of few keys, one revision per request, and compacts all of them away.
func (b *bench) compaction(ctx context.Context, c *cluster, keys int) error {
	put := func(ctx context.Context, client *clientv3.Client, part int) error {
		_, err := client.Put(ctx, keyName("old", part%1000), fmt.Sprintf("%0*d", valueBytes, part))
		return err
	}
	if err := inParallel(ctx, c, 500, b.revisions, put); err != nil {
		return err
	}
	row := fmt.Sprintf("compaction, %d revisions", b.revisions)
	return b.under(ctx, c, keys, row, func(ctx context.Context, client *clientv3.Client) error {
		now, err := client.Get(ctx, "first")
		if err != nil {
			return err
		}
		_, err = client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
		return err
	})
}

// under runs maintenance while puts and gets go on at a fixed rate, and
// records what those that fell due during it had to wait.
func (b *bench) under(
	ctx context.Context, c *cluster, keys int, row string, maintain func(context.Context, *clientv3.Client) error,
) error {
	unix.Sync() // what was written before must not be what is measured
	clients, closeClients, err := dialMany(c.endpoints, 20)
	if err != nil {
		return err
	}
	defer closeClients()
	operator, err := dial(c.endpoints...)
	if err != nil {
		return err
	}
	defer operator.Close()

	puts := &openLoop{rate: b.rate, clients: clients[:10], request: putOne(1000)}
	gets := &openLoop{rate: b.rate, clients: clients[10:], request: getOne("big", keys)}
	loops := []*openLoop{puts, gets}
	loading, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{}, len(loops))
	for _, loop := range loops {
		loop.measured.Store(newLatencies())
		go func() {
			loop.run(loading)
			ended <- struct{}{}
		}()
	}
	pause(ctx, b.warmup)
	measured := []*latencies{newLatencies(), newLatencies()}
	for i, loop := range loops {
		loop.measured.Store(measured[i])
	}
	start := time.Now()
	err = maintain(ctx, operator)
	took := time.Since(start)
	for _, loop := range loops {
		loop.measured.Store(newLatencies())
	}
	stop()
	for range loops {
		<-ended
	}
	if err != nil {
		return fmt.Errorf("%s: %w", row, err)
	}
	for _, m := range measured {
		if m.errors > 0 {
			return fmt.Errorf("%s: %d requests failed: %w", row, m.errors, m.last)
		}
	}
	b.record(c.server, row, metricPutP99, measured[0].quantile(99))
	b.record(c.server, row, metricPutMax, measured[0].longest())
	b.record(c.server, row, metricGetP99, measured[1].quantile(99))
	b.record(c.server, row, metricGetMax, measured[1].longest())
	b.record(c.server, row, metricRetried, float64(measured[0].retried.Load()+measured[1].retried.Load()))
	b.record(c.server, row, metricTook, took.Seconds())
	return nil
}
