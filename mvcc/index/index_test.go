package index

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/upkeep-kv/upkeep/mvcc/revision"
)

// TestScripts runs the scripts of testdata; -rewrite writes the answers anew.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{index: New()}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out := s.run(t, d)
			check(t, s.index)
			return out
		})
	})
}

// check fails the test if an invariant of any entry is broken.
func check(t *testing.T, x *Index) {
	t.Helper()
	last := ""
	x.tree.Ascend(func(it item) bool {
		if err := it.entry.valid(); err != nil {
			t.Fatalf("key %q: %v", it.key, err)
		}
		if it.key <= last {
			t.Fatalf("key %q after %q", it.key, last)
		}
		last = it.key
		return true
	})
}

type script struct {
	index *Index
}

// run obeys one command:
//
//	txn rev=N          lines: put KEY [LEASE] | delete KEY
//	get rev=N KEY…     range rev=N key= end= [limit=]     count rev=N key= end=
//	compact rev=N      live rev=N upto=N                  dump
//	leases             reload shards=N (through loaders, as at a restart)
func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	var out strings.Builder
	switch d.Cmd {
	case "txn":
		s.txn(t, d, &out)
	case "get":
		for _, arg := range d.CmdArgs[1:] {
			f, ok := s.index.Get([]byte(arg.Key), number(t, d, "rev"))
			describe(&out, arg.Key, f, ok)
		}
	case "range":
		limit := 1 << 30
		maybe(t, d, "limit", &limit)
		span := scanSpan(t, d)
		var found []Found
		for !span.Done() && limit > len(found) {
			found = s.index.Collect(found, &span, number(t, d, "rev"), limit-len(found))
		}
		for _, f := range found {
			describe(&out, f.Key, f, true)
		}
		fmt.Fprintf(&out, "done=%v\n", span.Done())
	case "count":
		fmt.Fprintln(&out, s.index.Count(scanSpan(t, d), number(t, d, "rev")))
	case "compact":
		kept, err := s.index.Compact(context.Background(), number(t, d, "rev"))
		fmt.Fprintf(&out, "kept %v, keys %d, removed %d, error %v\n", kept.Revisions, kept.Keys, kept.Removed, err)
	case "live":
		live, any, err := s.index.Live(context.Background(), number(t, d, "rev"), number(t, d, "upto"))
		fmt.Fprintf(&out, "%v, any %v, error %v\n", live.Revisions, any, err)
	case "leases":
		s.index.Leases(func(key string, lease int64) { fmt.Fprintf(&out, "%s: %d\n", key, lease) })
	case "reload":
		s.reload(int(number(t, d, "shards")))
	case "dump":
		dump(&out, s.index)
	default:
		d.Fatalf(t, "unknown command")
	}
	return out.String()
}

func (s *script) txn(t *testing.T, d *datadriven.TestData, out *strings.Builder) {
	rev := revision.Revision{Main: number(t, d, "rev")}
	for line := range strings.Lines(d.Input) {
		words := strings.Fields(line)
		switch words[0] {
		case "put":
			var lease int64
			if len(words) > 2 {
				fmt.Sscan(words[2], &lease)
			}
			created, version, prev := s.index.Put([]byte(words[1]), rev, lease)
			fmt.Fprintf(out, "%v: created %d, version %d, lease before %d\n", rev, created, version, prev)
			rev.Sub++
		case "delete":
			prev, ok := s.index.Delete(words[1], rev)
			if !ok {
				fmt.Fprintf(out, "no such key\n")
				break
			}
			fmt.Fprintf(out, "%v: deleted, lease before %d\n", rev, prev)
			rev.Sub++
		default:
			d.Fatalf(t, "unknown line %q", line)
		}
	}
}

// reload replays what is left of the index into loaders, as opening a store does.
func (s *script) reload(shards int) {
	loaders := make([]*Loader, shards)
	for i := range loaders {
		loaders[i] = NewLoader()
	}
	s.index.tree.Ascend(func(it item) bool {
		l := loaders[len(it.key)%shards]
		for _, c := range it.entry.history() {
			if c.deletion() {
				l.Delete([]byte(it.key), c.revision())
			} else {
				// What a put that is not the newest said of itself plays no part.
				l.Put([]byte(it.key), c.revision(), 1, 1, 0)
			}
		}
		if e := it.entry; e.deleted() {
			l.Delete([]byte(it.key), e.newest)
		} else {
			l.Put([]byte(it.key), e.newest, e.created, e.version, e.lease)
		}
		return true
	})
	s.index = Build(loaders...)
}

