package watch

import "sync"

// commit is one revision on its way to watchers.
type commit struct {
	rev   int64
	batch *batch
}

// feed is the list between the apply goroutine and the dispatcher. It is bounded: when the dispatcher falls too far
// behind, all that waits is dropped, and what it would have told is left to history.
type feed struct {
	mu       sync.Mutex
	commits  []commit
	bytes    int
	lostUpTo int64 // newest dropped revision that the dispatcher was not told of; 0 for none

	maxCommits, maxBytes int
	ready                chan struct{} // holds a token while there may be something
}

func (f *feed) init(maxCommits, maxBytes int) {
	f.maxCommits, f.maxBytes = maxCommits, maxBytes
	f.ready = make(chan struct{}, 1)
}

func (f *feed) push(c commit) {
	f.mu.Lock()
	first := len(f.commits) == 0
	f.commits = append(f.commits, c)
	f.bytes += c.batch.bytes
	// One commit alone always fits.
	if !first && (len(f.commits) > f.maxCommits || f.bytes > f.maxBytes) {
		f.lostUpTo = c.rev
		f.commits, f.bytes = nil, 0
	}
	f.mu.Unlock()
	if first {
		select {
		case f.ready <- struct{}{}:
		default:
		}
	}
}

// take returns all that waits, oldest first, and leaves spare in its place. All commits are above lostUpTo.
func (f *feed) take(spare []commit) (commits []commit, lostUpTo int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	commits, lostUpTo = f.commits, f.lostUpTo
	f.commits, f.bytes, f.lostUpTo = spare[:0], 0, 0
	return commits, lostUpTo
}
