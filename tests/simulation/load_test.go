package simulation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// write is one that was acknowledged.
type write struct {
	key, value string
	revision   int64
}

// load is a number of writers, each with keys of its own. Values are unique.
type load struct {
	keys     []string
	patience time.Duration
	pace     time.Duration // between two requests of a writer, on average
	stop     chan struct{}
	joined   sync.WaitGroup
	once     sync.Once

	mu struct {
		sync.Mutex
		clients      []*clientv3.Client
		acknowledged map[string][]write
		tried        map[string]int64
		leases       map[string]time.Time // key -> when its lease may end
	}
}

const (
	writers       = 6
	holders       = 2
	keysPerWriter = 4
)

func startLoad(seed uint64, pace, patience time.Duration) *load {
	l := &load{stop: make(chan struct{}), pace: pace, patience: patience}
	l.mu.acknowledged, l.mu.tried, l.mu.leases = map[string][]write{}, map[string]int64{}, map[string]time.Time{}
	for w := range writers {
		for k := range keysPerWriter {
			l.keys = append(l.keys, fmt.Sprintf("%d/%d", w, k))
		}
	}
	for w := range writers {
		l.joined.Go(func() { l.write(w, rand.New(rand.NewPCG(seed, uint64(w)))) })
	}
	for i := range holders {
		h := &holder{load: l, key: fmt.Sprintf("held/%d", i), ttl: max(40*pace, 2*time.Second)}
		l.joined.Go(func() { h.run(rand.New(rand.NewPCG(seed, uint64(50+i)))) })
	}
	return l
}

// sleep waits, and tells whether the load goes on.
func (l *load) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-l.stop:
		return false
	case <-timer.C:
		return true
	}
}

// client is that of one member, nil while there is none.
func (l *load) client(random *rand.Rand) *clientv3.Client {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.mu.clients) == 0 {
		return nil
	}
	return l.mu.clients[random.IntN(len(l.mu.clients))]
}

// held notes that the key cannot go away before until.
func (l *load) held(key string, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.leases[key] = until
}

// holds are the keys whose leases live for certain.
func (l *load) holds() map[string]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]time.Time{}
	for key, until := range l.mu.leases {
		if time.Now().Before(until) {
			out[key] = until
		}
	}
	return out
}

func (l *load) use(clients []*clientv3.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.clients = clients
}

// end stops the writers and waits for them; it may be called again.
func (l *load) end() {
	l.once.Do(func() { close(l.stop) })
	l.joined.Wait()
}

// write is one writer: a put, or a transaction over two of its keys, now and then with a lease that nobody renews.
func (l *load) write(w int, rng *rand.Rand) {
	own := l.keys[w*keysPerWriter : (w+1)*keysPerWriter]
	for n := 0; ; n++ {
		if !l.sleep(time.Duration(rng.Int64N(int64(2 * l.pace)))) {
			return
		}
		client := l.client(rng)
		if client == nil {
			continue
		}
		value := fmt.Sprintf("%d-%d", w, n)
		switch rng.IntN(10) {
		case 0:
			l.leased(client, w, value)
		case 1, 2:
			first := rng.IntN(keysPerWriter - 1)
			l.try(client, value, own[first:first+2])
		default:
			first := rng.IntN(keysPerWriter)
			l.try(client, value, own[first:first+1])
		}
	}
}

func (l *load) try(client *clientv3.Client, value string, keys []string) {
	l.mu.Lock()
	for _, key := range keys {
		l.mu.tried[key]++
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), l.patience)
	defer cancel()
	var ops []clientv3.Op
	for _, key := range keys {
		ops = append(ops, clientv3.OpPut(key, value))
	}
	var revision int64
	if len(ops) == 1 {
		resp, err := client.Put(ctx, keys[0], value)
		if err != nil {
			return
		}
		revision = resp.Header.Revision
	} else {
		resp, err := client.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return
		}
		revision = resp.Header.Revision
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		l.mu.acknowledged[key] = append(l.mu.acknowledged[key], write{key, value, revision})
	}
}

// leased puts what goes away by itself.
func (l *load) leased(client *clientv3.Client, w int, value string) {
	ctx, cancel := context.WithTimeout(context.Background(), l.patience)
	defer cancel()
	lease, err := client.Grant(ctx, 120)
	if err != nil {
		return
	}
	_, _ = client.Put(ctx, fmt.Sprintf("leased/%d", w), value, clientv3.WithLease(lease.ID))
}

// newest is the write with the highest revision that was acknowledged.
func (l *load) newest() (newest write) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, all := range l.mu.acknowledged {
		for _, w := range all[max(0, len(all)-2):] {
			if w.revision > newest.revision {
				newest = w
			}
		}
	}
	return newest
}

func (l *load) all() []write {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []write
	for _, key := range l.keys {
		out = append(out, l.mu.acknowledged[key]...)
	}
	return slices.Clone(out)
}

// counts says how often a key was written at least and at most.
func (l *load) counts(key string) (acknowledged, tried int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.mu.acknowledged[key])), l.mu.tried[key]
}