func number(t *testing.T, d *datadriven.TestData, name string) (n int64) {
	d.ScanArgs(t, name, &n)
	return n
}

func maybe(t *testing.T, d *datadriven.TestData, name string, into any) {
	if d.HasArg(name) {
		d.ScanArgs(t, name, into)
	}
}

func scanSpan(t *testing.T, d *datadriven.TestData) Span {
	var key, end string
	d.ScanArgs(t, "key", &key)
	maybe(t, d, "end", &end)
	if end == `\0` {
		end = "\x00"
	}
	return NewSpan([]byte(key), []byte(end))
}

func describe(out *strings.Builder, key string, f Found, ok bool) {
	if !ok {
		fmt.Fprintf(out, "%s: none\n", key)
		return
	}
	fmt.Fprintf(out, "%s: %v created %d version %d lease %d\n", key, f.Rev, f.Created, f.Version, f.Lease)
}

func dump(out *strings.Builder, x *Index) {
	x.tree.Ascend(func(it item) bool {
		fmt.Fprintf(out, "%s:", it.key)
		for _, c := range append(it.entry.history(), makeChange(it.entry.newest, it.entry.deleted())) {
			fmt.Fprintf(out, " %v", c.revision())
			if c.deletion() {
				out.WriteString("(deletion)")
			}
		}
		fmt.Fprintf(out, " created %d version %d lease %d\n", it.entry.created, it.entry.version, it.entry.lease)
		return true
	})
}

// A span longer than one hold of the lock is continued where it stopped, also
// when the keys around that place change in between.
func TestLongRangesAreVisitedInPieces(t *testing.T) {
	const keys = 2*visitsPerHold + 7
	x := New()
	for i := range keys {
		x.Put(fmt.Appendf(nil, "%08d", i), revision.Revision{Main: 2, Sub: int64(i)}, 0)
	}
	all := NewSpan([]byte("0"), []byte{0})
	if n := x.Count(all, 2); n != keys {
		t.Errorf("counted %d keys, want %d", n, keys)
	}
	var found []Found
	holds := 0
	for span := all; !span.Done(); holds++ {
		found = x.Collect(found, &span, 2, keys)
		// The next key in line goes, and one that a read at 2 must not see comes.
		x.Delete(fmt.Sprintf("%08d", len(found)), revision.Revision{Main: 3, Sub: int64(holds)})
		x.Put(fmt.Appendf(nil, "%08d-new", len(found)), revision.Revision{Main: 3, Sub: int64(100 + holds)}, 0)
	}
	if len(found) != keys || holds != 3 {
		t.Errorf("collected %d keys in %d holds, want %d in 3", len(found), holds, keys)
	}
	kept, err := x.Compact(context.Background(), 4)
	if err != nil || kept.Removed != 2 || x.Len() != keys+3-2 || len(kept.Revisions) != x.Len() {
		t.Errorf("compacted to %d revisions and %d keys, %d removed (%v)", len(kept.Revisions), x.Len(), kept.Removed, err)
	}
	check(t, x)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := x.Compact(ctx, 4); err == nil {
		t.Error("a cancelled compaction went on")
	}
}

// The index must not hold on to the caller's bytes.
func TestKeysAreCopied(t *testing.T) {
	key := []byte("mine")
	x, l := New(), NewLoader()
	x.Put(key, revision.Revision{Main: 2}, 0)
	l.Put(key, revision.Revision{Main: 2}, 2, 1, 0)
	indexes := map[string]*Index{"put": x, "load": Build(l)}
	copy(key, "gone")
	for name, x := range indexes {
		if f, ok := x.Get([]byte("mine"), 2); !ok || !bytes.Equal([]byte(f.Key), []byte("mine")) {
			t.Errorf("%s: the key changed with the caller's slice", name)
		}
	}
}
