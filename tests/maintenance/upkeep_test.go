package maintenance

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/snapshot"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

func TestUpkeep(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		synctest.Test(t, func(t *testing.T) { run(t, path, &ours{t: t, prepared: map[string]bool{}}) })
	})
}

// ours is a cluster in virtual time.
type ours struct {
	t       *testing.T
	cluster *cluster.Cluster
	// prepared are members whose addition the script itself asks for.
	prepared map[string]bool
	dirs     int
}

func (o *ours) name() string { return "upkeep" }

func (o *ours) start(s spec) {
	opts := []cluster.Option{cluster.Members(s.members), cluster.Configure(func(c *config.Config) {
		c.QuotaBackendBytes = s.quota[c.Name]
	})}
	if s.retention > 0 {
		opts = append(opts, cluster.Retention(s.retention))
	}
	if s.heartbeat > 0 {
		opts = append(opts, cluster.Heartbeat(s.heartbeat))
	}
	o.cluster = cluster.Start(o.t, opts...)
}

func (o *ours) restore(file string, r restoreOptions) error {
	founder := cluster.Founders(1)[0]
	o.dirs++
	dir := filepath.Join(o.t.TempDir(), fmt.Sprint(o.dirs))
	_, err := snapshot.Restore(context.Background(), snapshot.RestoreOptions{
		SnapshotPath: file, Name: founder.Name, DataDir: dir,
		InitialCluster:           founder.Name + "=" + founder.PeerURLs[0],
		InitialAdvertisePeerURLs: founder.PeerURLs,
		ToRevision:               r.toRevision, BumpRevision: uint64(r.bump), MarkCompacted: r.markCompacted,
	})
	if err != nil {
		return err
	}
	for _, m := range o.cluster.Members() {
		if m.Running() {
			m.Stop()
		}
	}
	o.cluster = cluster.Start(o.t, cluster.DataDirs(dir))
	return nil
}

func (o *ours) member(name string) *cluster.Member {
	o.t.Helper()
	for _, m := range o.cluster.Members() {
		if m.Name == name {
			return m
		}
	}
	o.t.Fatalf("there is no member %q", name)
	return nil
}

func (o *ours) client(member string) *clientv3.Client { return o.member(member).Client() }
func (o *ours) clientURL(member string) string        { return o.member(member).ClientURL() }

func (o *ours) peerURL(member string) string {
	var i int
	if _, err := fmt.Sscanf(member, "m%d", &i); err != nil {
		o.t.Fatalf("%q is not a member's name", member)
	}
	return cluster.Founders(i + 1)[i].PeerURLs[0]
}

func (o *ours) running() []string {
	var names []string
	for _, m := range o.cluster.Members() {
		if m.Running() {
			names = append(names, m.Name)
		}
	}
	return names
}

func (o *ours) stop(member string)    { o.member(member).Stop() }
func (o *ours) kill(member string)    { o.member(member).Kill() }
func (o *ours) restart(member string) { o.member(member).Restart() }

func (o *ours) prepare(member string) {
	if m := o.cluster.Prepare(); m.Name != member {
		o.t.Fatalf("the next member is called %s, not %s", m.Name, member)
	}
}

func (o *ours) launch(member string) { o.member(member).Restart() }

func (o *ours) gone(member string) { o.cluster.Forget(o.member(member)) }

func (o *ours) pass(d time.Duration) error {
	time.Sleep(d)
	return nil
}

// What a script does wrong is reported with its line and with what was expected.
func TestMistakesInScripts(t *testing.T) {
	for line, want := range map[string]string{
		"compcat 3":           `there is no command "compcat"; expected is one of: add, alarms,`,
		"put k":               `put: 1 words are given and 2 expected; expected is: put KEY VALUE [on=] [lease=] [times=]`,
		"put k v onn=m1":      `put: "onn=m1" is not expected here`,
		"put k v on":          `put: "on" is not expected here`,
		"get k count=3":       `get: "count=3" is not expected here`,
		"put k v differs":     "put differs and does not say why",
		"compact 3 more":      `compact: "more" is not expected here`,
		"cluster upkeep-only": "cluster differs and does not say why",
	} {
		s := &script{t: t}
		said := caught(func(tb testing.TB) {
			fields := strings.Fields(line)
			d := &datadriven.TestData{Pos: "testdata/file:7", Cmd: fields[0]}
			for _, f := range fields[1:] {
				key, value, ok := strings.Cut(f, "=")
				arg := datadriven.CmdArg{Key: key}
				if ok {
					arg.Vals = []string{value}
				}
				d.CmdArgs = append(d.CmdArgs, arg)
			}
			s.check(tb, d)
		})
		if !strings.HasPrefix(said, "testdata/file:7: ") || !strings.Contains(said, want) {
			t.Errorf("%q: said %q, want %q", line, said, want)
		}
	}
}

// catcher is a test whose failure is kept.
type catcher struct {
	testing.TB
	said string
}

func (c *catcher) Helper() {}
func (c *catcher) Fatalf(format string, args ...any) {
	c.said = fmt.Sprintf(format, args...)
	panic(c)
}

func caught(do func(testing.TB)) string {
	c := &catcher{}
	func() {
		defer func() { _ = recover() }()
		do(c)
	}()
	return c.said
}
