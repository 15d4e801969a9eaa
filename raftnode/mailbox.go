package raftnode

import "sync"

// mailbox is an unbounded queue with one reader, who waits on wake. Several mailboxes may share one wake channel.
type mailbox[T any] struct {
	mu    sync.Mutex
	items []T
	wake  chan struct{} // capacity 1: a token means that something may be waiting
}

func newMailbox[T any](wake chan struct{}) *mailbox[T] {
	if wake == nil {
		wake = make(chan struct{}, 1)
	}
	return &mailbox[T]{wake: wake}
}

func (m *mailbox[T]) put(items ...T) {
	m.mu.Lock()
	m.items = append(m.items, items...)
	m.mu.Unlock()
	signal(m.wake)
}

// take returns everything that waits. The reader gives back the slice it got before, which is then reused.
func (m *mailbox[T]) take(used []T) []T {
	clear(used)
	m.mu.Lock()
	defer m.mu.Unlock()
	items := m.items
	m.items = used[:0]
	return items
}

func signal(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}
