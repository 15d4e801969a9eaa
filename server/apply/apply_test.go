package apply

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/mvcc/lease"
	"github.com/upkeep-kv/upkeep/mvcc/watch"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/quota"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/server/auth"
	"github.com/upkeep-kv/upkeep/server/member"
	"github.com/upkeep-kv/upkeep/server/schedule"
)

type noObserver struct{}

func (noObserver) EntryBegins()                                       {}
func (noObserver) CommandApplied(*pb.InternalRaftRequest, any, error) {}
func (noObserver) Restoring(bool)                                     {}

// machine is a Machine on a store of its own, and the next log index.
type machine struct {
	*Machine
	index uint64
}

func newMachine(t *testing.T, path string) *machine {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := backend.Open(backend.Config{Path: path})
	must(err)
	t.Cleanup(func() { b.Close() })
	store, err := mvcc.Open(b, mvcc.Config{})
	must(err)
	t.Cleanup(store.Close)
	lessor, err := lease.Open(b, lease.Config{MinTTL: 2})
	must(err)
	t.Cleanup(lessor.Close)
	store.AttachedLeases(lessor.Attach)
	hub := watch.NewHub(store, watch.Config{})
	t.Cleanup(hub.Close)
	view := b.View()
	defer view.Close()
	alarms, err := quota.Load(view)
	must(err)
	timeline := &Timeline{}
	must(timeline.Load(view))
	agreed := schedule.New()
	must(agreed.Load(view))
	members := member.New(1, 1)
	must(members.Load(view.ScanBucket))
	users, err := auth.Open(b, auth.Config{BcryptCost: 4})
	must(err)
	t.Cleanup(users.Close)
	m := New(Config{
		Backend: b, Store: store, Hub: hub, Lessor: lessor, Alarms: alarms, Auth: users, Members: members, Timeline: timeline,
		Schedule: agreed,
		Logger:   zap.NewNop(), MembershipChanged: func() {}, Observer: noObserver{},
	})
	index, _ := b.Durable()
	return &machine{Machine: m, index: index}
}

func (m *machine) apply(commands ...*pb.InternalRaftRequest) []raftnode.Result {
	m.index++
	return m.Apply(raftnode.Entry{Index: m.index, Term: 1, Commands: commands})
}

// TestScripts: each `apply` is one log entry, a command a line as the text form of InternalRaftRequest; the answers
// come back in the same form. `restart` closes everything and opens it again.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		db := filepath.Join(t.TempDir(), "db")
		m := newMachine(t, db)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "apply":
				return m.script(t, d)
			case "samples":
				return m.samples()
			default:
				d.Fatalf(t, "unknown command %q, expected apply or samples", d.Cmd)
				return ""
			}
		})
	})
}

func (m *machine) script(t *testing.T, d *datadriven.TestData) string {
	var commands []*pb.InternalRaftRequest
	for line := range strings.Lines(d.Input) {
		r := &pb.InternalRaftRequest{}
		if err := prototext.Unmarshal([]byte(line), r); err != nil {
			d.Fatalf(t, "%q: %v", line, err)
		}
		commands = append(commands, r)
	}
	var out strings.Builder
	for _, result := range m.apply(commands...) {
		switch value := result.Value.(type) {
		case proto.Message:
			if result.Err == nil {
				// The text form puts in spaces at random.
				text := strings.Join(strings.Fields(prototext.MarshalOptions{}.Format(value)), " ")
				fmt.Fprintf(&out, "%s: %s\n", value.ProtoReflect().Descriptor().Name(), text)
				continue
			}
		case Authenticated:
			if result.Err == nil {
				fmt.Fprintf(&out, "authenticated %s at revision %d, token %q\n", value.Identity.Username, value.Identity.Revision, value.Token)
				continue
			}
		case CompactResult:
			if result.Err == nil {
				<-value.Done()
				fmt.Fprintln(&out, "compacted")
				continue
			}
		}
		fmt.Fprintln(&out, "error:", result.Err)
	}
	fmt.Fprintf(&out, "revision %d\n", m.Store.Revision())
	return out.String()
}

func (m *machine) samples() string {
	var out strings.Builder
	for _, s := range m.Timeline.mu.samples {
		fmt.Fprintf(&out, "%d: revision %d\n", s.Time.UnixNano(), s.Revision)
	}
	return out.String()
}

// Everything that is applied is there after a restart, and the entry's index with it.
func TestRestart(t *testing.T) {
	db := filepath.Join(t.TempDir(), "db")
	first := newMachine(t, db)
	first.apply(&pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{ID: 7, TTL: 60}})
	first.apply(&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("a"), Value: []byte("1"), Lease: 7}},
		&pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
			Action: pb.AlarmRequest_ACTIVATE, MemberID: 9, Alarm: pb.AlarmType_NOSPACE,
		}},
		&pb.InternalRaftRequest{RetentionSample: &pb.RetentionSampleRequest{TimeUnixNano: 100}})
	first.Store.Close()
	if err := first.Backend.Close(); err != nil {
		t.Fatal(err)
	}
	second := newMachine(t, db)
	if second.index != 2 || second.Durable() != 2 {
		t.Fatalf("applied up to %d after the restart, want 2", second.index)
	}
	keys, err := second.Lessor.Keys(7)
	if err != nil || len(keys) != 1 || keys[0] != "a" {
		t.Fatalf("keys of the lease: %v, %v", keys, err)
	}
	if !second.Alarms.Raised(quota.Alarm{Member: 9, Type: pb.AlarmType_NOSPACE}) {
		t.Fatal("the alarm is gone")
	}
	if got := second.samples(); got != "100: revision 2\n" {
		t.Fatalf("samples: %q", got)
	}
}

// A state that is received brings its users along.
func TestRestoreBringsUsers(t *testing.T) {
	sent := filepath.Join(t.TempDir(), "db")
	from := newMachine(t, sent)
	from.apply(&pb.InternalRaftRequest{AuthUserAdd: &pb.AuthUserAddRequest{Name: "ann"}})
	from.Store.Close()
	if err := from.Backend.Close(); err != nil {
		t.Fatal(err)
	}
	to := newMachine(t, filepath.Join(t.TempDir(), "db"))
	to.apply(&pb.InternalRaftRequest{AuthUserAdd: &pb.AuthUserAddRequest{Name: "bob"}})
	if err := to.Restore(sent, 1, 1); err != nil {
		t.Fatal(err)
	}
	if users := to.Auth.UserList(); len(users) != 1 || users[0] != "ann" {
		t.Fatalf("users after the transfer: %v", users)
	}
}
