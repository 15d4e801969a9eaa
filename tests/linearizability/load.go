package linearizability

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Endpoint is a member as its clients reach it.
type Endpoint struct {
	Name    string
	URL     string
	Options []grpc.DialOption
}

// connect returns a client of this member alone, so that it is known who answered.
func (e Endpoint) connect() (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{e.URL}, DialOptions: e.Options, Logger: zap.NewNop(), BackoffWaitBetween: 20 * time.Millisecond,
	})
}

// Load says what the clients of a run do.
type Load struct {
	Clients int
	Keys    int
	Timeout time.Duration // of one request; afterwards its outcome is unknown
	Pause   time.Duration // at most so long between two requests of one client
	Tasters int           // watchers of single keys and from random revisions, besides one watcher of all keys per member
	// LeaseTTL is in seconds. Members make it longer if it is below one and a half election timeouts.
	LeaseTTL int64
}

// Run is a load at work.
type Run struct {
	rec       *Recorder
	load      Load
	endpoints []Endpoint
	clients   []*clientv3.Client // by endpoint
	newest    atomic.Int64       // highest revision that any client has seen
	floor     atomic.Int64       // of the last compaction that was answered

	asking   chan struct{} // closed when clients and tasters shall end
	requests sync.WaitGroup
	watching context.CancelFunc
	watches  sync.WaitGroup

	collectors []*collector
	advanced   chan struct{} // a collector got further
}

// StartLoad starts clients and watchers of the endpoints. Their choices follow from seed, their order does not.
func StartLoad(rec *Recorder, seed uint64, endpoints []Endpoint, load Load) (*Run, error) {
	r := &Run{rec: rec, load: load, endpoints: endpoints, asking: make(chan struct{}), advanced: make(chan struct{}, 1)}
	for _, e := range endpoints {
		client, err := e.connect()
		if err != nil {
			r.close()
			return nil, err
		}
		r.clients = append(r.clients, client)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.watching = cancel
	for i := range endpoints {
		c := &collector{run: r, endpoint: i, random: rand.New(rand.NewPCG(seed, uint64(1000+i)))}
		c.next.Store(firstRevision)
		r.collectors = append(r.collectors, c)
		r.watches.Go(func() { c.work(ctx) })
	}
	for i := range load.Tasters {
		t := &taster{run: r, endpoint: i % len(endpoints), random: rand.New(rand.NewPCG(seed, uint64(2000+i)))}
		r.requests.Go(func() { t.work(ctx) })
	}
	for i := range load.Clients {
		w := &worker{
			run: r, id: i, client: r.clients[i%len(endpoints)], random: rand.New(rand.NewPCG(seed, uint64(i))),
			known: map[string]int64{},
		}
		r.requests.Go(w.work)
	}
	return r, nil
}

func (r *Run) close() {
	for _, c := range r.clients {
		c.Close()
	}
}

// sleep waits for d, or less when the requests shall end; it then returns false.
func (r *Run) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.asking:
		return false
	}
}

func (r *Run) note(rev int64) {
	for {
		old := r.newest.Load()
		if rev <= old || r.newest.CompareAndSwap(old, rev) {
			return
		}
	}
}

// Collected returns a revision that every watcher of all keys has passed. Compacting behind it would tear a hole into
// the log, and make the history worthless.
func (r *Run) Collected() int64 {
	low := r.collectors[0].next.Load()
	for _, c := range r.collectors {
		low = min(low, c.next.Load())
	}
	return low - 1
}

// Compact compacts through one member, as a request of the history.
func (r *Run) Compact(endpoint int, rev int64) {
	op := &Op{Client: r.load.Clients, Kind: Compact, AtRev: rev}
	ctx, cancel := context.WithTimeout(context.Background(), r.load.Timeout)
	defer cancel()
	r.rec.begin(op)
	_, err := r.clients[endpoint].Compact(ctx, rev)
	op.finish(err, true)
	r.rec.end(op)
	if op.Outcome == Done {
		r.floor.Store(rev)
	}
}

// finish sets the outcome. An error of a write leaves it unknown, unless it is one that is found when the write is
// applied. Even that says nothing of revoking and compacting, which etcd's client repeats by itself when a connection
// breaks: the first attempt may have made the second one fail.
func (o *Op) finish(err error, write bool) {
	o.Outcome = Done
	if err == nil {
		return
	}
	o.Err, o.Outcome = err.Error(), Refused
	o.Code = errorCode(err).String()
	o.Compacted = errors.Is(err, rpctypes.ErrCompacted)
	definite := errors.Is(err, rpctypes.ErrLeaseNotFound) || errors.Is(err, rpctypes.ErrNoSpace)
	if write && (!definite || o.Kind == Revoke) {
		o.Outcome = Unknown
	}
}

func errorCode(err error) codes.Code {
	var known rpctypes.EtcdError
	switch {
	case errors.As(err, &known):
		return known.Code()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return status.FromContextError(err).Code()
	}
	return status.Code(err)
}

