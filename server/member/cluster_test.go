package member

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend"
)

func add(id uint64, url string) Change {
	return Change{Type: raftpb.ConfChangeAddNode, Member: Member{ID: id, PeerURLs: []string{url}}}
}

func learner(id uint64, url string) Change {
	c := add(id, url)
	c.Type, c.Member.IsLearner = raftpb.ConfChangeAddLearnerNode, true
	return c
}

func promote(id uint64) Change {
	return Change{Type: raftpb.ConfChangeAddNode, Promote: true, Member: Member{ID: id}}
}

func remove(id uint64) Change {
	return Change{Type: raftpb.ConfChangeRemoveNode, Member: Member{ID: id}}
}

func update(id uint64, url string) Change {
	return Change{Type: raftpb.ConfChangeUpdateNode, Member: Member{ID: id, PeerURLs: []string{url}}}
}

// Changes in order, each refused or applied; at the end memory and buckets agree.
func TestChanges(t *testing.T) {
	b, err := backend.Open(backend.Config{Path: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c := New(1, 1)
	for i, step := range []struct {
		change Change
		want   error
	}{
		{add(1, "http://a:1"), nil},
		{add(1, "http://x:1"), ErrIDExists},
		{add(2, "http://a:1"), ErrPeerURLExists},
		{add(2, "http://b:1"), nil},
		{promote(2), ErrNotLearner},
		{promote(9), ErrMemberNotFound},
		{learner(3, "http://c:1"), nil},
		{update(3, "http://a:1"), ErrPeerURLExists},
		{update(3, "http://c:1"), nil}, // its own URL
		{update(3, "http://c:2"), nil},
		{promote(3), nil},
		{promote(3), ErrNotLearner},
		{remove(2), nil},
		{remove(2), ErrIDRemoved},
		{add(2, "http://b:1"), ErrIDRemoved},
		{add(4, "http://b:1"), nil}, // the URL is free again
		{remove(9), ErrMemberNotFound},
		{update(9, "http://z:1"), ErrMemberNotFound},
	} {
		if got := c.Check(step.change); !errors.Is(got, step.want) {
			t.Fatalf("step %d: %v, want %v", i, got, step.want)
		} else if got != nil {
			continue
		}
		batch := b.Begin()
		c.Apply(batch, step.change)
		batch.Commit(uint64(i+1), 1)
	}
	batch := b.Begin()
	c.SetAttributes(batch, 1, "one", []string{"http://a:2"})
	c.SetAttributes(batch, 2, "gone", nil)
	c.SetVersion(batch, "3.7.0")
	batch.Commit(100, 1)
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	view := b.View()
	defer view.Close()
	loaded := New(1, 1)
	if err := loaded.Load(view.ScanBucket); err != nil {
		t.Fatal(err)
	}
	want := []Member{
		{ID: 1, PeerURLs: []string{"http://a:1"}, Name: "one", ClientURLs: []string{"http://a:2"}},
		{ID: 3, PeerURLs: []string{"http://c:2"}},
		{ID: 4, PeerURLs: []string{"http://b:1"}},
	}
	same := func(a, b Member) bool { return string(a.Value()) == string(b.Value()) }
	for _, one := range []*Cluster{c, loaded} {
		if got := one.Members(); !slices.EqualFunc(got, want, same) {
			t.Errorf("members %+v, want %+v", got, want)
		}
		if !one.IsRemoved(2) || one.Version() != "3.7.0" {
			t.Errorf("removed %v, version %q", one.Removed(), one.Version())
		}
		if cs := one.ConfState(); !slices.Equal(cs.Voters, []uint64{1, 3, 4}) || len(cs.Learners) != 0 {
			t.Errorf("configuration %v", cs)
		}
	}
}

// A change survives its way through the log, and a context of somebody else does not pass.
func TestChangeEncoding(t *testing.T) {
	for _, c := range []Change{add(5, "http://e:1"), learner(6, "http://f:1"), remove(7), promote(8)} {
		got, err := ParseChange(c.ConfChange())
		if err != nil || got.Type != c.Type || got.Promote != c.Promote || string(got.Member.Value()) != string(c.Member.Value()) {
			t.Errorf("%+v became %+v, %v", c, got, err)
		}
	}
	cc := add(5, "http://e:1").ConfChange()
	other := uint64(6)
	cc.NodeId = &other
	if _, err := ParseChange(cc); !errors.Is(err, ErrMalformed) {
		t.Errorf("a context of another member: %v", err)
	}
	cc.Context = []byte("{")
	if _, err := ParseChange(cc); !errors.Is(err, ErrMalformed) {
		t.Errorf("a broken context: %v", err)
	}
}

func TestLearnersAreFew(t *testing.T) {
	b, err := backend.Open(backend.Config{Path: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c := New(1, 1)
	if err := c.CheckLearners(); err != nil {
		t.Fatal(err)
	}
	batch := b.Begin()
	c.Apply(batch, learner(1, "http://a:1"))
	batch.Commit(1, 1)
	if err := c.CheckLearners(); !errors.Is(err, ErrTooManyLearners) {
		t.Fatalf("a second learner: %v", err)
	}
}
