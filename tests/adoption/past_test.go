package adoption

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// patience bounds what a cluster is asked for.
const patience = 60 * time.Second

// past is what a cluster says that it holds.
type past struct {
	revision, compacted int64
	hashes              map[int64]uint32 // HashKV at every revision that can be read, from the compacted one on
	leases              map[int64]string
	alarms, members     []string
	users, roles        []string
}

// pastOf asks the first member, and the others for their hashes too, which must be the same.
func pastOf(t *testing.T, c *proc.Cluster, auth ...string) past {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := clientAs(t, c.Members[0], auth...)
	if _, err := client.Get(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	p := past{hashes: map[int64]uint32{}, leases: map[int64]string{}}
	newest, err := client.HashKV(ctx, c.Members[0].ClientURL, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.revision, p.compacted = newest.Header.Revision, newest.CompactRevision
	for _, m := range c.Members {
		one := clientAs(t, m, auth...)
		if _, err := one.Get(ctx, "x"); err != nil {
			t.Fatal(err)
		}
		for rev := max(p.compacted+1, 1); rev <= p.revision; rev++ {
			hash, err := one.HashKV(ctx, m.ClientURL, rev)
			if err != nil {
				t.Fatalf("%s: HashKV at %d: %v", m.Name, rev, err)
			}
			if other, known := p.hashes[rev]; known && other != hash.Hash {
				t.Fatalf("%s differs from the member before it at revision %d", m.Name, rev)
			}
			p.hashes[rev] = hash.Hash
		}
	}
	p.ask(t, ctx, client)
	return p
}

func (p *past) ask(t *testing.T, ctx context.Context, client *clientv3.Client) {
	t.Helper()
	leases, err := client.Leases(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leases.Leases {
		one, err := client.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(one.Keys, func(a, b []byte) int { return strings.Compare(string(a), string(b)) })
		p.leases[int64(l.ID)] = fmt.Sprintf("%d s for %q", one.GrantedTTL, one.Keys)
	}
	members, err := client.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members.Members {
		p.members = append(p.members, fmt.Sprintf("%x %s %v %v %v", m.ID, m.Name, m.PeerURLs, m.ClientURLs, m.IsLearner))
	}
	alarms, err := client.AlarmList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range alarms.Alarms {
		p.alarms = append(p.alarms, fmt.Sprintf("%x %s", a.MemberID, a.Alarm))
	}
	users, err := client.UserList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range users.Users {
		user, err := client.UserGet(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		p.users = append(p.users, fmt.Sprint(name, user.Roles))
	}
	roles, err := client.RoleList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range roles.Roles {
		role, err := client.RoleGet(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		p.roles = append(p.roles, fmt.Sprint(name, role.Perm))
	}
	slices.Sort(p.members)
	slices.Sort(p.alarms)
}

// compare demands that nothing of before is missing from after. What was written behind acknowledged may be.
func compare(t *testing.T, before, after past, acknowledged int64) {
	t.Helper()
	if before.compacted != after.compacted {
		t.Errorf("compacted at %d, before at %d", after.compacted, before.compacted)
	}
	if after.revision < acknowledged || before.revision < acknowledged {
		t.Errorf("revision %d, before %d, and %d was acknowledged", after.revision, before.revision, acknowledged)
	}
	same := 0
	for rev, hash := range before.hashes {
		if rev > acknowledged {
			continue
		}
		same++
		if after.hashes[rev] != hash {
			t.Errorf("the hash at revision %d is %d, before it was %d", rev, after.hashes[rev], hash)
		}
	}
	if same < 10 {
		t.Errorf("only %d revisions could be compared", same)
	}
	if !maps.Equal(before.leases, after.leases) {
		t.Errorf("leases %v, before %v", after.leases, before.leases)
	}
	for _, pair := range [][3]any{
		{"members", before.members, after.members}, {"alarms", before.alarms, after.alarms},
		{"users", before.users, after.users}, {"roles", before.roles, after.roles},
	} {
		if was, is := fmt.Sprintf("%q", pair[1]), fmt.Sprintf("%q", pair[2]); was != is {
			t.Errorf("%s\n%s, before\n%s", pair[0], is, was)
		}
	}
}

func clientAs(t *testing.T, m *proc.Member, auth ...string) *clientv3.Client {
	t.Helper()
	if len(auth) == 0 {
		return m.Client()
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{m.ClientURL}, Username: auth[0], Password: auth[1], DialTimeout: patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// clone copies the directories of stopped members and has the members run on the copies.
func clone(t *testing.T, c *proc.Cluster, program string) {
	t.Helper()
	for _, m := range c.Members {
		to := m.DataDir + "-copy"
		if out, err := exec.Command("cp", "-a", "--sparse=always", m.DataDir, to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		m.Replace(program, to)
	}
}

func startAll(c *proc.Cluster) {
	for _, m := range c.Members {
		m.Launch()
	}
	for _, m := range c.Members {
		m.WaitReady()
	}
}

func endAll(c *proc.Cluster, kill bool) {
	for _, m := range c.Members {
		if kill {
			m.Kill()
		} else {
			m.Stop()
		}
	}
}
