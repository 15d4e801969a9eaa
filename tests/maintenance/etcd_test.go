package maintenance

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// maxRealPause bounds what a script may let pass against real processes.
const maxRealPause = 15 * time.Second

func TestEtcd(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real processes")
	}
	program := proc.Peer(t, "etcd")
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		t.Parallel()
		run(t, path, &theirs{t: t, program: program, members: map[string]*theirMember{}})
	})
}

// theirs is a cluster of etcd processes on loopback ports, in real time.
type theirs struct {
	t       *testing.T
	program string
	spec    spec
	members map[string]*theirMember
	order   []string
	peers   map[string]string // URLs, of members to come too
	dirs    int
}

type theirMember struct {
	*proc.Member
	running bool
	cached  *clientv3.Client
}

func (e *theirs) name() string { return "etcd" }

func (e *theirs) peerURL(member string) string {
	if e.peers == nil {
		e.peers = map[string]string{}
	}
	if e.peers[member] == "" {
		e.peers[member] = fmt.Sprintf("http://127.0.0.1:%d", ports.Free(e.t, 1)[0])
	}
	return e.peers[member]
}

func (e *theirs) initialCluster() string {
	var all []string
	for _, name := range e.order {
		all = append(all, name+"="+e.peerURL(name))
	}
	return strings.Join(all, ",")
}

// flags are those of one member besides the addresses.
func (e *theirs) flags(member, state string) []string {
	flags := []string{
		"--initial-cluster", e.initialCluster(), "--initial-cluster-state", state,
		fmt.Sprintf("--quota-backend-bytes=%d", e.spec.quota[member]), "--log-level=error",
	}
	if e.spec.retention > 0 {
		flags = append(flags, "--auto-compaction-mode=periodic", "--auto-compaction-retention="+e.spec.retention.String())
	}
	if h := e.spec.heartbeat; h > 0 {
		flags = append(flags, fmt.Sprintf("--heartbeat-interval=%d", h.Milliseconds()),
			fmt.Sprintf("--election-timeout=%d", 10*h.Milliseconds()))
	}
	return flags
}

func (e *theirs) start(s spec) {
	e.spec = s
	for i := range s.members {
		e.order = append(e.order, fmt.Sprintf("m%d", i))
	}
	dir := e.t.TempDir()
	for _, name := range e.order {
		e.launchOn(name, filepath.Join(dir, name), "new")
	}
	for _, name := range e.order {
		e.members[name].WaitReady()
	}
}

func (e *theirs) launchOn(name, dir, state string) {
	m := &theirMember{Member: proc.Prepare(e.t, e.program, name, dir, e.peerURL(name), e.flags(name, state)...)}
	m.Launch()
	m.running = true
	e.members[name] = m
}

func (e *theirs) restore(file string, o restoreOptions) error {
	e.dirs++
	dir := filepath.Join(e.t.TempDir(), fmt.Sprint("restored", e.dirs))
	url := fmt.Sprintf("http://127.0.0.1:%d", ports.Free(e.t, 1)[0])
	line := []string{"snapshot", "restore", file, "--name=m0", "--data-dir", dir, "--initial-cluster=m0=" + url,
		"--initial-advertise-peer-urls=" + url}
	if o.toRevision > 0 {
		line = append(line, fmt.Sprintf("--to-revision=%d", o.toRevision))
	}
	if o.bump > 0 {
		line = append(line, fmt.Sprintf("--bump-revision=%d", o.bump))
	}
	if o.markCompacted {
		line = append(line, "--mark-compacted")
	}
	if out, err := exec.Command(proc.Peer(e.t, "etcdutl"), line...).CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%s", strings.TrimPrefix(lines[len(lines)-1], "Error: "))
	}
	for _, name := range e.running() {
		e.stop(name)
	}
	e.order, e.peers = []string{"m0"}, map[string]string{"m0": url}
	e.launchOn("m0", dir, "new")
	e.members["m0"].WaitReady()
	return nil
}

func (e *theirs) member(name string) *theirMember {
	e.t.Helper()
	m := e.members[name]
	if m == nil {
		e.t.Fatalf("there is no member %q", name)
	}
	return m
}

func (e *theirs) client(member string) *clientv3.Client {
	m := e.member(member)
	if m.cached == nil {
		m.cached = m.Client()
	}
	return m.cached
}

func (e *theirs) clientURL(member string) string { return e.member(member).ClientURL }

func (e *theirs) running() []string {
	var names []string
	for _, name := range e.order {
		if m := e.members[name]; m != nil && m.running {
			names = append(names, name)
		}
	}
	return names
}

func (e *theirs) stop(member string) {
	e.member(member).Stop()
	e.member(member).running, e.member(member).cached = false, nil
}

func (e *theirs) kill(member string) {
	e.member(member).Kill()
	e.member(member).running, e.member(member).cached = false, nil
}

func (e *theirs) restart(member string) {
	m := e.member(member)
	if m.running {
		e.stop(member)
	}
	m.Restart()
	m.running = true
}

func (e *theirs) prepare(member string) { e.order = append(e.order, member) }

func (e *theirs) launch(member string) {
	e.launchOn(member, filepath.Join(e.t.TempDir(), member), "existing")
	// A learner answers no linearizable read, so WaitReady would not return: Status is for everybody.
	for start := time.Now(); time.Since(start) < patience; {
		ctx, cancel := (&script{}).context()
		_, err := e.client(member).Status(ctx, e.clientURL(member))
		cancel()
		if err == nil {
			return
		}
	}
	e.t.Fatalf("%s does not serve:\n%s", member, e.members[member].Output())
}

func (e *theirs) gone(member string) {
	for i, name := range e.order {
		if name == member {
			e.order = append(e.order[:i:i], e.order[i+1:]...)
		}
	}
	if m := e.members[member]; m != nil && m.running {
		m.WaitExit()
		m.running = false
	}
}

func (e *theirs) pass(d time.Duration) error {
	if d > maxRealPause {
		return fmt.Errorf("%v would pass in real time here: the script is to say upkeep-only", d)
	}
	time.Sleep(d)
	return nil
}