// Finish ends the load, once the cluster is whole again, and completes the history: every member tells what it has, and
// every watcher of all keys catches up.
func (r *Run) Finish(ctx context.Context) (*History, error) {
	close(r.asking)
	r.requests.Wait()
	err := r.settle(ctx)
	r.watching()
	r.watches.Wait()
	if err == nil {
		err = r.compareHashes(ctx)
	}
	r.close()
	return r.rec.History(), err
}

// settle writes last words until nothing else comes behind them: a lease may end, a delayed request arrive.
func (r *Run) settle(ctx context.Context) error {
	w := &worker{run: r, id: r.load.Clients + 1, client: r.clients[0], known: map[string]int64{}}
	for round := 0; ; round++ {
		if ctx.Err() != nil {
			return fmt.Errorf("the cluster does not come to rest: %w", ctx.Err())
		}
		put := w.put(fmt.Sprintf("final-%d", round), 0)
		if put.Outcome != Done {
			continue
		}
		r.rec.final(put.Rev)
		if err := r.waitCollected(ctx, put.Rev); err != nil {
			return err
		}
		quiet := true
		for i := range r.clients {
			w.client = r.clients[i]
			get := w.read(&Op{Kind: Get}, "", clientv3.WithPrefix())
			quiet = quiet && get.Outcome == Done && get.Rev == put.Rev
		}
		w.client = r.clients[round%len(r.clients)]
		if quiet {
			return nil
		}
	}
}

func (r *Run) waitCollected(ctx context.Context, rev int64) error {
	for r.Collected() < rev {
		select {
		case <-r.advanced:
		case <-ctx.Done():
			var where []string
			for i, c := range r.collectors {
				where = append(where, fmt.Sprintf("%s at %d", r.endpoints[i].Name, c.next.Load()-1))
			}
			return fmt.Errorf("the watchers do not reach revision %d: %s: %w", rev, strings.Join(where, ", "), ctx.Err())
		}
	}
	return nil
}

// compareHashes compares the members' histories where they have the same floor.
func (r *Run) compareHashes(ctx context.Context) error {
	hashes := map[int64]uint32{}
	for i, c := range r.clients {
		h, err := c.HashKV(ctx, r.endpoints[i].URL, r.rec.mu.history.Final)
		if err != nil {
			return err
		}
		if other, ok := hashes[h.CompactRevision]; ok && other != h.Hash {
			return fmt.Errorf("HashKV of the members differs at revision %d above %d", r.rec.mu.history.Final, h.CompactRevision)
		}
		hashes[h.CompactRevision] = h.Hash
	}
	return nil
}

// worker is one client.
type worker struct {
	run    *Run
	id     int
	client *clientv3.Client
	random *rand.Rand
	writes int
	known  map[string]int64 // mod revision of keys as last seen
	lease  int64            // granted and not given up yet
	grants int64
}

func (w *worker) work() {
	for w.run.sleep(time.Duration(w.random.Int64N(int64(w.run.load.Pause) + 1))) {
		w.act()
	}
}

func (w *worker) key() string {
	if w.random.IntN(10) == 0 {
		return leasedKey(w.random.IntN(w.run.load.Clients))
	}
	n, cold := w.random.IntN(w.run.load.Keys), w.run.load.Keys/2
	if n >= cold && w.random.IntN(10) > 0 {
		n -= cold // the upper half is left alone for long, so that compactions pass over what is still there
	}
	return fmt.Sprintf("k%d", n)
}

// leasedKey is where a client puts with its leases, most of the time: a key that is left alone long enough to end so.
func leasedKey(client int) string { return fmt.Sprintf("lease%d", client) }

// act makes one random request.
func (w *worker) act() {
	switch n := w.random.IntN(100); {
	case n < 25:
		w.put(w.key(), 0)
	case n < 45:
		w.read(&Op{Kind: Get}, w.key())
	case n < 48:
		w.read(&Op{Kind: Get}, "", clientv3.WithPrefix())
	case n < 53:
		w.read(&Op{Kind: Serial}, w.key(), clientv3.WithSerializable())
	case n < 60:
		if floor := w.run.floor.Load(); floor > 0 && w.random.IntN(2) == 0 {
			// All that a compaction must leave is what was there at its revision.
			w.read(&Op{Kind: Past, AtRev: floor}, "", clientv3.WithPrefix(), clientv3.WithRev(floor))
			return
		}
		rev := max(1, w.run.newest.Load()-w.random.Int64N(200))
		w.read(&Op{Kind: Past, AtRev: rev}, w.key(), clientv3.WithRev(rev))
	case n < 70:
		w.delete(w.key())
	case n < 88:
		w.swap()
	default:
		w.useLease()
	}
}

// do runs one request between its two stamps.
func (w *worker) do(op *Op, write bool, request func(context.Context) error) *Op {
	op.Client = w.id
	ctx, cancel := context.WithTimeout(context.Background(), w.run.load.Timeout)
	defer cancel()
	w.run.rec.begin(op)
	err := request(ctx)
	op.finish(err, write)
	w.run.rec.end(op)
	w.run.note(op.Rev)
	return op
}

