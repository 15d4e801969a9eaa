package lease

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/leasepb"
)

// This file changes replicated state. Nothing here may depend on the clock or on who leads, but for what the leader
// keeps for itself.

// Bucket lease, as etcd writes it:
//
//	key    id, int64 big endian
//	value  leasepb.Lease{ID, TTL, RemainingTTL}
func encodeValue(lease Lease) []byte {
	value, err := (&leasepb.Lease{ID: lease.ID, TTL: lease.TTL, RemainingTTL: lease.RemainingTTL}).MarshalVT()
	if err != nil {
		panic(fmt.Sprintf("lease: encoding three integers: %v", err))
	}
	return value
}

func encodeID(id int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(id)) }

func decode(value []byte) (id, ttl, remaining int64, err error) {
	var pb leasepb.Lease
	if err := pb.UnmarshalVT(value); err != nil {
		return 0, 0, 0, fmt.Errorf("lease: bad record %x in bucket lease: %w", value, err)
	}
	return pb.ID, min(pb.TTL, MaxTTL), min(pb.RemainingTTL, MaxTTL), nil
}

// Grant makes a lease and returns it; its TTL may be more than asked for. ErrNotFound for id 0, which stands for no
// lease; ErrTTLTooLarge; ErrExists.
func (l *Lessor) Grant(batch Batch, id, ttlSeconds int64) (*Lease, error) {
	switch {
	case id == 0:
		return nil, ErrNotFound
	case ttlSeconds > MaxTTL:
		return nil, ErrTTLTooLarge
	}
	lease := Lease{ID: id, TTL: max(ttlSeconds, l.cfg.MinTTL)}
	if err := l.add(newItem(lease)); err != nil {
		return nil, err
	}
	batch.Put(backend.Lease, encodeID(id), encodeValue(lease))
	l.cfg.Granted(lease.TTL)
	return &lease, nil
}

func (l *Lessor) add(it *item) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leases[it.ID] != nil {
		return ErrExists
	}
	l.leases[it.ID] = it
	if l.primary {
		l.startLocked(it, time.Now(), time.Duration(it.TTL)*time.Second)
		l.wakeLocked(it)
	}
	return nil
}

// Remove forgets a lease and which keys were attached to it. The caller has deleted those. An unknown id is nothing.
func (l *Lessor) Remove(batch Batch, id int64) {
	if !l.drop(id) {
		return
	}
	l.keys.dropLease(id)
	batch.Delete(backend.Lease, encodeID(id))
	l.cfg.Revoked()
}

func (l *Lessor) drop(id int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	it := l.leases[id]
	if it == nil {
		return false
	}
	delete(l.leases, id)
	l.expiry.remove(it)
	l.due.remove(it)
	it.releaseWaiters()
	return true
}

// Checkpoint notes how much time a lease had left when its leader proposed this; 0 takes an earlier note back. An
// unknown id is nothing.
func (l *Lessor) Checkpoint(batch Batch, id, remainingSeconds int64) {
	l.mu.Lock()
	it := l.leases[id]
	if it == nil {
		l.mu.Unlock()
		return
	}
	it.RemainingTTL = min(max(remainingSeconds, 0), it.TTL)
	if it.RemainingTTL == 0 {
		it.noted = false
		it.releaseWaiters()
	}
	lease := it.Lease
	l.mu.Unlock()
	if l.cfg.CheckpointPersist {
		batch.Put(backend.Lease, encodeID(id), encodeValue(lease))
	}
}

// Attach moves a key to a lease, from whichever it was attached to. If there is no such lease, the key is attached to
// none.
func (l *Lessor) Attach(key string, id int64) {
	if !l.Exists(id) {
		id = 0
	}
	l.keys.attach(key, id)
}

// Detach ends the attachment of a key to a lease; it is nothing if the key is attached to another one.
func (l *Lessor) Detach(key string, id int64) { l.keys.detach(key, id) }

// Keys returns the keys attached to a lease, sorted. The caller owns the slice. ErrNotFound.
func (l *Lessor) Keys(id int64) ([]string, error) {
	if !l.Exists(id) {
		return nil, ErrNotFound
	}
	return l.keys.of(id), nil
}
