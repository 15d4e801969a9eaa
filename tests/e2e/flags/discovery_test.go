package flags

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/raftnode/identity"
	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func put(t *testing.T, client *clientv3.Client, key, value string) {
	t.Helper()
	if _, err := client.Put(deadline(t), key, value); err != nil {
		t.Fatal(err)
	}
}

const registry = "/_etcd/registry/meet/"

// seeker is a member that looks for its cluster at a discovery service.
func seeker(t *testing.T, program, name string, service *proc.Member, flags ...string) *proc.Member {
	m := proc.Prepare(t, program, name, t.TempDir()+"/"+name, "http://"+ports.Address(t))
	m.Only(append([]string{
		"--name", name, "--data-dir", m.DataDir, "--listen-client-urls", m.ClientURL, "--advertise-client-urls", m.ClientURL,
		"--listen-peer-urls", m.PeerURL, "--initial-advertise-peer-urls", m.PeerURL,
		"--discovery-token", "meet", "--discovery-endpoints", service.ClientURL,
	}, flags...)...)
	return m
}

// TestDiscoveryByToken: three members meet at another cluster, be it etcd's or ours, under the keys and IDs of etcd; a
// fourth is too late; and after a restart nobody asks any more.
func TestDiscoveryByToken(t *testing.T) {
	t.Parallel()
	upkeep, etcd := proc.Build(t, "upkeep"), proc.Peer(t, "etcd")
	for _, c := range []struct{ name, service, members string }{
		{"at etcd", etcd, upkeep}, {"at Upkeep", upkeep, upkeep}, {"etcd at Upkeep", upkeep, etcd},
	} {
		t.Run(c.name, func(t *testing.T) {
			service := proc.Start(t, c.service, 1).Members[0]
			put(t, service.Client(), registry+"_config/size", "2")
			var members []*proc.Member
			for i := range 2 {
				m := seeker(t, c.members, fmt.Sprintf("m%d", i), service)
				m.Launch()
				members = append(members, m)
			}
			want := map[string]string{registry + "_config/size": "2"}
			var ids []uint64
			for _, m := range members {
				m.WaitReady()
				id := identity.MemberID([]string{m.PeerURL}, "meet", 0)
				want[fmt.Sprintf("%smembers/%x", registry, id)] = m.Name + "=" + m.PeerURL
				ids = append(ids, id)
			}
			slices.Sort(ids)
			resp, err := service.Client().Get(deadline(t), "/_etcd/", clientv3.WithPrefix())
			if err != nil {
				t.Fatal(err)
			}
			for _, kv := range resp.Kvs {
				if want[string(kv.Key)] != string(kv.Value) {
					t.Errorf("%s = %q, want %q", kv.Key, kv.Value, want[string(kv.Key)])
				}
				delete(want, string(kv.Key))
			}
			if len(want) > 0 {
				t.Errorf("missing %v", want)
			}
			list, err := members[0].Client().MemberList(deadline(t))
			if err != nil {
				t.Fatal(err)
			}
			var got []uint64
			for _, m := range list.Members {
				got = append(got, m.ID)
			}
			if slices.Sort(got); !slices.Equal(got, ids) || list.Header.ClusterId != identity.ClusterID(ids) {
				t.Errorf("members %x of cluster %x, want %x of %x", got, list.Header.ClusterId, ids, identity.ClusterID(ids))
			}
			late := seeker(t, c.members, "m2", service)
			late.Launch()
			if code := late.WaitExit(); code != 1 || !strings.Contains(late.Output(), "discovery: cluster is full") {
				t.Errorf("a third of two ended with %d\n%s", code, late.Output())
			}
			service.Kill()
			members[0].Kill()
			members[0].Restart() // knows its cluster
		})
	}
}

// TestDiscoveryWaits: a founder that is killed while it waits for the others comes back to its place, and the service
// may come later than those who look for it.
func TestDiscoveryWaits(t *testing.T) {
	t.Parallel()
	upkeep := proc.Build(t, "upkeep")
	service := proc.Start(t, upkeep, 1).Members[0]
	client := service.Client()
	put(t, client, registry+"_config/size", "2")
	service.Kill()
	first := seeker(t, upkeep, "m0", service)
	first.Launch()
	service.Restart()
	watched := client.Watch(deadline(t), registry+"members/", clientv3.WithPrefix(), clientv3.WithRev(1))
	if resp, ok := <-watched; !ok || len(resp.Events) != 1 {
		t.Fatalf("watch of registrations: %+v", resp)
	}
	first.Kill()
	first.Launch()
	second := seeker(t, upkeep, "m1", service)
	second.Launch()
	first.WaitReady()
	second.WaitReady()
}

// TestDiscoveryRefused: what is wrong at the service ends the start with etcd's words and the flag.
func TestDiscoveryRefused(t *testing.T) {
	t.Parallel()
	upkeep := proc.Build(t, "upkeep")
	service := proc.Start(t, upkeep, 1).Members[0]
	for _, c := range []struct{ size, want string }{
		{"", "discovery: size key not found"}, {"many", "discovery: size key is bad"}, {"0", "discovery: size key is bad"},
	} {
		if c.size != "" {
			put(t, service.Client(), registry+"_config/size", c.size)
		}
		m := seeker(t, upkeep, "m0", service)
		m.Launch()
		if code := m.WaitExit(); code != 1 || !strings.Contains(m.Output(), c.want) || !strings.Contains(m.Output(), "--discovery-token") {
			t.Errorf("size %q: exit %d, want %q in\n%s", c.size, code, c.want, m.Output())
		}
	}
	put(t, service.Client(), registry+"_config/size", "2")
	put(t, service.Client(), registry+"members/1", "nonsense")
	m := seeker(t, upkeep, "m0", service)
	m.Launch()
	if code := m.WaitExit(); code != 1 || !strings.Contains(m.Output(), "members/1") {
		t.Errorf("a broken registration: exit %d\n%s", code, m.Output())
	}
}
