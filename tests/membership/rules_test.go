package membership

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestRules runs one script on a cluster of each program and compares what they answer, step by step.
func TestRules(t *testing.T) {
	t.Parallel()
	transcripts := make([][]string, 2)
	t.Run("both", func(t *testing.T) {
		for i, program := range []string{proc.Peer(t, "etcd"), proc.Build(t, "upkeep")} {
			t.Run(filepath.Base(program), func(t *testing.T) {
				t.Parallel()
				transcripts[i] = play(t, program)
			})
		}
	})
	theirs, ours := transcripts[0], transcripts[1]
	for i := range min(len(theirs), len(ours)) {
		if theirs[i] != ours[i] {
			t.Errorf("step %d\netcd:   %s\nupkeep: %s", i, theirs[i], ours[i])
		}
	}
	t.Logf("etcd says\n%s", strings.Join(theirs, "\n"))
	if len(theirs) != len(ours) || len(ours) < 30 {
		t.Errorf("%d steps of etcd, %d of upkeep", len(theirs), len(ours))
	}
}

// script is a cluster and what it has said so far.
type script struct {
	t       *testing.T
	c       *proc.Cluster
	program string
	lines   []string
}

// say notes how a step ended. What depends on the moment is left out by the caller.
func (s *script) say(step string, err error) {
	outcome := "done"
	if err != nil {
		outcome = err.Error()
	}
	s.lines = append(s.lines, step+": "+outcome)
}

func (s *script) context() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	s.t.Cleanup(cancel)
	return ctx
}

