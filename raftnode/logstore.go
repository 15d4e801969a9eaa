package raftnode

import (
	"fmt"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// logStore is the part of the log that is durable in the WAL and still kept in memory, for raft to read. The append
// goroutine adds to it, the loop reads and trims it, the apply goroutine publishes how far it has come.
type logStore struct {
	initialState *raftpb.HardState
	initialConf  *raftpb.ConfState

	mu sync.Mutex
	// Guarded by mu. ents[i] has index base+1+i; baseTerm is the term of base. bytes is the sum of the entries' data,
	// total that of all that were ever appended.
	base, baseTerm uint64
	ents           []*raftpb.Entry
	bytes, total   uint64
	// The state that a snapshot would have now.
	applied, appliedTerm uint64
	conf                 *raftpb.ConfState
}

var _ raft.Storage = (*logStore)(nil)

func (s *logStore) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return s.initialState, s.initialConf, nil
}

func (s *logStore) lastLocked() uint64 { return s.base + uint64(len(s.ents)) }

// Entries implements raft.Storage. What it returns is never written to again.
func (s *logStore) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lo <= s.base {
		return nil, raft.ErrCompacted
	}
	if hi > s.lastLocked()+1 {
		return nil, raft.ErrUnavailable
	}
	ents := s.ents[lo-s.base-1 : hi-s.base-1]
	size := uint64(0)
	for i, e := range ents {
		size += entrySize(e)
		if i > 0 && size > maxSize {
			return ents[:i:i], nil
		}
	}
	return ents[:len(ents):len(ents)], nil
}

// entrySize bounds the encoded size from above, without the cost of computing it exactly.
func entrySize(e *raftpb.Entry) uint64 { return uint64(len(e.Data)) + 32 }

func (s *logStore) Term(i uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.termLocked(i)
}

func (s *logStore) termLocked(i uint64) (uint64, error) {
	switch {
	case i < s.base:
		return 0, raft.ErrCompacted
	case i == s.base:
		return s.baseTerm, nil
	case i > s.lastLocked():
		return 0, raft.ErrUnavailable
	}
	return s.ents[i-s.base-1].GetTerm(), nil
}

func (s *logStore) FirstIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base + 1, nil
}

func (s *logStore) LastIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastLocked(), nil
}

// Snapshot tells raft what a snapshot would cover; the state itself is fetched when the message is sent.
func (s *logStore) Snapshot() (*raftpb.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.applied == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		ConfState: proto.Clone(s.conf).(*raftpb.ConfState),
		Index:     new(s.applied),
		Term:      new(s.appliedTerm),
	}}, nil
}

// append adds entries that are durable, replacing what they contradict.
func (s *logStore) append(ents []*raftpb.Entry) error {
	if len(ents) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first := ents[0].GetIndex()
	if first > s.lastLocked()+1 {
		return fmt.Errorf("raftnode: entry %d does not follow entry %d", first, s.lastLocked())
	}
	if first <= s.base {
		skip := s.base + 1 - first
		if skip >= uint64(len(ents)) {
			return nil
		}
		ents, first = ents[skip:], s.base+1
	}
	keep := first - s.base - 1
	for _, e := range s.ents[keep:] {
		s.bytes -= entrySize(e)
	}
	if keep < uint64(len(s.ents)) {
		// Readers may hold what is replaced: copy instead of overwriting.
		s.ents = append(s.ents[:keep:keep], ents...)
	} else {
		s.ents = append(s.ents, ents...)
	}
	for _, e := range ents {
		s.bytes += entrySize(e)
		s.total += entrySize(e)
	}
	return nil
}

// appended is how many bytes of entries were ever appended.
func (s *logStore) appended() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// size is how many bytes of entries are in memory.
func (s *logStore) size() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// reset drops the whole log in favor of a snapshot at index.
func (s *logStore) reset(index, term uint64, conf *raftpb.ConfState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base, s.baseTerm, s.ents, s.bytes = index, term, nil, 0
	s.applied, s.appliedTerm, s.conf = index, term, conf
}

// cut drops the entries up to index, if there are any.
func (s *logStore) cut(index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	term, err := s.termLocked(index)
	if err != nil || index <= s.base {
		return
	}
	for _, e := range s.ents[:index-s.base] {
		s.bytes -= entrySize(e)
	}
	s.ents = append([]*raftpb.Entry(nil), s.ents[index-s.base:]...)
	s.base, s.baseTerm = index, term
}

// publish records how far the state machine has come; a nil conf means that it is as before.
func (s *logStore) publish(applied, term uint64, conf *raftpb.ConfState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied, s.appliedTerm = applied, term
	if conf != nil {
		s.conf = conf
	}
}

// trim drops entries up to limit, but keeps the last keepEntries before it as long as they are not more than keepBytes.
// It copies what stays, so it only sets about it when there is a good deal to drop.
func (s *logStore) trim(limit, keepEntries, keepBytes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit <= s.base || limit > s.lastLocked() {
		return
	}
	to := s.base
	if limit > s.base+keepEntries {
		to = limit - keepEntries
	}
	bytes := s.bytes
	for _, e := range s.ents[:to-s.base] {
		bytes -= entrySize(e)
	}
	for ; to < limit && bytes > keepBytes; to++ {
		bytes -= entrySize(s.ents[to-s.base])
	}
	dropped := to - s.base
	if dropped < max(1, min(100, keepEntries/4)) && s.bytes <= keepBytes+keepBytes/4 {
		return
	}
	if dropped == 0 {
		return
	}
	s.baseTerm = s.ents[dropped-1].GetTerm()
	s.ents = append([]*raftpb.Entry(nil), s.ents[dropped:]...)
	s.base, s.bytes = to, bytes
}
