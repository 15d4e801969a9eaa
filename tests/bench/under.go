package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
)

// sensed is one kind of request that the load is made of, and what it is timed by.
type sensed struct {
	name string
	loop *openLoop // nil for the watchers
}

// dueKey is under which the context of a request has the time at which it was due.
type dueKey struct{}

// putDue writes one of so many keys; its value begins with when it was due, for the watchers.
func putDue(keys int) request {
	return func(ctx context.Context, client *clientv3.Client, random *rand.Rand) error {
		due, _ := ctx.Value(dueKey{}).(time.Time)
		value := randomValue(random, valueBytes)
		stamp := binary.BigEndian.AppendUint64(nil, uint64(due.UnixNano()))
		_, err := client.Put(ctx, keyName("load", random.IntN(keys)), string(stamp)+value[len(stamp):])
		return err
	}
}

// delays are what watchers waited for their events, from when the put was due.
type delays struct {
	mu  sync.Mutex
	all []delay
}

type delay struct {
	due  time.Time
	took time.Duration
}

// watch notes the delay of every event of the load until ctx ends.
func (d *delays) watch(ctx context.Context, client *clientv3.Client) {
	for resp := range client.Watch(ctx, "load/", clientv3.WithPrefix()) {
		now := time.Now()
		d.mu.Lock()
		for _, e := range resp.Events {
			if e.Type == clientv3.EventTypePut && len(e.Kv.Value) >= 8 {
				due := time.Unix(0, int64(binary.BigEndian.Uint64(e.Kv.Value)))
				d.all = append(d.all, delay{due, now.Sub(due)})
			}
		}
		d.mu.Unlock()
	}
}

// between are the delays of puts that fell due in a span.
func (d *delays) between(from, to time.Time) *latencies {
	l := newLatencies()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, one := range d.all {
		if !one.due.Before(from) && one.due.Before(to) {
			l.record(one.took, nil)
		}
	}
	return l
}

// maintain is what is done while the load goes on. It returns how long it took, without what it did before and after.
type maintain func(ctx context.Context, c *cluster, operator *clientv3.Client) error

// errLimit: a row took longer than it may.
var errLimit = errors.New("not over within --limit")

// under runs maintenance while puts, gets and watches go on at a fixed rate, and records what those that fell due during it
// had to wait. A row that does not end in time is reported without figures.
func (b *bench) under(ctx context.Context, c *cluster, keys int, row string, do maintain) error {
	unix.Sync() // what was written before must not be what is measured
	clients, closeClients, err := dialMany(c.endpoints, 30)
	if err != nil {
		return err
	}
	defer closeClients()
	operator, err := dial(c.endpoints...)
	if err != nil {
		return err
	}
	defer operator.Close()
	kinds := []sensed{
		{"put", &openLoop{rate: b.rate, clients: clients[:10], request: putDue(1000)}},
		{"linearizable get", &openLoop{rate: b.rate, clients: clients[10:20], request: getOne("big", keys)}},
		{"serializable get", &openLoop{rate: b.rate, clients: clients[20:], request: getOne("big", keys, clientv3.WithSerializable())}},
		{"watch", nil},
	}
	load := b.startLoad(ctx, c, kinds)
	pause(ctx, b.warmup)
	limited, cancel := context.WithTimeoutCause(ctx, b.limit, errLimit)
	defer cancel()
	measured := load.measure()
	start := time.Now()
	err = do(limited, c, operator)
	end := time.Now()
	load.measure()
	watched, loadErr := load.stop(start, end)
	measured = append(measured, watched)
	switch {
	case errors.Is(context.Cause(limited), errLimit):
		b.note("%s, %s: %v; no figures", c.server.name, row, errLimit)
		return nil
	case err != nil || loadErr != nil:
		return fmt.Errorf("%s: %w", row, errors.Join(err, loadErr))
	}
	retried := int64(0)
	for i, kind := range kinds {
		if measured[i].errors > 0 {
			return fmt.Errorf("%s: %d requests failed: %w", row, measured[i].errors, measured[i].last)
		}
		b.record(c.server, row, kind.name+" p99 ms", measured[i].quantile(99))
		b.record(c.server, row, kind.name+" longest ms", measured[i].longest())
		retried += measured[i].retried.Load()
	}
	b.record(c.server, row, metricRetried, float64(retried))
	b.record(c.server, row, metricTook, end.Sub(start).Seconds())
	return nil
}

// running is a load that goes on.
type running struct {
	kinds    []sensed
	delays   delays
	loops    sync.WaitGroup
	watchers sync.WaitGroup
	stopLoad context.CancelFunc
	stopAll  context.CancelFunc
	close    func()
	err      error
}

// startLoad starts the requests, and a watcher at each member.
func (b *bench) startLoad(ctx context.Context, c *cluster, kinds []sensed) *running {
	r := &running{kinds: kinds}
	loading, stopLoad := context.WithCancel(ctx)
	watching, stopAll := context.WithCancel(ctx)
	r.stopLoad, r.stopAll = stopLoad, stopAll
	var clients []*clientv3.Client
	clients, r.close, r.err = dialMany(c.endpoints, len(c.endpoints))
	for _, client := range clients {
		r.watchers.Go(func() { r.delays.watch(watching, client) })
	}
	for _, kind := range kinds {
		if kind.loop != nil {
			kind.loop.patience = b.limit
			kind.loop.measured.Store(newLatencies())
			r.loops.Go(func() { kind.loop.run(loading) })
		}
	}
	return r
}

// measure counts what falls due from now on in new histograms, one for each kind of request.
func (r *running) measure() []*latencies {
	var out []*latencies
	for _, kind := range r.kinds {
		if kind.loop != nil {
			l := newLatencies()
			kind.loop.measured.Store(l)
			out = append(out, l)
		}
	}
	return out
}

// watchGrace is how long watchers are waited for after the last put was answered.
const watchGrace = 2 * time.Second

// stop ends the load once all that is under way is answered.
func (r *running) stop(from, to time.Time) (watched *latencies, err error) {
	r.stopLoad()
	r.loops.Wait()
	time.Sleep(watchGrace)
	r.stopAll()
	if r.close != nil && r.err == nil {
		r.close()
	}
	r.watchers.Wait()
	return r.delays.between(from, to), r.err
}
