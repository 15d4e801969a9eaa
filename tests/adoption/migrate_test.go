package adoption

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestMigrate lets etcd go on from what Upkeep left behind, and Upkeep once more from what etcd left.
func TestMigrate(t *testing.T) {
	for name, l := range map[string]life{
		"one member, killed, to 3.7":        {members: 1, killed: true},
		"one member, users, killed, to 3.6": {members: 1, auth: true, killed: true, program: "etcd-3.6"},
		"one member, alarm, killed, to 3.5": {members: 1, alarm: true, killed: true, program: "etcd-3.5"},
		"three members, to 3.7":             {members: 3},
		"three members, snapshots, to 3.5":  {members: 3, program: "etcd-3.5", flags: []string{"--snapshot-count=25"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l.migrate(t)
		})
	}
}

func (l life) migrate(t *testing.T) {
	upkeep, target := proc.Build(t, "upkeep"), "3.7"
	if l.program == "" {
		l.program = "etcd"
	} else {
		target = strings.TrimPrefix(l.program, "etcd-")
	}
	etcd := proc.Peer(t, l.program)
	c := proc.Start(t, upkeep, l.members, append(l.flags, "--strict-reconfig-check=false")...)
	acknowledged, auth := l.live(t, c)
	clone(t, c, upkeep)
	startAll(c)
	before := pastOf(t, c, auth...)
	endAll(c, l.killed)
	for _, m := range c.Members {
		if l.killed {
			m.Replace(upkeep, strings.TrimSuffix(m.DataDir, "-copy")) // with the end of its log not in its database
		}
	}
	migrateAll(t, c, target)
	migrateAll(t, c, target) // a second time changes nothing
	for _, m := range c.Members {
		m.Replace(etcd, m.DataDir)
	}
	startAll(c)
	compare(t, before, pastOf(t, c, auth...), acknowledged)
	endAll(c, true)
	startAll(c)
	endAll(c, false)
	for _, m := range c.Members {
		m.Replace(upkeep, m.DataDir)
	}
	startAll(c)
	compare(t, before, pastOf(t, c, auth...), acknowledged)
}

// migrateAll does as the walk-through says where a member cannot know whether the end of its log is committed.
func migrateAll(t *testing.T, c *proc.Cluster, target string) {
	t.Helper()
	for range 5 {
		refused := ""
		for _, m := range c.Members {
			out, err := migrate(t, m.DataDir, target)
			switch {
			case err != nil && len(c.Members) > 1 && strings.Contains(out, "does not know whether a majority has them"):
				refused = out
			case err != nil:
				t.Fatalf("%v: %s", err, out)
			}
		}
		if refused == "" {
			return
		}
		t.Log(refused)
		startAll(c)
		endAll(c, false)
	}
	t.Fatal("the cluster does not settle")
}

func migrate(t *testing.T, dir, target string, flags ...string) (string, error) {
	t.Helper()
	args := append([]string{"migrate", "--data-dir", dir, "--target-version", target}, flags...)
	out, err := exec.Command(proc.Build(t, "upkeepctl"), args...).CombinedOutput()
	return string(out), err
}

// TestMigrateUncertain: several writes in one entry, which etcd cannot read, at the end of the log of one of three
// members, of which it does not know whether they came to be.
func TestMigrateUncertain(t *testing.T) {
	t.Parallel()
	c := proc.Start(t, proc.Build(t, "upkeep"), 3)
	if _, err := c.Client().Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	endAll(c, false)
	dir := c.Members[1].DataDir
	batch := &etcdserverpb.InternalRaftRequest{Batch: []*etcdserverpb.InternalRaftRequest{
		{Put: &etcdserverpb.PutRequest{Key: []byte("a")}}, {Put: &etcdserverpb.PutRequest{Key: []byte("b")}},
	}}
	data, err := batch.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	uncommitted(t, dir, data)
	out, err := migrate(t, dir, "3.7")
	if err == nil || !strings.Contains(out, "ends with 1 entries that etcd cannot read") ||
		!strings.Contains(out, "start all members once more") {
		t.Fatalf("%v: %s", err, out)
	}
	last := func() uint64 {
		recovered, err := wal.Load(vfs.OS{}, filepath.Join(dir, "member", "wal"))
		if err != nil {
			t.Fatal(err)
		}
		return recovered.Snapshot.GetIndex() + uint64(len(recovered.Entries))
	}
	before := last()
	if out, err := migrate(t, dir, "3.7", "--force"); err != nil || !strings.Contains(out, "dropped the end of the log") {
		t.Fatalf("%v: %s", err, out)
	}
	if got := last(); got != before-1 {
		t.Fatalf("the log ends at %d, before at %d", got, before)
	}
}

func uncommitted(t *testing.T, dir string, data []byte) {
	t.Helper()
	log, recovered, err := wal.Open(vfs.OS{}, filepath.Join(dir, "member", "wal"))
	if err != nil {
		t.Fatal(err)
	}
	index := recovered.Snapshot.GetIndex() + uint64(len(recovered.Entries)) + 1
	e := &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: new(recovered.HardState.GetTerm()), Index: new(index), Data: data}
	if err := log.Append(nil, []*raftpb.Entry{e}, nil); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestMigrateAsEtcdutl compares what is refused, the exit codes and the words.
func TestMigrateAsEtcdutl(t *testing.T) {
	t.Parallel()
	m := proc.Start(t, proc.Peer(t, "etcd"), 1).Members[0]
	m.Stop()
	for _, args := range [][]string{
		{}, {"--data-dir", m.DataDir, "--target-version", "3"}, {"--data-dir", m.DataDir, "--target-version", "x.y"},
		{"--data-dir", m.DataDir, "--target-version", "3.4"}, {"--data-dir", m.DataDir, "--target-version", "3.8"},
		{"--data-dir", m.DataDir + "-not", "--target-version", "3.6"}, {"--data-dir", m.DataDir, "--target-version", "3.7"},
		{"--data-dir", m.DataDir, "--target-version", "3.6"}, {"--data-dir", m.DataDir, "--target-version", "3.6"},
		{"--data-dir", m.DataDir, "--target-version", "3.7"},
	} {
		if len(args) > 0 && args[3] == "3.6" && args[1] == m.DataDir {
			// Ours goes first: it does what etcdutl's does and more, which etcdutl then finds done.
			if out, err := migrate(t, m.DataDir, "3.6"); err != nil || !strings.Contains(out, "storage version") {
				t.Fatalf("%v: %s", err, out)
			}
		}
		theirs, theirCode := said(proc.Peer(t, "etcdutl"), args)
		ours, ourCode := said(proc.Build(t, "upkeepctl"), args)
		if len(args) == 0 { // the version has a default here
			theirs = strings.Replace(theirs, `"data-dir", "target-version" not set`, `"data-dir" not set`, 1)
		}
		if ourCode != theirCode || ours != theirs {
			t.Errorf("migrate %v: exit %d, %q; etcdutl: %d, %q", args, ourCode, ours, theirCode, theirs)
		}
	}
}

// said is the error that a migration prints, or else what its log says of the version, without fields.
func said(program string, args []string) (string, int) {
	cmd := exec.Command(program, append([]string{"migrate"}, args...)...)
	out, _ := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Error:") {
			return strings.TrimSpace(line), cmd.ProcessState.ExitCode()
		}
	}
	for _, message := range []string{"updated storage version", "storage version up-to-date"} {
		if strings.Contains(string(out), message) {
			return message, cmd.ProcessState.ExitCode()
		}
	}
	return string(out), cmd.ProcessState.ExitCode()
}
