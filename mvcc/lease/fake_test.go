package lease

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
)

// disk is bucket lease in memory.
type disk map[string][]byte

func (d disk) Put(bucket backend.Bucket, key, value []byte) {
	if bucket != backend.Lease {
		panic("put to bucket " + bucket.Name())
	}
	d[string(key)] = value
}

func (d disk) Delete(bucket backend.Bucket, key []byte) {
	if bucket != backend.Lease {
		panic("delete in bucket " + bucket.Name())
	}
	delete(d, string(key))
}

func (d disk) load(fn func(id, ttl, remaining int64)) error {
	for _, value := range d {
		id, ttl, remaining, err := decode(value)
		if err != nil {
			return err
		}
		fn(id, ttl, remaining)
	}
	return nil
}

func openFake(t testing.TB, d disk, cfg Config) *Lessor {
	t.Helper()
	l, err := open(d.load, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// valid checks the lessor's invariants.
func (l *Lessor) valid() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, s := range []*schedule{&l.expiry, &l.due} {
		for i, it := range s.items {
			if it.slots[s.kind].at != i || l.leases[it.ID] != it {
				return fmt.Errorf("lease %d at %d of schedule %d says %d", it.ID, i, s.kind, it.slots[s.kind].at)
			}
			if i > 0 && s.Less(i, (i-1)/2) {
				return fmt.Errorf("schedule %d is no heap at %d", s.kind, i)
			}
		}
	}
	if !l.primary && l.expiry.Len()+l.due.Len() > 0 {
		return errors.New("not primary, and something is scheduled")
	}
	for id, it := range l.leases {
		if it.ID != id || !l.primary && it.takenBack != nil {
			return fmt.Errorf("lease %d under id %d, or somebody waits for it", it.ID, id)
		}
		if s := it.slots[expirySchedule]; l.primary && s.at != absent && s.when.After(it.deadline) && time.Now().Before(it.deadline) {
			return fmt.Errorf("lease %d runs out at %v and is looked at at %v", id, it.deadline, s.when)
		}
	}
	return l.keys.valid()
}

func (a *attachments) valid() error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	n := 0
	for id, set := range a.byLease {
		if id == 0 || len(set) == 0 {
			return fmt.Errorf("lease %d holds a set of %d keys", id, len(set))
		}
		n += len(set)
		for key := range set {
			if a.byKey[key] != id {
				return fmt.Errorf("key %q of lease %d says %d", key, id, a.byKey[key])
			}
		}
	}
	if n != len(a.byKey) {
		return fmt.Errorf("%d keys in sets, %d in all", n, len(a.byKey))
	}
	return nil
}

func (d disk) dump() string {
	var lines []string
	for key, value := range d {
		lines = append(lines, fmt.Sprintf("%x: %x\n", key, value))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
