package steps

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/tests/longrun"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// patience bounds a wait on a slow, busy machine.
const patience = 2 * time.Minute

// victim is a cluster of which one member is killed over and over.
type victim struct {
	t    *testing.T
	c    *proc.Cluster
	m    *proc.Member
	rng  *rand.Rand
	load *load
	// killed counts the kills by the step in which they hit.
	killed map[string]int
}

// start starts members with megabytes of values, half of them deleted again.
func start(t *testing.T, members, megabytes int, flags ...string) *victim {
	t.Helper()
	flags = append(flags, "--upkeep-defrag=false", "--upkeep-check-interval=0", "--upkeep-settle=0s")
	c := proc.Start(t, proc.Build(t, "upkeep"), members, flags...)
	v := &victim{t: t, c: c, m: c.Members[0], rng: rand.New(rand.NewPCG(uint64(members), 9)), killed: map[string]int{}}
	client := c.Client()
	random := make([]byte, 64<<10)
	for i := range 16 * megabytes {
		for j := range random {
			random[j] = byte(v.rng.Uint32())
		}
		if _, err := client.Put(t.Context(), fmt.Sprintf("big/%04d", i), string(random)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Delete(t.Context(), "big/", clientv3.WithRange(fmt.Sprintf("big/%04d", 8*megabytes))); err != nil {
		t.Fatal(err)
	}
	v.load = startLoad(t, c)
	return v
}

func (v *victim) upkeep() upkeeppb.UpkeepClient {
	return upkeeppb.NewUpkeepClient(v.m.Client().ActiveConnection())
}

// id is the member's ID.
func (v *victim) id() uint64 {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	status, err := v.m.Client().Status(ctx, v.m.ClientURL)
	if err != nil {
		v.t.Fatal(err)
	}
	return status.Header.MemberId
}

// ask asks for maintenance of the member and returns the run.
func (v *victim) ask(kind schedulepb.Kind, parameters map[string]string) uint64 {
	v.t.Helper()
	request := &upkeeppb.RunRequest{Kind: kind, Members: []uint64{v.id()}}
	for name, value := range parameters {
		request.Parameters = append(request.Parameters, &schedulepb.Parameter{Name: name, Value: value})
	}
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	resp, err := v.upkeep().Run(ctx, request, grpc.WaitForReady(true))
	if err != nil {
		v.t.Fatalf("%s: %v", kind, err)
	}
	return resp.Run
}

// killDuring kills the member when it is at a step of a run, or past it, and a random moment later. It returns the step that
// was last seen, "" if the run was over before.
func (v *victim) killDuring(run uint64, step string) (at string) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	client := v.upkeep()
	seen := map[string]bool{}
	for over := false; !over && !seen[step] && ctx.Err() == nil; {
		stream, err := client.Progress(ctx, &upkeeppb.ProgressRequest{})
		for err == nil && !seen[step] {
			var p *upkeeppb.ProgressResponse
			if p, err = stream.Recv(); err == nil {
				at, seen[p.Phase] = p.Phase, true
			}
		}
		if over = v.over(ctx, client, run) != nil; over {
			at = ""
		}
	}
	time.Sleep(time.Duration(v.rng.IntN(15)) * time.Millisecond) // a random moment is the point here
	v.m.Kill()
	v.killed[at]++
	return at
}

// over returns a run that has ended.
func (v *victim) over(ctx context.Context, client upkeeppb.UpkeepClient, id uint64) *schedulepb.Run {
	status, err := client.Status(ctx, &upkeeppb.StatusRequest{})
	if err != nil {
		return nil
	}
	for _, run := range status.Runs {
		if run.Id == id && run.State != schedulepb.Run_OPEN {
			return run
		}
	}
	return nil
}

// finished waits until a run has succeeded, although its member was killed.
func (v *victim) finished(id uint64) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	client := v.upkeep()
	for ctx.Err() == nil {
		if run := v.over(ctx, client, id); run != nil {
			if run.State != schedulepb.Run_SUCCEEDED {
				v.t.Fatalf("run %d did not succeed: %s\n%v", id, run.Message, run.Outcomes)
			}
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	v.t.Fatalf("run %d was not over after %v", id, patience)
}

// kills kills at each step once, and in a long run again and again.
func (v *victim) kills(kind schedulepb.Kind, parameters map[string]string, check func(), steps ...string) {
	v.t.Helper()
	end := time.Now().Add(longrun.Length(v.t, 0) / 5)
	for round := 0; round == 0 || time.Now().Before(end); round++ {
		for _, step := range steps {
			run := v.ask(kind, parameters)
			at := v.killDuring(run, step)
			v.m.Restart()
			v.finished(run)
			if check != nil {
				check()
			}
			if v.t.Failed() {
				v.t.Fatalf("after it was killed at %q, wanted %q", at, step)
			}
		}
	}
	v.t.Logf("%s: kills by step: %v, %d writes acknowledged", kind, v.killed, v.load.count.Load())
	if len(v.killed) == 1 && v.killed[""] > 0 {
		v.t.Errorf("no kill hit the maintenance")
	}
}

// end compares all members with what was acknowledged and with each other, and looks at their files.
func (v *victim) end() {
	v.t.Helper()
	v.load.stop()
	v.load.check(v.t, v.c)
	sameHashes(v.t, v.c)
	for _, m := range v.c.Members {
		m.Stop()
		v.checkFiles(m)
	}
}

// checkDatabase looks for damage.
func (v *victim) checkDatabase(m *proc.Member) {
	v.t.Helper()
	problems, err := backend.Check(v.t.Context(), filepath.Join(m.DataDir, "member", "snap", "db"))
	if err != nil || len(problems) > 0 {
		v.t.Errorf("database of %s: %v, %v", m.Name, problems, err)
	}
}

// checkFiles looks for damage, and for what was left half done.
func (v *victim) checkFiles(m *proc.Member) {
	v.t.Helper()
	v.checkDatabase(m)
	entries, _ := os.ReadDir(filepath.Join(m.DataDir, "member", "snap"))
	for _, e := range entries {
		name := e.Name()
		if info, err := e.Info(); err == nil && !info.IsDir() && name != "db" && !strings.HasSuffix(name, ".snap") && info.Size() > 1<<20 {
			v.t.Errorf("%s: %s, %d bytes, was left beside the database", m.Name, name, info.Size())
		}
	}
}

// load counts with a few writers, and remembers what was acknowledged last of each.
type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	count  atomic.Int64
	last   [4]int64
}

func startLoad(t *testing.T, c *proc.Cluster) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	client := c.Client()
	for w := range l.last {
		l.done.Go(func() {
			for n := int64(1); ctx.Err() == nil; n++ {
				once, cancel := context.WithTimeout(ctx, 5*time.Second)
				_, err := client.Put(once, fmt.Sprint("counter/", w), strconv.FormatInt(n, 10))
				cancel()
				if err == nil {
					l.last[w] = n
					l.count.Add(1)
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	t.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	l.cancel()
	l.done.Wait()
}

// check compares every member with what was acknowledged.
func (l *load) check(t *testing.T, c *proc.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, m := range c.Members {
		client := m.Client()
		for w, want := range l.last {
			resp, err := client.Get(ctx, fmt.Sprint("counter/", w))
			if err != nil {
				t.Fatal(err)
			}
			got := int64(0)
			if len(resp.Kvs) > 0 {
				got, _ = strconv.ParseInt(string(resp.Kvs[0].Value), 10, 64)
			}
			if got < want {
				t.Errorf("%s: counter %d is %d, but %d was acknowledged", m.Name, w, got, want)
			}
		}
	}
}

// sameHashes compares the members' histories at one revision.
func sameHashes(t *testing.T, c *proc.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	last, err := c.Client().Put(ctx, "last", "")
	if err != nil {
		t.Fatal(err)
	}
	hashes := map[uint32]string{}
	for _, m := range c.Members {
		client := m.Client()
		if _, err := client.Get(ctx, "last"); err != nil {
			t.Fatal(err)
		}
		hash, err := client.HashKV(ctx, m.ClientURL, last.Header.Revision)
		if err != nil {
			t.Fatal(err)
		}
		hashes[hash.Hash] += " " + m.Name
	}
	if len(hashes) != 1 {
		t.Errorf("the members differ: %v", hashes)
	}
}
