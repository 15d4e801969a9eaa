package simulation

import (
	"context"
	"math/rand/v2"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// holder keeps a lease alive, as a session does, and loses it now and then by coming too late. As long as it was told
// that the lease lives, the key must be there.
type holder struct {
	load *load
	key  string
	ttl  time.Duration
}

// run holds one lease after the other until the load ends.
func (h *holder) run(random *rand.Rand) {
	for {
		if client := h.load.client(random); client != nil {
			h.once(client, random)
		}
		if !h.load.sleep(h.ttl / 4) {
			return
		}
	}
}

func (h *holder) once(client *clientv3.Client, random *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), h.load.patience)
	defer cancel()
	asked := time.Now()
	lease, err := client.Grant(ctx, int64(h.ttl/time.Second))
	if err != nil {
		return
	}
	if _, err := client.Put(ctx, h.key, "held", clientv3.WithLease(lease.ID)); err != nil {
		return
	}
	// However long an answer was on its way, the lease lives from when it was asked for.
	h.load.held(h.key, asked.Add(time.Duration(lease.TTL)*time.Second))
	for range random.IntN(20) {
		if !h.load.sleep(h.ttl / 4) {
			return
		}
		if client = h.load.client(random); client == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), h.load.patience)
		asked := time.Now()
		resp, err := client.KeepAliveOnce(ctx, lease.ID)
		cancel()
		if err == nil && resp.TTL > 0 {
			h.load.held(h.key, asked.Add(time.Duration(resp.TTL)*time.Second))
		}
	}
	h.load.sleep(2 * h.ttl) // it ends by itself
}

// checkLeases reads every key that a lease holds at this moment.
func (r *run) checkLeases() {
	r.t.Helper()
	for key := range r.load.holds() {
		for _, m := range r.up() {
			ctx, cancel := context.WithTimeout(context.Background(), r.patience/4)
			resp, err := m.Client().Get(ctx, key)
			cancel()
			until, holds := r.load.holds()[key]
			if err != nil || !holds || !time.Now().Before(until) {
				continue
			}
			r.figures.checks++
			if len(resp.Kvs) == 0 {
				r.t.Fatalf("%s is gone on %s, %v before its lease ends", key, m.Name, time.Until(until))
			}
		}
	}
}
