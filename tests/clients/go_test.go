package clients

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// patience bounds what a test waits for.
const patience = 2 * time.Minute

func TestGoClientPackages(t *testing.T) {
	t.Parallel()
	for name, members := range map[string]int{"upkeep": 3, "etcd": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := ""
			if name == "etcd" {
				program = proc.Peer(t, "etcd")
			} else {
				program = proc.Build(t, "upkeep")
			}
			c := proc.Start(t, program, members)
			for _, part := range []struct {
				name string
				run  func(*testing.T, context.Context, *proc.Cluster)
			}{
				{"mutex", mutexes}, {"election", elections}, {"session", sessions}, {"stm", transactions},
				{"namespace", namespaces}, {"ordering", orders}, {"leasing", leases}, {"mirror", mirrors},
			} {
				t.Run(part.name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					part.run(t, ctx, c)
				})
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func session(t *testing.T, c *clientv3.Client) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(c, concurrency.WithTTL(30))
	check(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// mutexes: of several that want it, one at a time has the lock.
func mutexes(t *testing.T, ctx context.Context, c *proc.Cluster) {
	client := c.Client()
	var held, times atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		m := concurrency.NewMutex(session(t, client), "clients/lock")
		wg.Go(func() {
			for range 3 {
				if err := m.Lock(ctx); err != nil {
					t.Error(err)
					return
				}
				if n := held.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				times.Add(1)
				held.Add(-1)
				if err := m.Unlock(ctx); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := times.Load(); n != 12 {
		t.Errorf("locked %d times", n)
	}
	one, two := concurrency.NewMutex(session(t, client), "clients/try"), concurrency.NewMutex(session(t, client), "clients/try")
	check(t, one.TryLock(ctx))
	if err := two.TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		t.Errorf("a second one got %v", err)
	}
}

func elections(t *testing.T, ctx context.Context, c *proc.Cluster) {
	client := c.Client()
	one := concurrency.NewElection(session(t, client), "clients/election")
	two := concurrency.NewElection(session(t, client), "clients/election")
	check(t, one.Campaign(ctx, "one"))
	seen := two.Observe(ctx)
	is := func(want string) {
		t.Helper()
		for resp := range seen {
			if string(resp.Kvs[0].Value) == want {
				return
			}
		}
		t.Fatalf("%q was never observed", want)
	}
	is("one")
	elected := make(chan error, 1)
	go func() { elected <- two.Campaign(ctx, "two") }()
	check(t, one.Proclaim(ctx, "one again"))
	is("one again")
	check(t, one.Resign(ctx))
	check(t, <-elected)
	is("two")
	if err := one.Proclaim(ctx, "late"); !errors.Is(err, concurrency.ErrElectionNotLeader) {
		t.Errorf("one who resigned proclaims: %v", err)
	}
	_, err := concurrency.NewElection(session(t, client), "clients/nobody").Leader(ctx)
	if !errors.Is(err, concurrency.ErrElectionNoLeader) {
		t.Errorf("the leader of nobody: %v", err)
	}
}

// sessions: what hangs on a session goes with it, and the session learns that its lease is gone.
func sessions(t *testing.T, ctx context.Context, c *proc.Cluster) {
	client := c.Client()
	s := session(t, client)
	_, err := client.Put(ctx, "clients/session", "v", clientv3.WithLease(s.Lease()))
	check(t, err)
	_, err = client.Revoke(ctx, s.Lease())
	check(t, err)
	select {
	case <-s.Done():
	case <-ctx.Done():
		t.Fatal("the session does not end with its lease")
	}
	resp, err := client.Get(ctx, "clients/session")
	check(t, err)
	if resp.Count != 0 {
		t.Error("the key outlived its session")
	}
}

// transactions: money moves between accounts, and none is made or lost. Through one member: what it read from one, the
// package reads on from any other without waiting for it to be as far.
func transactions(t *testing.T, ctx context.Context, c *proc.Cluster) {
	client := c.Members[0].Client()
	for i := range 4 {
		_, err := client.Put(ctx, fmt.Sprint("clients/account", i), "100")
		check(t, err)
	}
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for i := range 8 {
				from, to := fmt.Sprint("clients/account", (n+i)%4), fmt.Sprint("clients/account", (n+2*i+1)%4)
				_, err := concurrency.NewSTM(client, func(s concurrency.STM) error {
					var a, b int
					if _, err := fmt.Sscan(s.Get(from)+" "+s.Get(to), &a, &b); err != nil || from == to {
						return err
					}
					s.Put(from, fmt.Sprint(a-1))
					s.Put(to, fmt.Sprint(b+1))
					return nil
				}, concurrency.WithIsolation(concurrency.SerializableSnapshot), concurrency.WithAbortContext(ctx))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	resp, err := client.Get(ctx, "clients/account", clientv3.WithPrefix())
	check(t, err)
	sum := 0
	for _, kv := range resp.Kvs {
		var n int
		_, err := fmt.Sscan(string(kv.Value), &n)
		check(t, err)
		sum += n
	}
	if sum != 400 {
		t.Errorf("400 became %d", sum)
	}
}

func namespaces(t *testing.T, ctx context.Context, c *proc.Cluster) {
	client, outside := c.Client(), c.Client()
	client.KV = namespace.NewKV(client.KV, "clients/space/")
	client.Watcher = namespace.NewWatcher(client.Watcher, "clients/space/")
	events := client.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-events
	_, err := client.Txn(ctx).If(clientv3.Compare(clientv3.Version("k"), "=", 0)).Then(clientv3.OpPut("k", "v")).Commit()
	check(t, err)
	if e := <-events; len(e.Events) != 1 || string(e.Events[0].Kv.Key) != "k" {
		t.Errorf("inside, the event is %v", e)
	}
	resp, err := outside.Get(ctx, "clients/space/k")
	check(t, err)
	if resp.Count != 1 {
		t.Error("outside, the key is not where it belongs")
	}
}

// orders: a client does not go back in time, whichever member answers.
func orders(t *testing.T, ctx context.Context, c *proc.Cluster) {
	client := c.Client()
	kv := ordering.NewKV(client.KV, func(clientv3.Op, clientv3.OpResponse, int64) error { return nil })
	last := int64(0)
	for i := range 30 {
		_, err := client.Put(ctx, "clients/order", fmt.Sprint(i))
		check(t, err)
		resp, err := kv.Get(ctx, "clients/order", clientv3.WithSerializable())
		check(t, err)
		if resp.Header.Revision < last {
			t.Fatalf("revision %d after %d", resp.Header.Revision, last)
		}
		last = resp.Header.Revision
	}
}

// leases: a leasing client answers from its cache, and learns at once what another one writes.
func leases(t *testing.T, ctx context.Context, c *proc.Cluster) {
	one, closeOne, err := leasing.NewKV(c.Client(), "clients/leasing/")
	check(t, err)
	defer closeOne()
	two, closeTwo, err := leasing.NewKV(c.Client(), "clients/leasing/")
	check(t, err)
	defer closeTwo()
	for i := range 10 {
		_, err := one.Put(ctx, "clients/leased", fmt.Sprint(i))
		check(t, err)
		for _, kv := range []clientv3.KV{one, two, one} {
			resp, err := kv.Get(ctx, "clients/leased")
			check(t, err)
			if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != fmt.Sprint(i) {
				t.Fatalf("%d was put, %v is read", i, resp.Kvs)
			}
		}
		one, two = two, one
	}
}

func mirrors(t *testing.T, ctx context.Context, c *proc.Cluster) {
	client := c.Client()
	for i := range 20 {
		_, err := client.Put(ctx, fmt.Sprintf("clients/mirror/%02d", i), "v")
		check(t, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	syncer := mirror.NewSyncer(client, "clients/mirror/", 0)
	base, failed := syncer.SyncBase(ctx)
	var keys []string
	for resp := range base {
		for _, kv := range resp.Kvs {
			keys = append(keys, string(kv.Key))
		}
	}
	if err := <-failed; err != nil || len(keys) != 20 || !strings.HasSuffix(keys[19], "19") {
		t.Fatalf("the base is %q, %v", keys, err)
	}
	updates := syncer.SyncUpdates(ctx)
	_, err := client.Delete(ctx, "clients/mirror/07")
	check(t, err)
	if resp := <-updates; len(resp.Events) != 1 || resp.Events[0].Type != mvccpb.Event_DELETE {
		t.Errorf("the update is %v", resp)
	}
}
