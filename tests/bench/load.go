package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// request is one operation of a workload. Each caller has its own source.
type request func(ctx context.Context, client *clientv3.Client, random *rand.Rand) error

// latencies is a histogram in microseconds, up to ten minutes.
type latencies struct {
	mu     sync.Mutex
	hist   *hdrhistogram.Histogram
	errors int
	last   error
	// retried counts answers such as "too many requests", which a server gives
	// while it is held up. The request is sent again, and its clock runs on.
	retried atomic.Int64
}

func newLatencies() *latencies {
	return &latencies{hist: hdrhistogram.New(1, (10 * time.Minute).Microseconds(), 3)}
}

func (l *latencies) record(took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.hist.RecordValue(max(1, took.Microseconds())) // longer than the longest is cut off there
	if err != nil {
		l.errors++
		l.last = err
	}
}

// quantile in milliseconds.
func (l *latencies) quantile(q float64) float64 {
	return float64(l.hist.ValueAtQuantile(q)) / 1000
}

func (l *latencies) longest() float64 { return float64(l.hist.Max()) / 1000 }

// closedLoop has each of n callers send one request after the other for a
// warm-up, in which nothing is measured, and then for a duration.
type closedLoop struct {
	callers  int
	warmup   time.Duration
	duration time.Duration
	request  request
}

type loopResult struct {
	*latencies
	requests  int64
	perSecond float64
	cpu       time.Duration // of the servers, per request
}

func (l closedLoop) run(ctx context.Context, c *cluster) (*loopResult, error) {
	clients, closeClients, err := dialMany(c.endpoints, connections(l.callers))
	if err != nil {
		return nil, err
	}
	defer closeClients()
	ctx, cancel := context.WithTimeout(ctx, l.warmup+l.duration+time.Minute)
	defer cancel()

	var phase atomic.Int32 // 0 warm-up, 1 measured, 2 over
	var wait sync.WaitGroup
	parts := make([]*latencies, l.callers)
	for i := range l.callers {
		parts[i] = newLatencies()
		wait.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			client := clients[i%len(clients)]
			for phase.Load() < 2 && ctx.Err() == nil {
				counted := phase.Load() == 1
				start := time.Now()
				err := l.request(ctx, client, random)
				if counted && phase.Load() == 1 {
					parts[i].record(time.Since(start), err)
				}
			}
		})
	}
	pause(ctx, l.warmup)
	before, err := c.cpuTime()
	start := time.Now()
	phase.Store(1)
	pause(ctx, l.duration)
	phase.Store(2)
	lasted := time.Since(start)
	after, cpuErr := c.cpuTime()
	wait.Wait()
	if err == nil {
		err = cpuErr
	}
	if err != nil {
		return nil, err
	}
	return summarize(parts, lasted, after-before)
}

// errNothingDone: the machine was so busy, or the cluster without a leader for so long, that no request was answered.
var errNothingDone = errors.New("no request was answered while it was measured")

// attempts is how often a load is tried that gets no answer at all.
const attempts = 3

// runAgain is run, tried again where nothing was answered.
func (l closedLoop) runAgain(ctx context.Context, c *cluster) (*loopResult, error) {
	for try := 1; ; try++ {
		result, err := l.run(ctx, c)
		if !errors.Is(err, errNothingDone) || try == attempts {
			return result, err
		}
	}
}

func summarize(parts []*latencies, lasted, cpu time.Duration) (*loopResult, error) {
	all := newLatencies()
	for _, part := range parts {
		all.hist.Merge(part.hist)
		all.errors += part.errors
		if part.last != nil {
			all.last = part.last
		}
	}
	n := all.hist.TotalCount()
	if all.errors > 0 {
		return nil, fmt.Errorf("%d of %d requests failed: %w", all.errors, n, all.last)
	}
	if n == 0 {
		return nil, errNothingDone
	}
	return &loopResult{
		latencies: all, requests: n, perSecond: float64(n) / lasted.Seconds(), cpu: cpu / time.Duration(n),
	}, nil
}

// connections of so many callers: a connection is one TCP stream with its own
// locks, so a thousand callers on one of them would measure the client.
func connections(callers int) int { return max(1, callers/10) }

