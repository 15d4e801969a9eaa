package metrics

import (
	"maps"
	"sync"
	"sync/atomic"
)

// cache keeps what is looked up by labels on every request. A read is one atomic load and one map access, without
// allocation; a first use copies the map, which stays small because labels are few.
type cache[K comparable, V any] struct {
	current atomic.Pointer[map[K]V]
	mu      sync.Mutex // held while a new map is made
}

func (c *cache[K, V]) get(key K, build func(K) V) V {
	if m := c.current.Load(); m != nil {
		if v, ok := (*m)[key]; ok {
			return v
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := map[K]V{}
	if m := c.current.Load(); m != nil {
		if v, ok := (*m)[key]; ok {
			return v
		}
		next = maps.Clone(*m)
	}
	next[key] = build(key)
	c.current.Store(&next)
	return next[key]
}
