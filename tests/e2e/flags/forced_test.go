package flags

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// forced is what a cluster of one looks like that --force-new-cluster has made.
type forced struct {
	revision int64
	keys     int64
	leases   int
	users    []string
	members  []string
}

// TestForceNewCluster: two of three members are lost, and a learner; the third goes on alone, with its data, under its
// own ID and the cluster's, as etcd's does; and it can grow again.
func TestForceNewCluster(t *testing.T) {
	t.Parallel()
	results := map[string]forced{}
	for name, program := range map[string]string{"upkeep": proc.Build(t, "upkeep"), "etcd": proc.Peer(t, "etcd")} {
		t.Run(name, func(t *testing.T) { results[name] = forceNewCluster(t, program) })
	}
	if got, want := fmt.Sprintf("%+v", results["upkeep"]), fmt.Sprintf("%+v", results["etcd"]); got != want {
		t.Errorf("Upkeep after --force-new-cluster: %s\netcd: %s", got, want)
	}
}

func forceNewCluster(t *testing.T, program string) forced {
	cluster := proc.Start(t, program, 3, "--strict-reconfig-check=false") // etcd wants five seconds of peace before it adds members
	client := cluster.Client()
	for i := range 50 {
		put(t, client, fmt.Sprintf("k%02d", i%40), fmt.Sprint(i))
	}
	lease, err := client.Grant(deadline(t), 3600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(deadline(t), "leased", "v", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.UserAdd(deadline(t), "ann", "secret"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.MemberAddAsLearner(deadline(t), []string{"http://" + ports.Address(t)}); err != nil {
		t.Fatal(err)
	}
	survivor := leader(t, cluster)
	// Linearizable, so that the survivor has everything.
	before, err := survivor.Client().Get(deadline(t), "", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	list, err := survivor.Client().MemberList(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range cluster.Members {
		if m != survivor {
			m.Kill()
		}
	}
	// The leader writes this to its log and finds nobody who does the same: it is not committed, and not to be seen again.
	lone, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	if _, err := survivor.Client().Put(lone, "uncommitted", "v"); err == nil {
		t.Error("a leader without followers has answered a put")
	}
	cancel()
	survivor.Kill()
	survivor.Append("--force-new-cluster")
	survivor.Restart()
	result := look(t, survivor, list.Header.ClusterId, list.Header.MemberId)
	if result.revision != before.Header.Revision || result.keys != before.Count {
		t.Errorf("revision %d with %d keys, was %d with %d", result.revision, result.keys, before.Header.Revision, before.Count)
	}
	// A second start with the flag changes nothing; without it neither.
	survivor.Kill()
	survivor.Restart()
	survivor.Append("--force-new-cluster=false")
	survivor.Kill()
	survivor.Restart()
	if again := look(t, survivor, list.Header.ClusterId, list.Header.MemberId); fmt.Sprint(again) != fmt.Sprint(result) {
		t.Errorf("after restarts: %+v, was %+v", again, result)
	}
	grow(t, program, survivor)
	return result
}

func leader(t *testing.T, cluster *proc.Cluster) *proc.Member {
	t.Helper()
	for _, m := range cluster.Members {
		status, err := m.Client().Status(deadline(t), m.ClientURL)
		check(t, err)
		if status.Leader == status.Header.MemberId {
			return m
		}
	}
	t.Fatal("no leader")
	return nil
}

func look(t *testing.T, m *proc.Member, clusterID, memberID uint64) forced {
	t.Helper()
	client, ctx := m.Client(), deadline(t)
	var f forced
	resp, err := client.Get(ctx, "", clientv3.WithPrefix())
	check(t, err)
	if resp.Header.ClusterId != clusterID || resp.Header.MemberId != memberID {
		t.Errorf("cluster %x member %x, were %x and %x", resp.Header.ClusterId, resp.Header.MemberId, clusterID, memberID)
	}
	f.revision, f.keys = resp.Header.Revision, resp.Count
	leases, err := client.Leases(ctx)
	check(t, err)
	f.leases = len(leases.Leases)
	users, err := client.UserList(ctx)
	check(t, err)
	f.users = users.Users
	hash, err := client.HashKV(ctx, m.ClientURL, 0)
	check(t, err)
	if hash.Hash == 0 {
		t.Error("HashKV is 0")
	}
	list, err := client.MemberList(ctx)
	check(t, err)
	for _, l := range list.Members {
		if l.Name != m.Name || l.PeerURLs[0] != m.PeerURL || l.ClientURLs[0] != m.ClientURL {
			t.Errorf("member %+v", l)
		}
		f.members = append(f.members, fmt.Sprintf("learner=%v %d %d", l.IsLearner, len(l.PeerURLs), len(l.ClientURLs)))
	}
	return f
}

// grow adds a member to the cluster of one and waits until it serves what the first has.
func grow(t *testing.T, program string, first *proc.Member) {
	peer := "http://" + ports.Address(t)
	_, err := first.Client().MemberAdd(deadline(t), []string{peer})
	check(t, err)
	second := proc.Prepare(t, program, "n1", t.TempDir()+"/n1", peer, "--initial-cluster-state", "existing",
		"--initial-cluster", first.Name+"="+first.PeerURL+",n1="+peer)
	second.Restart()
	resp, err := second.Client().Get(deadline(t), "k39")
	check(t, err)
	if len(resp.Kvs) != 1 {
		t.Errorf("the new member answers %+v", resp)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
