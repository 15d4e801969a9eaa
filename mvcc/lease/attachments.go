package lease

import (
	"slices"
	"sync"
)

// attachments knows which key is attached to which lease. It has a lock of its own, so that copying the keys of a large
// lease does not hold back renewals of others.
//
// Invariant: byKey[k] == id if and only if k is in byLease[id]; no set is empty, no id is 0.
type attachments struct {
	mu      sync.RWMutex
	byKey   map[string]int64
	byLease map[int64]map[string]struct{}
}

func (a *attachments) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.byKey = make(map[string]int64)
	a.byLease = make(map[int64]map[string]struct{})
}

// attach moves the key to a lease; 0 is none.
func (a *attachments) attach(key string, id int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.byKey[key]
	if old == id {
		return
	}
	a.detachLocked(key, old)
	if id == 0 {
		return
	}
	set := a.byLease[id]
	if set == nil {
		set = make(map[string]struct{})
		a.byLease[id] = set
	}
	set[key] = struct{}{}
	a.byKey[key] = id
}

func (a *attachments) detach(key string, id int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byKey[key] == id {
		a.detachLocked(key, id)
	}
}

func (a *attachments) detachLocked(key string, id int64) {
	if id == 0 {
		return
	}
	delete(a.byKey, key)
	set := a.byLease[id]
	delete(set, key)
	if len(set) == 0 {
		delete(a.byLease, id)
	}
}

func (a *attachments) dropLease(id int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key := range a.byLease[id] {
		delete(a.byKey, key)
	}
	delete(a.byLease, id)
}

// of returns the keys of a lease in order.
func (a *attachments) of(id int64) []string {
	a.mu.RLock()
	set := a.byLease[id]
	keys := make([]string, 0, len(set))
	for key := range set {
		keys = append(keys, key)
	}
	a.mu.RUnlock()
	slices.Sort(keys)
	return keys
}