// leader returns the leader and the others.
func (s *script) leader() (*proc.Member, []*proc.Member) {
	s.t.Helper()
	ctx := s.context()
	for {
		for i, m := range s.c.Members {
			status, err := m.Client().Status(ctx, m.ClientURL)
			if err == nil && status.Leader != 0 && status.Leader == status.Header.MemberId {
				return m, slices.Concat(s.c.Members[:i], s.c.Members[i+1:])
			}
		}
		if ctx.Err() != nil {
			s.t.Fatal("nobody leads")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *script) idOf(client *clientv3.Client, name string) uint64 {
	s.t.Helper()
	list, err := client.MemberList(s.context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range list.Members {
		if m.Name == name {
			return m.ID
		}
	}
	s.t.Fatalf("%s is not a member", name)
	return 0
}

// untilHealthy does a step again while the members have not been connected for the 5 s that strictness wants.
func untilHealthy(do func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		err := do()
		if err == nil || !strings.Contains(err.Error(), "unhealthy cluster") || time.Now().After(deadline) {
			return err
		}
	}
}

func play(t *testing.T, program string) []string {
	s := &script{t: t, c: proc.Start(t, program, 3), program: program}
	leader, followers := s.leader()
	client := leader.Client()
	s.badRequests(client, leader)
	learner := s.learner(client, leader)
	s.strictness(client, leader, followers)
	s.removals(client, leader, followers, learner)
	return s.lines
}

// badRequests are refused whatever state the cluster is in.
func (s *script) badRequests(client *clientv3.Client, leader *proc.Member) {
	ctx := s.context()
	for _, urls := range [][]string{nil, {""}, {"foo"}, {"http://127.0.0.1"}, {"http://127.0.0.1:1/path"}, {"ftp://127.0.0.1:1"}} {
		_, err := client.MemberAdd(ctx, urls)
		s.say(fmt.Sprintf("add %q", urls), err)
		_, err = client.MemberAddAsLearner(ctx, urls)
		s.say(fmt.Sprintf("add learner %q", urls), err)
	}
	err := untilHealthy(func() error { _, err := client.MemberAddAsLearner(ctx, []string{leader.PeerURL}); return err })
	s.say("add a learner with the URL of another", err)
	_, err = client.MemberUpdate(ctx, 0xbad, []string{"http://127.0.0.1:1"})
	s.say("update a stranger", err)
	_, err = client.MemberUpdate(ctx, s.idOf(client, leader.Name), []string{s.c.Members[0].PeerURL, s.c.Members[1].PeerURL})
	s.say("update to the URL of another", err)
	_, err = client.MemberUpdate(ctx, s.idOf(client, leader.Name), []string{leader.PeerURL})
	s.say("update to its own URL", err)
	_, err = client.MemberPromote(ctx, 0xbad)
	s.say("promote a stranger", err)
	_, err = client.MemberPromote(ctx, s.idOf(client, leader.Name))
	s.say("promote a voter", err)
	_, err = client.MemberRemove(ctx, 0xbad)
	s.say("remove a stranger", err)
	_, err = client.MoveLeader(ctx, 0xbad)
	s.say("move leadership to a stranger", err)
}

// learner goes through the life of a learner.
func (s *script) learner(client *clientv3.Client, leader *proc.Member) *proc.Member {
	ctx := s.context()
	var gone *clientv3.MemberAddResponse
	err := untilHealthy(func() (err error) {
		gone, err = client.MemberAddAsLearner(ctx, []string{"http://127.0.0.1:1"})
		return err
	})
	s.say("add a learner", err)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = client.MemberAddAsLearner(ctx, []string{"http://127.0.0.1:2"})
	s.say("add one more", err)
	_, err = client.MemberPromote(ctx, gone.Member.ID)
	s.say("promote a learner that never started", err)
	_, err = client.MoveLeader(ctx, gone.Member.ID)
	s.say("move leadership to a learner", err)
	_, err = client.MemberUpdate(ctx, gone.Member.ID, []string{"http://127.0.0.1:3"})
	s.say("update a learner that never started", err)
	_, err = client.MemberRemove(ctx, gone.Member.ID)
	s.say("remove it", err)
	_, err = client.MemberRemove(ctx, gone.Member.ID)
	s.say("remove it again", err)
	_, err = client.MemberUpdate(ctx, gone.Member.ID, []string{"http://127.0.0.1:3"})
	s.say("update one that was removed", err)
	_, err = client.MemberPromote(ctx, gone.Member.ID)
	s.say("promote one that was removed", err)

	m := s.prepare("m3", true, client)
	m.Launch()
	one := m.Client()
	for { // a learner serves no linearizable reads, so WaitReady would wait for ever
		once, cancel := context.WithTimeout(ctx, time.Second)
		status, err := one.Status(once, m.ClientURL)
		cancel()
		if err == nil && status.Leader != 0 {
			s.lines = append(s.lines, fmt.Sprintf("status of a learner: %v", status.IsLearner))
			break
		}
		if ctx.Err() != nil {
			s.t.Fatal("the learner does not start", m.Output())
		}
		time.Sleep(50 * time.Millisecond)
	}
	_, err = one.Put(ctx, "k", "v")
	s.say("put on a learner", err)
	_, err = one.Get(ctx, "k")
	s.say("get on a learner", err)
	_, err = one.Get(ctx, "k", clientv3.WithSerializable())
	s.say("serializable get on a learner", err)
	_, err = one.MemberList(ctx)
	s.say("member list on a learner", err)
	_, err = one.Grant(ctx, 100)
	s.say("lease on a learner", err)
	_, err = one.MemberPromote(ctx, s.idOf(client, "m3"))
	s.say("promote on a learner", err)
	err = s.again("in sync with leader", func() error {
		_, err := client.MemberPromote(ctx, s.idOf(client, "m3"))
		return err
	})
	s.say("promote it", err)
	m.WaitReady()
	_, err = one.Put(ctx, "k", "v")
	s.say("put on the new voter", err)
	return m
}

// again repeats a step while it is refused for a reason that passes.
func (s *script) again(reason string, do func() error) error {
	for ctx := s.context(); ; time.Sleep(100 * time.Millisecond) {
		err := do()
		if err == nil || !strings.Contains(err.Error(), reason) || ctx.Err() != nil {
			return err
		}
	}
}

// prepare adds a member and describes its process.
func (s *script) prepare(name string, learner bool, client *clientv3.Client) *proc.Member {
	s.t.Helper()
	url := fmt.Sprintf("http://127.0.0.1:%d", ports.Free(s.t, 1)[0])
	add := client.MemberAdd
	if learner {
		add = client.MemberAddAsLearner
	}
	if err := untilHealthy(func() error { _, err := add(s.context(), []string{url}); return err }); err != nil {
		s.t.Fatal(err)
	}
	list, err := client.MemberList(s.context())
	if err != nil {
		s.t.Fatal(err)
	}
	var initial []string
	for _, m := range list.Members {
		known := m.Name
		if known == "" {
			known = name
		}
		initial = append(initial, known+"="+m.PeerURLs[0])
	}
	return proc.Prepare(s.t, s.program, name, filepath.Join(s.t.TempDir(), name), url,
		"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "existing")
}

// strictness: four voters, three that never start, and then one of the four down.
func (s *script) strictness(client *clientv3.Client, leader *proc.Member, followers []*proc.Member) {
	ctx := s.context()
	for i := range 3 {
		err := untilHealthy(func() error {
			_, err := client.MemberAdd(ctx, []string{fmt.Sprintf("http://127.0.0.1:4%d", i)})
			return err
		})
		s.say("add a voter that never starts", err)
	}
	_, err := client.MemberAdd(ctx, []string{"http://127.0.0.1:5"})
	s.say("add one more while four of seven have started", err)
	_, err = client.MemberAddAsLearner(ctx, []string{"http://127.0.0.1:6"})
	s.say("add a learner while three of seven are down", err)
	list, err := client.MemberList(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range list.Members {
		if m.Name == "" {
			_, err = client.MemberRemove(ctx, m.ID)
			s.say("remove one that never started", err)
		}
	}
	down := followers[0]
	id := s.idOf(client, down.Name)
	down.Kill()
	_, err = client.MemberRemove(ctx, id)
	s.say("remove the one that is down", err)
	down.Launch()
	s.lines = append(s.lines, fmt.Sprintf("it ends when it comes back: %v", ended(down)))
}

func ended(m *proc.Member) bool {
	select {
	case <-m.Exited():
		return true
	case <-time.After(patience):
		return false
	}
}

// removals: of the leader, and the way back of one that was removed, with a directory of its own and with its old one.
func (s *script) removals(client *clientv3.Client, leader *proc.Member, followers []*proc.Member, learner *proc.Member) {
	ctx := s.context()
	id := s.idOf(client, leader.Name)
	err := untilHealthy(func() error { _, err := client.MemberRemove(ctx, id); return err })
	s.say("remove the leader", err)
	s.lines = append(s.lines, fmt.Sprintf("it ends: %v", ended(leader)))
	s.c.Members = []*proc.Member{followers[1], learner}
	next, _ := s.leader()
	client = next.Client()
	_, err = client.Put(ctx, "after", "removal")
	s.say("put after the leader has gone", err)
	back := s.prepare("m5", false, client)
	back.Launch()
	back.WaitReady()
	resp, err := back.Client().Get(ctx, "after")
	s.say("get on a new member", err)
	s.lines = append(s.lines, fmt.Sprintf("%d keys, %d members", len(resp.Kvs), s.count(client)))
	leader.Launch()
	s.lines = append(s.lines, fmt.Sprintf("the old leader ends with its old directory: %v", ended(leader)))
	_, err = client.MemberRemove(ctx, id)
	s.say("remove the old leader again", err)
}

func (s *script) count(client *clientv3.Client) int {
	s.t.Helper()
	list, err := client.MemberList(s.context())
	if err != nil {
		s.t.Fatal(err)
	}
	return len(list.Members)
}
