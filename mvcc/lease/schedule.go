package lease

import (
	"container/heap"
	"time"
)

// scheduleKind says which of its slots an item uses in a schedule.
type scheduleKind int

const (
	expirySchedule scheduleKind = iota
	checkpointSchedule
	schedules
)

// absent is the position of an item that is not in a schedule.
const absent = -1

// slot is an item's place in a schedule.
type slot struct {
	when time.Time // to look at it; never later than what it is looked at for
	at   int       // position in the heap, or absent
}

// schedule is a heap of leases by when to look at them. A deadline that moves later does not move the lease: when looked
// at too early it is put back. That makes a renewal, by far the most common operation, cost no heap operation.
type schedule struct {
	kind  scheduleKind
	items []*item
}

// set puts an item in, or moves it.
func (s *schedule) set(it *item, when time.Time) {
	slot := &it.slots[s.kind]
	slot.when = when
	if slot.at == absent {
		heap.Push(s, it)
	} else {
		heap.Fix(s, slot.at)
	}
}

func (s *schedule) has(it *item) bool { return it.slots[s.kind].at != absent }

func (s *schedule) remove(it *item) {
	if s.has(it) {
		heap.Remove(s, it.slots[s.kind].at)
	}
}

// next returns the item to look at next and when; nil if there is none.
func (s *schedule) next() (*item, time.Time) {
	if len(s.items) == 0 {
		return nil, time.Time{}
	}
	return s.items[0], s.items[0].slots[s.kind].when
}

func (s *schedule) clear() {
	for _, it := range s.items {
		it.slots[s.kind].at = absent
	}
	s.items = nil
}

// Len, Less, Swap, Push and Pop are for package heap.
func (s *schedule) Len() int { return len(s.items) }

func (s *schedule) Less(i, j int) bool {
	a, b := s.items[i], s.items[j]
	if c := a.slots[s.kind].when.Compare(b.slots[s.kind].when); c != 0 {
		return c < 0
	}
	return a.ID < b.ID
}

func (s *schedule) Swap(i, j int) {
	s.items[i], s.items[j] = s.items[j], s.items[i]
	s.items[i].slots[s.kind].at = i
	s.items[j].slots[s.kind].at = j
}

func (s *schedule) Push(x any) {
	it := x.(*item)
	it.slots[s.kind].at = len(s.items)
	s.items = append(s.items, it)
}

func (s *schedule) Pop() any {
	last := len(s.items) - 1
	it := s.items[last]
	s.items[last] = nil
	s.items = s.items[:last]
	it.slots[s.kind].at = absent
	return it
}
