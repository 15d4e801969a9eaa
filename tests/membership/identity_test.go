package membership

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

const patience = 60 * time.Second

// TestIdentities starts both programs with the same flags; the first entries of their logs hold all IDs.
func TestIdentities(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ name, advertise, initial, token string }{
		"the defaults":       {"default", "http://localhost:2380", "default=http://localhost:2380", "etcd-cluster"},
		"another token":      {"default", "http://localhost:2380", "default=http://localhost:2380", "another token, with blanks"},
		"several URLs":       {"a", "http://127.0.0.1:2,http://127.0.0.1:1", "a=http://127.0.0.1:1,a=http://127.0.0.1:2", "t"},
		"three members":      {"b", "http://127.0.0.1:2", "a=http://127.0.0.1:1,b=http://127.0.0.1:2,c=http://127.0.0.1:3", "t"},
		"in another order":   {"b", "http://127.0.0.1:2", "c=http://127.0.0.1:3,b=http://127.0.0.1:2,a=http://127.0.0.1:1", "t"},
		"other names":        {"x", "http://127.0.0.1:2", "y=http://127.0.0.1:3,x=http://127.0.0.1:2,z=http://127.0.0.1:1", "t"},
		"names with a dash":  {"a-1.b", "http://127.0.0.1:2", "a-1.b=http://127.0.0.1:2", "ü"},
		"capital letters":    {"a", "http://LOCALHOST:2", "a=HTTP://LOCALHOST:2", "t"},
		"a unix socket":      {"a", "unix://localhost:2", "a=unix://localhost:2", "t"},
		"IPv6":               {"a", "http://[::1]:2", "a=http://[::1]:2", "t"},
		"several of several": {"a", "http://127.0.0.1:1,http://localhost:1", "b=http://127.0.0.1:3,a=http://localhost:1,b=http://localhost:3,a=http://127.0.0.1:1", "t"},
	} {
		t.Run(name, func(t *testing.T) {
			var found []string
			for _, program := range []string{proc.Peer(t, "etcd"), proc.Build(t, "upkeep")} {
				listen := fmt.Sprintf("http://127.0.0.1:%d", ports.Free(t, 1)[0])
				m := proc.Prepare(t, program, c.name, filepath.Join(t.TempDir(), "data"), listen,
					"--initial-advertise-peer-urls", c.advertise, "--initial-cluster", c.initial, "--initial-cluster-token", c.token)
				m.Launch()
				found = append(found, identities(t, m))
				m.Kill()
			}
			if found[0] != found[1] {
				t.Errorf("etcd:\n%supkeep:\n%s", found[0], found[1])
			}
		})
	}
}

// identities waits for the log of a member and says whose it is, and who the initial members are.
func identities(t *testing.T, m *proc.Member) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		recovered, err := wal.Load(vfs.OS{}, filepath.Join(m.DataDir, "member", "wal"))
		if err == nil && len(recovered.Entries) > 0 {
			return describe(t, recovered)
		}
		select {
		case <-m.Exited():
			t.Fatalf("it ended:\n%s", m.Output())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("no log: %v", err)
		}
	}
}

func describe(t *testing.T, recovered *wal.Recovered) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "member %x of cluster %x\n", recovered.Metadata.GetNodeID(), recovered.Metadata.GetClusterID())
	for _, e := range recovered.Entries {
		if e.GetType() != raftpb.EntryConfChange {
			continue
		}
		var cc raftpb.ConfChange
		if err := proto.Unmarshal(e.GetData(), &cc); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%d %v %x %s\n", e.GetIndex(), cc.GetType(), cc.GetNodeId(), cc.GetContext())
	}
	return b.String()
}