func (w *worker) value() string {
	w.writes++
	return fmt.Sprintf("v%d-%d", w.id, w.writes)
}

func (w *worker) put(key string, lease int64) *Op {
	op := &Op{Kind: Put, Writes: []Write{{Key: key, Value: w.value(), Lease: lease}}}
	return w.do(op, true, func(ctx context.Context) error {
		resp, err := w.client.Put(ctx, key, op.Writes[0].Value, clientv3.WithLease(clientv3.LeaseID(lease)))
		if err == nil {
			op.Rev, w.known[key] = resp.Header.Revision, resp.Header.Revision
		}
		return err
	})
}

func (w *worker) read(op *Op, key string, options ...clientv3.OpOption) *Op {
	op.Key = key
	return w.do(op, false, func(ctx context.Context) error {
		resp, err := w.client.Get(ctx, key, options...)
		if err == nil {
			op.Rev, op.KVs = resp.Header.Revision, pairs(resp.Kvs)
			w.learn(op)
		}
		return err
	})
}

// learn remembers what was read, for swaps.
func (w *worker) learn(op *Op) {
	if op.Kind == Past {
		return
	}
	if op.Key != "" {
		w.known[op.Key] = 0
	}
	for _, kv := range op.KVs {
		w.known[kv.Key] = kv.Mod
	}
}

func (w *worker) delete(key string) {
	op := &Op{Kind: Delete, Key: key}
	w.do(op, true, func(ctx context.Context) error {
		resp, err := w.client.Delete(ctx, key)
		if err == nil {
			op.Rev, op.Deleted, w.known[key] = resp.Header.Revision, resp.Deleted, 0
		}
		return err
	})
}

// swap writes one or two keys if one of them is still as it was seen last.
func (w *worker) swap() {
	key := w.key()
	op := &Op{Kind: Swap, Key: key, Expect: w.known[key], Writes: []Write{{Key: key, Value: w.value()}}}
	if other := w.key(); other != key && w.random.IntN(2) == 0 {
		op.Writes = append(op.Writes, Write{Key: other, Value: w.value()})
	}
	var then []clientv3.Op
	for _, write := range op.Writes {
		then = append(then, clientv3.OpPut(write.Key, write.Value))
	}
	w.do(op, true, func(ctx context.Context) error {
		resp, err := w.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", op.Expect)).
			Then(then...).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return err
		}
		op.Rev, op.Succeeded = resp.Header.Revision, resp.Succeeded
		if op.Succeeded {
			for _, write := range op.Writes {
				w.known[write.Key] = op.Rev
			}
			return nil
		}
		op.KVs = pairs(resp.Responses[0].GetResponseRange().Kvs)
		w.learn(op)
		return nil
	})
}

// useLease attaches keys to a lease of this client's own, keeps it alive, revokes it or leaves it to its end.
func (w *worker) useLease() {
	if w.lease == 0 {
		w.grant()
		return
	}
	lease := w.lease
	switch n := w.random.IntN(10); {
	case n < 6:
		key := leasedKey(w.id)
		if w.random.IntN(4) == 0 {
			key = w.key()
		}
		if op := w.put(key, lease); op.Outcome == Refused {
			w.lease = 0
		}
	case n < 8:
		op := &Op{Kind: Renew, Lease: lease}
		w.do(op, false, func(ctx context.Context) error {
			resp, err := w.client.KeepAliveOnce(ctx, clientv3.LeaseID(lease))
			if err == nil {
				op.TTL = resp.TTL
			}
			return err
		})
		if op.Outcome != Done {
			w.lease = 0
		}
	case n < 9:
		op := &Op{Kind: Revoke, Lease: lease}
		w.do(op, true, func(ctx context.Context) error {
			_, err := w.client.Revoke(ctx, clientv3.LeaseID(lease))
			return err
		})
		w.lease = 0
	default:
		w.lease = 0
	}
}

func (w *worker) grant() {
	w.grants++
	op := &Op{Kind: Grant, Lease: int64(w.id+1)<<32 | w.grants, TTL: w.run.load.LeaseTTL}
	w.do(op, true, func(ctx context.Context) error {
		request := &pb.LeaseGrantRequest{ID: op.Lease, TTL: op.TTL} // the client's own Grant leaves the choice to the member
		resp, err := pb.NewLeaseClient(w.client.ActiveConnection()).LeaseGrant(ctx, request)
		if err == nil {
			op.TTL = resp.TTL
		}
		return err
	})
	if op.Outcome == Done {
		w.lease = op.Lease
	}
}

func pairs(kvs []*mvccpb.KeyValue) []KV {
	var out []KV
	for _, kv := range kvs {
		out = append(out, pair(kv))
	}
	return out
}

func pair(kv *mvccpb.KeyValue) KV {
	return KV{
		Key: string(kv.Key), Value: string(kv.Value), Create: kv.CreateRevision, Mod: kv.ModRevision,
		Version: kv.Version, Lease: kv.Lease,
	}
}