// openLoop sends requests at a fixed rate, whether or not earlier ones have
// been answered, and times each from when it was due until it succeeded.
type openLoop struct {
	rate     int // per second
	clients  []*clientv3.Client
	request  request
	patience time.Duration // of one request; 0 means 5 minutes
	inflight sync.WaitGroup
	// measured is where requests that fall due now are counted.
	measured atomic.Pointer[latencies]
}

// How long a refused request waits before it is sent again, twice as long each
// time: as an application would, and so that it is not the retries that are measured.
const (
	shortestRetry = 50 * time.Millisecond
	longestRetry  = time.Second
)

// maxInflight bounds the memory of a run whose server never answers.
const maxInflight = 100_000

// run sends until ctx ends and returns once every request has been answered.
func (l *openLoop) run(ctx context.Context) {
	interval := time.Second / time.Duration(l.rate)
	slots := make(chan struct{}, maxInflight)
	due := time.Now()
	for n := 0; ; n++ {
		if wait := time.Until(due); wait > 0 {
			pause(ctx, wait)
		}
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{} // late requests still count from when they were due
		at, into := due, l.measured.Load()
		client, seed := l.clients[n%len(l.clients)], uint64(n)
		l.inflight.Go(func() {
			defer func() { <-slots }()
			timeout, cancel := context.WithTimeout(context.WithoutCancel(ctx), cmp.Or(l.patience, 5*time.Minute))
			defer cancel()
			timeout = context.WithValue(timeout, dueKey{}, at)
			random := rand.New(rand.NewPCG(seed, 2))
			err := l.request(timeout, client, random)
			for wait := shortestRetry; err != nil && timeout.Err() == nil; wait = min(2*wait, longestRetry) {
				into.retried.Add(1)
				pause(timeout, wait)
				err = l.request(timeout, client, random)
			}
			into.record(time.Since(at), err)
		})
		due = due.Add(interval)
	}
	l.inflight.Wait()
}

const valueBytes = 256

// randomValue does not compress.
func randomValue(random *rand.Rand, size int) string {
	value := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		n := random.Uint64()
		for j := range 8 {
			value[i+j] = byte(n >> (8 * j))
		}
	}
	return string(value)
}

func keyName(prefix string, n int) string { return fmt.Sprintf("%s/%010d", prefix, n) }

// putOne writes one of so many keys.
func putOne(keys int) request {
	return func(ctx context.Context, client *clientv3.Client, random *rand.Rand) error {
		_, err := client.Put(ctx, keyName("load", random.IntN(keys)), randomValue(random, valueBytes))
		return err
	}
}

// getOne reads one of so many keys.
func getOne(prefix string, keys int, opts ...clientv3.OpOption) request {
	return func(ctx context.Context, client *clientv3.Client, random *rand.Rand) error {
		_, err := client.Get(ctx, keyName(prefix, random.IntN(keys)), opts...)
		return err
	}
}

// fill writes keys prefix/0 to prefix/n-1, many per transaction, as fast as the server takes them.
func fill(ctx context.Context, c *cluster, prefix string, n, valueSize int) error {
	perTxn := max(1, min(100, 512<<10/valueSize))
	return inParallel(ctx, c, 32, (n+perTxn-1)/perTxn, func(ctx context.Context, client *clientv3.Client, part int) error {
		random := rand.New(rand.NewPCG(uint64(part), 3))
		var puts []clientv3.Op
		for i := part * perTxn; i < min(n, (part+1)*perTxn); i++ {
			puts = append(puts, clientv3.OpPut(keyName(prefix, i), randomValue(random, valueSize)))
		}
		_, err := client.Txn(ctx).Then(puts...).Commit()
		return err
	})
}

// inParallel does parts 0 to n-1 with so many callers.
func inParallel(
	ctx context.Context, c *cluster, callers, n int, do func(ctx context.Context, client *clientv3.Client, part int) error,
) error {
	clients, closeClients, err := dialMany(c.endpoints, connections(callers))
	if err != nil {
		return err
	}
	defer closeClients()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wait sync.WaitGroup
	for i := range callers {
		wait.Go(func() {
			for ctx.Err() == nil {
				part := int(next.Add(1) - 1)
				if part >= n {
					return
				}
				if err := do(ctx, clients[i%len(clients)], part); err != nil {
					cancel(err)
				}
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}
