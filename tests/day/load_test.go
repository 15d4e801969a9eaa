package day

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/cluster"
)

const (
	writers = 4
	// requestTimeout is long enough for an election.
	requestTimeout = 90 * time.Second
	leaseSeconds   = 1800
)

// load is what clients do all day.
type load struct {
	history *history
	cancel  context.CancelFunc
	all     sync.WaitGroup
	// turns has a token for each writer that has a request under way. Not a lock: in a bubble time stands still for those
	// who wait for one.
	turns  chan struct{}
	period time.Duration // between two requests of a client, on average

	requests, refused, reads atomic.Int64
}

// newLoad starts writers, the holder of a lease that must live all day, and three watchers.
func newLoad(c *cluster.Cluster, seed uint64, period time.Duration) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{history: newHistory(), cancel: cancel, period: period, turns: make(chan struct{}, writers)}
	members := c.Members()
	for i := range writers {
		var clients []*clientv3.Client
		for _, m := range members {
			clients = append(clients, m.NewClient())
		}
		w := &writer{load: l, id: i, clients: clients, rng: rand.New(rand.NewPCG(seed, uint64(i)))}
		l.all.Go(func() { w.run(ctx) })
	}
	for i := range members {
		clients := clientsOf(c)
		l.all.Go(func() { l.history.follow(ctx, fmt.Sprint(i), clients, i) })
	}
	var clients []*clientv3.Client
	for _, m := range members {
		clients = append(clients, m.NewClient())
	}
	l.all.Go(func() { l.holdLease(ctx, clients) })
	return l
}

func (l *load) stop() {
	l.cancel()
	l.all.Wait()
}

// quiet lets no request of the writers be under way until the returned function is called.
func (l *load) quiet() (resume func()) {
	for range writers {
		l.turns <- struct{}{}
	}
	return func() {
		for range writers {
			<-l.turns
		}
	}
}

// writer is one client, with keys of its own and one lease at a time.
type writer struct {
	load    *load
	id      int
	clients []*clientv3.Client
	rng     *rand.Rand
	lease   clientv3.LeaseID
	n       int
}

func (w *writer) run(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, time.Duration(w.rng.Int64N(2*int64(w.load.period))))
		w.load.turns <- struct{}{}
		w.once(ctx)
		<-w.load.turns
	}
}

func (w *writer) client() *clientv3.Client { return w.clients[w.rng.IntN(len(w.clients))] }
func (w *writer) key() string              { return fmt.Sprintf("w%d/%02d", w.id, w.rng.IntN(30)) }

func (w *writer) once(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	w.load.requests.Add(1)
	var err error
	switch dice := w.rng.IntN(100); {
	case dice < 55:
		err = w.put(ctx, w.key(), 0)
	case dice < 65:
		err = w.putWithLease(ctx)
	case dice < 75:
		err = w.delete(ctx, w.key())
	case dice < 80:
		err = w.transaction(ctx)
	default:
		err = w.read(ctx)
	}
	if err != nil {
		w.load.refused.Add(1)
	}
}

func (w *writer) value() string {
	w.n++
	return fmt.Sprintf("%d.%d.", w.id, w.n) + strings.Repeat("v", 1024+w.rng.IntN(8<<10))
}

func (w *writer) put(ctx context.Context, key string, lease clientv3.LeaseID) error {
	c := change{key: key, value: w.value(), lease: int64(lease)}
	begun := time.Now()
	resp, err := w.client().Put(ctx, key, c.value, clientv3.WithLease(lease))
	if err == nil {
		w.load.history.acknowledged(write{c, resp.Header.Revision, begun, time.Now()})
	}
	return err
}

// putWithLease attaches a key to a lease that nobody keeps alive.
func (w *writer) putWithLease(ctx context.Context) error {
	if w.lease == 0 || w.rng.IntN(5) == 0 {
		granted, err := w.client().Grant(ctx, leaseSeconds)
		if err != nil {
			return err
		}
		w.lease = granted.ID
	}
	err := w.put(ctx, fmt.Sprintf("leased/%d/%d", w.id, w.rng.IntN(10)), w.lease)
	if err != nil {
		w.lease = 0 // it may be gone
	}
	return err
}

func (w *writer) delete(ctx context.Context, key string) error {
	begun := time.Now()
	resp, err := w.client().Delete(ctx, key)
	if err == nil && resp.Deleted > 0 {
		w.load.history.acknowledged(write{change{key: key, deleted: true}, resp.Header.Revision, begun, time.Now()})
	}
	return err
}

// transaction writes two keys at one revision.
func (w *writer) transaction(ctx context.Context) error {
	a, b := change{key: fmt.Sprintf("w%d/a", w.id), value: w.value()}, change{key: fmt.Sprintf("w%d/b", w.id), value: w.value()}
	begun := time.Now()
	resp, err := w.client().Txn(ctx).Then(clientv3.OpPut(a.key, a.value), clientv3.OpPut(b.key, b.value)).Commit()
	if err == nil {
		for _, c := range []change{a, b} {
			w.load.history.acknowledged(write{c, resp.Header.Revision, begun, time.Now()})
		}
	}
	return err
}

// read compares a read of a revision of the last hour with what was there then.
func (w *writer) read(ctx context.Context) error {
	h := w.load.history
	key, rev := w.key(), max(2, h.Last()-w.rng.Int64N(40))
	resp, err := w.client().Get(ctx, key, clientv3.WithRev(rev), clientv3.WithSerializable())
	if err != nil {
		return err
	}
	w.load.reads.Add(1)
	value, exists := h.At(key, rev)
	if exists != (len(resp.Kvs) == 1) || exists && string(resp.Kvs[0].Value) != value {
		h.mu.Lock()
		h.fail("a read of %s at revision %d gave %.40q, %v; it was %.20q, %v", key, rev, resp.Kvs, len(resp.Kvs) == 1, value, exists)
		h.mu.Unlock()
	}
	return nil
}

// heldKey is attached to a lease that is kept alive all day.
const heldKey = "held"

func (l *load) holdLease(ctx context.Context, clients []*clientv3.Client) {
	var id clientv3.LeaseID
	for at := 0; ctx.Err() == nil; at++ {
		client := clients[at%len(clients)]
		once, cancel := context.WithTimeout(ctx, requestTimeout)
		if id == 0 {
			if granted, err := client.Grant(once, leaseSeconds); err == nil {
				if _, err = client.Put(once, heldKey, "v", clientv3.WithLease(granted.ID)); err == nil {
					id = granted.ID
				}
			}
		} else if resp, err := client.KeepAliveOnce(once, id); err == nil && resp.TTL <= 0 && ctx.Err() == nil {
			l.history.mu.Lock()
			l.history.fail("the lease that is kept alive is gone")
			l.history.mu.Unlock()
		}
		cancel()
		pause(ctx, leaseSeconds/10*time.Second)
	}
}
