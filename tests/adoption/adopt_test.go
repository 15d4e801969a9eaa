package adoption

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// life is what a cluster of etcd goes through before it is adopted.
type life struct {
	program string
	members int
	flags   []string
	// killed in the middle of writing instead of stopped.
	killed bool
	auth   bool
	alarm  bool
}

func TestAdopt(t *testing.T) {
	for name, l := range map[string]life{
		"3.5, one member, killed":            {program: "etcd-3.5", members: 1, killed: true, alarm: true},
		"3.5, three members, snapshots":      {program: "etcd-3.5", members: 3, flags: []string{"--snapshot-count=25"}},
		"3.6, one member, users":             {program: "etcd-3.6", members: 1, auth: true},
		"3.6, three members, killed":         {program: "etcd-3.6", members: 3, killed: true, flags: []string{"--snapshot-count=25"}},
		"3.7, one member, snapshots, killed": {program: "etcd", members: 1, killed: true, flags: []string{"--snapshot-count=25"}},
		"3.7, three members, users, killed":  {program: "etcd", members: 3, auth: true, killed: true},
		"3.5, one member, users, killed":     {program: "etcd-3.5", members: 1, auth: true, killed: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l.adopt(t)
		})
	}
}

func (l life) adopt(t *testing.T) {
	etcd := proc.Peer(t, l.program)
	// Not strict, or it would take the members 5 s to find each other healthy.
	c := proc.Start(t, etcd, l.members, append(l.flags, "--strict-reconfig-check=false")...)
	acknowledged, auth := l.live(t, c)
	clone(t, c, etcd)
	startAll(c)
	before := pastOf(t, c, auth...)
	endAll(c, false)
	for _, m := range c.Members {
		m.Replace(proc.Build(t, "upkeep"), strings.TrimSuffix(m.DataDir, "-copy"))
	}
	startAll(c)
	compare(t, before, pastOf(t, c, auth...), acknowledged)
	// And it goes on, over a restart.
	client := clientAs(t, c.Members[0], auth...)
	if l.alarm {
		if _, err := client.Put(context.Background(), "new", "v"); err == nil || !strings.Contains(err.Error(), "space exceeded") {
			t.Fatalf("under the adopted alarm: %v", err)
		}
		if _, err := client.AlarmDisarm(context.Background(), &clientv3.AlarmMember{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Put(context.Background(), "new", "v"); err != nil {
		t.Fatal(err)
	}
	endAll(c, true)
	startAll(c)
	resp, err := clientAs(t, c.Members[l.members-1], auth...).Get(context.Background(), "new")
	if err != nil || resp.Count != 1 {
		t.Fatalf("after a restart: %v, %v", resp, err)
	}
}

// live returns the newest revision that was acknowledged before the end, and who may read.
func (l life) live(t *testing.T, c *proc.Cluster) (acknowledged int64, auth []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := c.Client()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 60 {
		_, err := client.Put(ctx, fmt.Sprintf("key-%d", i%20), fmt.Sprint("value ", i))
		must(err)
	}
	_, err := client.Delete(ctx, "key-1", clientv3.WithRange("key-14"))
	must(err)
	_, err = client.Txn(ctx).If(clientv3.Compare(clientv3.Version("key-2"), ">", 1)).
		Then(clientv3.OpPut("a", "1"), clientv3.OpPut("b", "2"), clientv3.OpDelete("key-3")).Commit()
	must(err)
	_, err = client.Compact(ctx, 40)
	must(err)
	lease, err := client.Grant(ctx, 5000)
	must(err)
	_, err = client.Put(ctx, "leased", "v", clientv3.WithLease(lease.ID))
	must(err)
	_, err = client.Grant(ctx, 9000)
	must(err)
	l.change(t, ctx, client)
	if l.auth {
		auth = []string{"root", "secret"}
		_, err = client.UserAdd(ctx, "root", "secret")
		must(err)
		_, err = client.UserGrantRole(ctx, "root", "root")
		must(err)
		_, err = client.RoleAdd(ctx, "reader")
		must(err)
		_, err = client.RoleGrantPermission(ctx, "reader", "key-", "key.", clientv3.PermissionType(clientv3.PermRead))
		must(err)
		_, err = client.UserAdd(ctx, "ann", "apw")
		must(err)
		_, err = client.UserGrantRole(ctx, "ann", "reader")
		must(err)
		_, err = client.AuthEnable(ctx)
		must(err)
		client = clientAs(t, c.Members[0], auth...)
	}
	if l.alarm {
		status, err := client.Status(ctx, c.Members[0].ClientURL)
		must(err)
		for i := range 30 {
			_, err := client.Put(ctx, "last", fmt.Sprint(i))
			must(err)
		}
		_, err = pb.NewMaintenanceClient(client.ActiveConnection()).Alarm(ctx, &pb.AlarmRequest{
			Action: pb.AlarmRequest_ACTIVATE, MemberID: status.Header.MemberId, Alarm: pb.AlarmType_NOSPACE,
		})
		must(err)
	}
	return l.end(t, c, client), auth
}

// change admits a member that never starts as a learner, and one that is removed again.
func (l life) change(t *testing.T, ctx context.Context, client *clientv3.Client) {
	t.Helper()
	added, err := client.MemberAddAsLearner(ctx, []string{"http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.MemberRemove(ctx, added.Member.ID); err != nil {
		t.Fatal(err)
	}
	added, err = client.MemberAddAsLearner(ctx, []string{"http://127.0.0.1:2"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.MemberUpdate(ctx, added.Member.ID, []string{"http://127.0.0.1:3"}); err != nil {
		t.Fatal(err)
	}
}

// end stops or kills the members while there is writing, and returns the newest acknowledged revision.
func (l life) end(t *testing.T, c *proc.Cluster, client *clientv3.Client) int64 {
	t.Helper()
	if !l.killed {
		resp, err := client.Put(context.Background(), "the", "end")
		if err != nil {
			t.Fatal(err)
		}
		endAll(c, false)
		return resp.Header.Revision
	}
	var newest atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	written := make(chan struct{}, 1)
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			resp, err := client.Put(ctx, fmt.Sprintf("late-%d", i%7), fmt.Sprint(i))
			if err == nil {
				newest.Store(resp.Header.Revision)
			} else if l.alarm {
				// Refused, yet in the log, as nothing else is under an alarm.
				status, err := client.Get(ctx, "x")
				if err == nil {
					newest.Store(status.Header.Revision)
				}
			}
			if i == 60 {
				written <- struct{}{}
			}
		}
	}()
	<-written
	endAll(c, true)
	cancel()
	<-done
	return newest.Load()
}
