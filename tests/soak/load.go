package soak

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

const (
	keys       = 2000
	valueBytes = 512
	history    = 2000 // revisions that compaction leaves
)

// load keeps a cluster busy until its context ends. All of it comes and goes: clients, watchers, leases.
type load struct {
	cluster  *proc.Cluster
	work     sync.WaitGroup
	requests atomic.Int64
	failed   atomic.Int64
	events   atomic.Int64
}

func startLoad(ctx context.Context, c *proc.Cluster) *load {
	l := &load{cluster: c}
	for i := range 8 {
		random := rand.New(rand.NewPCG(uint64(i), 1))
		l.work.Go(func() { l.clients(ctx, random) })
	}
	for i := range 4 {
		random := rand.New(rand.NewPCG(uint64(i), 2))
		l.work.Go(func() { l.watchers(ctx, random) })
	}
	l.work.Go(func() { l.maintain(ctx) })
	return l
}

// connect makes a client of its own, which the caller closes: connections are part of what must not leak.
func (l *load) connect(random *rand.Rand) *clientv3.Client {
	m := l.cluster.Members[random.IntN(len(l.cluster.Members))]
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{m.ClientURL}, Logger: zap.NewNop()})
	if err != nil {
		panic(err) // the address is one of ours
	}
	return client
}

func (l *load) count(err error) {
	l.requests.Add(1)
	if err != nil {
		l.failed.Add(1)
	}
}

// clients connects, makes some hundred requests and goes away, again and again.
func (l *load) clients(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		client := l.connect(random)
		var lease clientv3.LeaseID
		if granted, err := client.Grant(ctx, 5); err == nil {
			lease = granted.ID
		}
		for range 300 {
			if ctx.Err() != nil {
				break
			}
			l.count(request(ctx, client, random, lease))
		}
		if random.IntN(2) == 0 {
			_, err := client.Revoke(ctx, lease)
			l.count(err)
		}
		client.Close()
	}
}

// key returns one of the same few keys each time.
func key(random *rand.Rand) string { return fmt.Sprintf("soak/%04d", random.IntN(keys)) }

func request(ctx context.Context, client *clientv3.Client, random *rand.Rand, lease clientv3.LeaseID) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var err error
	value := strings.Repeat(string(rune('a'+random.IntN(26))), valueBytes)
	switch n := random.IntN(20); {
	case n < 9:
		_, err = client.Put(ctx, key(random), value)
	case n < 14:
		_, err = client.Get(ctx, key(random))
	case n < 15:
		_, err = client.Get(ctx, "soak/", clientv3.WithPrefix(), clientv3.WithLimit(100))
	case n < 16:
		_, err = client.Delete(ctx, key(random))
	case n < 17 && lease != 0:
		_, err = client.Put(ctx, "leased/"+key(random), value, clientv3.WithLease(lease))
	case n < 18 && lease != 0:
		_, err = client.KeepAliveOnce(ctx, lease)
	default:
		k := key(random)
		_, err = client.Txn(ctx).If(clientv3.Compare(clientv3.Version(k), ">", 0)).
			Then(clientv3.OpPut(k, value)).Else(clientv3.OpPut(k, value), clientv3.OpGet("soak/0000")).Commit()
	}
	return err
}

// watchers opens a few watches, listens for a second or two and cancels them, in turn by hanging up and in good order.
func (l *load) watchers(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		client := l.connect(random)
		once, cancel := context.WithTimeout(ctx, time.Duration(200+random.IntN(1500))*time.Millisecond)
		var listening sync.WaitGroup
		for range 5 {
			events := client.Watch(once, "soak/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithProgressNotify())
			listening.Go(func() {
				for resp := range events {
					l.events.Add(int64(len(resp.Events)))
				}
			})
		}
		listening.Wait()
		cancel()
		client.Close()
	}
}

// maintain compacts twice a second, and now and then defragments, takes a snapshot or moves the lead.
func (l *load) maintain(ctx context.Context) {
	random := rand.New(rand.NewPCG(0, 3))
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		client := l.connect(random)
		if resp, err := client.Get(ctx, "soak/0000"); err == nil && resp.Header.Revision > history {
			_, err = client.Compact(ctx, resp.Header.Revision-history)
			l.count(err)
		}
		switch url := client.Endpoints()[0]; random.IntN(6) {
		case 0:
			_, err := client.Defragment(ctx, url)
			l.count(err)
		case 1:
			l.count(l.snapshot(ctx, client, random.IntN(2) == 0))
		case 2:
			l.count(moveLead(ctx, client, url))
		}
		client.Close()
	}
}

// snapshot reads a whole snapshot, or hangs up in the middle.
func (l *load) snapshot(ctx context.Context, client *clientv3.Client, whole bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := client.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	if !whole {
		_, err = io.CopyN(io.Discard, r, 1<<10)
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

// moveLead has the member at url give the lead to another, if it has it.
func moveLead(ctx context.Context, client *clientv3.Client, url string) error {
	status, err := client.Status(ctx, url)
	if err != nil || status.Leader != status.Header.MemberId {
		return err
	}
	list, err := client.MemberList(ctx)
	if err != nil {
		return err
	}
	for _, m := range list.Members {
		if m.ID != status.Leader {
			_, err = client.MoveLeader(ctx, m.ID)
			break
		}
	}
	return err
}
