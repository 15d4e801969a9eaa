package simulation

import (
	"context"
	"fmt"
	"hash/crc32"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
	"github.com/upkeep-kv/upkeep/server"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// seen is what has been observed so far and can never become untrue.
type seen struct {
	leaders map[uint64]uint64 // term -> member
	applied map[*server.Server]uint64
	revs    map[*server.Server]int64
	hashes  map[state]hashed
}

// state names a history: the revisions up to one, above a floor.
type state struct{ revision, floor int64 }

type hashed struct {
	hash uint32
	by   string
}

func newSeen() *seen {
	return &seen{leaders: map[uint64]uint64{}, applied: map[*server.Server]uint64{}, revs: map[*server.Server]int64{}, hashes: map[state]hashed{}}
}

// stopped tells whether a server has ended by itself, as one does that was removed.
func stopped(s *server.Server) bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

// check looks at every member that runs.
func (r *run) check() {
	r.t.Helper()
	lowest := int64(0)
	for _, m := range r.up() {
		s := m.Server()
		if stopped(s) {
			r.t.Fatalf("%s stopped by itself: %v", m.Name, s.Err())
		}
		if applied := s.Applied(); applied < r.seen.applied[s] {
			r.t.Fatalf("%s: the applied index went from %d back to %d", m.Name, r.seen.applied[s], applied)
		} else {
			r.seen.applied[s] = applied
		}
		rev := s.Revision()
		if rev < r.seen.revs[s] {
			r.t.Fatalf("%s: the revision went from %d back to %d", m.Name, r.seen.revs[s], rev)
		}
		r.seen.revs[s] = rev
		if lowest == 0 || rev < lowest {
			lowest = rev
		}
		r.checkLeader(m)
		r.figures.checks += 3
	}
	for _, m := range r.up() {
		r.checkHash(m, lowest)
	}
	r.checkRead()
	r.checkLeases()
}

func (r *run) checkLeader(m *cluster.Member) {
	ctx, cancel := context.WithTimeout(context.Background(), r.patience)
	defer cancel()
	status, err := m.Client().Status(ctx, m.ClientURL())
	if err != nil || status.Leader != m.Server().ID() {
		return // only what a leader says of itself is proof
	}
	if other, known := r.seen.leaders[status.RaftTerm]; known && other != status.Leader {
		r.t.Fatalf("term %d has two leaders: %x and %x", status.RaftTerm, other, status.Leader)
	}
	r.seen.leaders[status.RaftTerm] = status.Leader
}

// checkHash compares a member's history with every other one of the same extent ever seen in this run.
func (r *run) checkHash(m *cluster.Member, rev int64) {
	ctx, cancel := context.WithTimeout(context.Background(), r.patience)
	defer cancel()
	h, err := m.Server().HashKV(ctx, rev)
	if err != nil {
		return // compacted meanwhile on this member, or busy with a state transfer
	}
	at := state{rev, h.CompactRevision}
	before, known := r.seen.hashes[at]
	if known && before.hash != h.Hash {
		r.t.Fatalf("history %+v has hash %08x on %s and %08x on %s", at, before.hash, before.by, h.Hash, m.Name)
	}
	r.seen.hashes[at] = hashed{h.Hash, m.Name}
	r.figures.checks++
}

// checkRead reads, through every member, what was acknowledged last: a linearizable read is not older than that.
func (r *run) checkRead() {
	want := r.load.newest()
	if want.revision == 0 {
		return
	}
	for _, m := range r.up() {
		ctx, cancel := context.WithTimeout(context.Background(), r.patience/4)
		resp, err := m.Client().Get(ctx, want.key)
		cancel()
		if err != nil {
			continue // cut off, perhaps
		}
		r.figures.reads++
		if len(resp.Kvs) == 0 || resp.Kvs[0].ModRevision < want.revision {
			r.t.Fatalf("a linearizable read through %s gave %v after %+v was acknowledged", m.Name, resp.Kvs, want)
		}
	}
}

// checkAcknowledged looks for every acknowledged write on every member, at its own revision.
func (r *run) checkAcknowledged() {
	r.t.Helper()
	for _, m := range r.up() {
		floor := m.Server().CompactRevision()
		for _, w := range r.load.all() {
			if w.revision < floor {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), r.patience)
			resp, err := m.Client().Get(ctx, w.key, clientv3.WithRev(w.revision), clientv3.WithSerializable())
			cancel()
			if err != nil {
				r.t.Fatalf("reading %s at revision %d from %s: %v", w.key, w.revision, m.Name, err)
			}
			if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != w.value || resp.Kvs[0].ModRevision != w.revision {
				r.t.Fatalf("acknowledged write %+v is not on %s (floor %d): %v", w, m.Name, floor, resp.Kvs)
			}
			r.figures.checks++
		}
		r.checkVersions(m)
	}
}

// checkVersions bounds how often each key was written: a request whose outcome is not known took place once or never.
func (r *run) checkVersions(m *cluster.Member) {
	for _, key := range r.load.keys {
		ctx, cancel := context.WithTimeout(context.Background(), r.patience)
		resp, err := m.Client().Get(ctx, key, clientv3.WithSerializable())
		cancel()
		if err != nil {
			r.t.Fatalf("reading %s from %s: %v", key, m.Name, err)
		}
		version := int64(0)
		if len(resp.Kvs) > 0 {
			version = resp.Kvs[0].Version
		}
		if least, most := r.load.counts(key); version < least || version > most {
			r.t.Fatalf("%s was written %d times on %s, %d times acknowledged, %d times tried", key, version, m.Name, least, most)
		}
	}
}

// checkLogs compares what the logs of all members hold, after they have stopped.
func (r *run) checkLogs(members []*cluster.Member) {
	r.t.Helper()
	type entry struct {
		what string
		by   string
	}
	entries := map[uint64]entry{}
	for _, m := range members {
		rec, err := wal.Load(vfs.OS{}, filepath.Join(m.DataDir(), "member", "wal"))
		if err != nil {
			r.t.Fatalf("log of %s: %v", m.Name, err)
		}
		for _, e := range rec.Entries {
			if e.GetIndex() > rec.HardState.GetCommit() {
				break
			}
			now := entry{describe(e), m.Name}
			if before, known := entries[e.GetIndex()]; known && before.what != now.what {
				r.t.Fatalf("entry %d is %s on %s and %s on %s", e.GetIndex(), before.what, before.by, now.what, now.by)
			}
			entries[e.GetIndex()] = now
			r.figures.checks++
		}
	}
}

func describe(e *raftpb.Entry) string {
	return fmt.Sprintf("%v of term %d, %d bytes, %08x", e.GetType(), e.GetTerm(), len(e.GetData()), crc32.ChecksumIEEE(e.GetData()))
}
