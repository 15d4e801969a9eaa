package backend

import (
	"slices"
	"sync"
)

// touch names a key that was changed.
type touch struct {
	bucket Bucket
	key    string
}

// journal notes which keys were touched while a copy of the file is made, so
// that those behind the copy can be read again. It may note too much, never too
// little.
//
// Why nothing is missed: a piece of the copy first calls reading, then opens its
// transaction, and calls reached when it is done with it. A commit records after
// it is durable. If the commit is not in the piece's transaction, it records
// after reading was called and so with no limit, or after reached with a limit
// that covers the piece. If it is in the transaction, the piece copies what the
// commit left. Appended revisions need no note: they lie ahead of the copy,
// which chases the end.
type journal struct {
	mu struct {
		sync.Mutex
		touched map[touch]struct{}
		// limit: of bucket Key only revisions up to limit are noted, all if
		// everything is set, none if limit is empty.
		limit      string
		everything bool
		// drop is set when the state was replaced: a copy of it is worthless.
		drop error
	}
}

// journals are those of all copies in progress.
type journals struct {
	mu   sync.Mutex
	list []*journal
}

func (s *journals) add(j *journal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, j)
}

func (s *journals) remove(j *journal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(s.list, func(other *journal) bool { return other == j })
}

// each calls fn for all. Nothing that fn does may wait.
func (s *journals) each(fn func(*journal)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.list {
		fn(j)
	}
}

func newJournal() *journal {
	j := &journal{}
	j.mu.touched = map[touch]struct{}{}
	return j
}

// record notes a durable transaction. Called by the committer.
func (j *journal) record(small []Op, job *job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, o := range small {
		j.recordLocked(o)
	}
	for _, w := range job.background {
		for _, o := range w.ops {
			j.recordLocked(o)
		}
	}
}

func (j *journal) recordLocked(o Op) {
	if o.Bucket == Key && !j.mu.everything && string(o.Key) > j.mu.limit {
		return
	}
	j.mu.touched[touch{o.Bucket, string(o.Key)}] = struct{}{}
}

// reading lifts the limit: a transaction is about to be opened and copied from.
func (j *journal) reading() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mu.everything = true
}

// reached sets the limit: of bucket Key everything up to key is copied.
func (j *journal) reached(key []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mu.limit, j.mu.everything = string(key), false
}

// take empties the journal. Whoever takes must then open a transaction to read
// the touched keys from: it will have what the noted commits did.
func (j *journal) take() map[touch]struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	touched := j.mu.touched
	j.mu.touched = map[touch]struct{}{}
	return touched
}

// drop ends the copy with an error: the state has become another. Called by the
// committer.
func (j *journal) drop(why error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mu.drop = why
}

// dropped is asked after every piece, since its transaction may be of the other
// state.
func (j *journal) dropped() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.mu.drop
}
