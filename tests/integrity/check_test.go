package integrity

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// rot inverts a bit of a value in the member's database file. The value must occur there once at least.
func rot(t *testing.T, m *cluster.Member, value string) {
	t.Helper()
	var content []byte
	time.Sleep(5 * time.Second) // a commit that is under way would write what it has read before
	for range 50 {              // a commit is due within 100 ms
		var err error
		if content, err = os.ReadFile(m.DatabaseFile()); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, []byte(value)) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	found := false
	for at := 0; ; {
		i := bytes.Index(content[at:], []byte(value))
		if i < 0 {
			break
		}
		// Old copies of a page may still lie in the file, so all are hit.
		m.FlipBit(m.DatabaseFile(), int64(at+i))
		at, found = at+i+len(value), true
	}
	if !found {
		t.Fatalf("%q is not in the database of %s", value, m.Name)
	}
}

// fill makes the keys fill a page of their own: of a bucket that fits into its parent's page, readers have a copy.
func fill(c *cluster.Cluster) { c.Put("filler", strings.Repeat("x", 3000)) }

func corruptAlarms(c *cluster.Cluster) []uint64 {
	var ids []uint64
	for _, a := range c.Alarms() {
		if a.Alarm == pb.AlarmType_CORRUPT {
			ids = append(ids, a.MemberID)
		}
	}
	return ids
}

func periodic(interval time.Duration) cluster.Option {
	return cluster.Configure(func(c *config.Config) { c.CorruptCheckTime = interval })
}

// The leader compares everybody every minute; two of three agree, so the third is named, be it a follower or the leader.
func TestPeriodicCheckNamesTheMember(t *testing.T) {
	for _, who := range []string{"follower", "leader"} {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cluster.Start(t, cluster.Heartbeat(time.Second), periodic(time.Minute))
				fill(c)
				for i := range 20 {
					c.Put(fmt.Sprint("k", i), fmt.Sprint("precious-", i, "."))
				}
				c.WaitApplied()
				time.Sleep(3 * time.Minute)
				if found := corruptAlarms(c); len(found) != 0 {
					t.Fatalf("healthy members were accused: %x", found)
				}
				m := c.Leader()
				if who == "follower" {
					m = c.Follower()
				}
				rot(t, m, "precious-7.")
				m.WaitAlarm(pb.AlarmType_CORRUPT, false) // not before it is compared
				c.WaitFor(3*time.Minute, "the alarm", func() bool { return len(m.Server().Alarms()) > 0 })
				if found := corruptAlarms(c); len(found) != 1 || found[0] != m.Server().ID() {
					t.Fatalf("alarms for %x, want %x", found, m.Server().ID())
				}
				if _, err := c.Client().Put(t.Context(), "k", "v"); err == nil ||
					err.Error() != rpctypes.ErrCorrupt.Error() {
					t.Fatalf("a put while CORRUPT is raised: %v", err)
				}
			})
		})
	}
}

// With two members nobody can tell who is right.
func TestPeriodicCheckOfATie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(2), cluster.Heartbeat(time.Second), periodic(time.Minute))
		fill(c)
		c.Put("k", "precious")
		c.WaitApplied()
		rot(t, c.Follower(), "precious")
		c.WaitFor(3*time.Minute, "the alarm", func() bool { return len(corruptAlarms(c)) > 0 })
		if found := corruptAlarms(c); len(found) != 1 || found[0] != 0 {
			t.Fatalf("alarms for %x, want one for nobody", found)
		}
	})
}

// What a compaction deletes is hashed before, and compared after.
func TestCompactionHashCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), cluster.Configure(func(c *config.Config) {
			c.Gates.CompactHashCheck = true
		}))
		fill(c)
		var rev int64
		for i := range 20 {
			rev = c.Put("k", fmt.Sprint("precious-", i, "."))
		}
		c.WaitApplied()
		c.Compact(rev - 10)
		time.Sleep(3 * time.Minute)
		if found := corruptAlarms(c); len(found) != 0 {
			t.Fatalf("healthy members were accused: %x", found)
		}
		m := c.Follower()
		rot(t, m, "precious-13.") // is deleted by the next compaction
		c.Compact(rev)
		c.WaitFor(3*time.Minute, "the alarm", func() bool { return len(corruptAlarms(c)) > 0 })
		if found := corruptAlarms(c); len(found) != 1 || found[0] != m.Server().ID() {
			t.Fatalf("alarms for %x, want %x", found, m.Server().ID())
		}
	})
}

// A member that finds itself different from its peers does not start; a healthy one does.
func TestInitialCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), cluster.Configure(func(c *config.Config) {
			c.Gates.InitialCorruptCheck = true
		}))
		fill(c)
		c.Put("k", "precious")
		c.WaitApplied()
		m := c.Follower()
		m.Restart()
		m.Stop()
		rot(t, m, "precious")
		err := m.TryStart()
		if err == nil {
			t.Fatal("started on a damaged database")
		}
		for _, want := range []string{"corrupt data found", "hash", "upkeepctl maintenance rebuild"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the refusal does not say %q: %v", want, err)
			}
		}
		for _, other := range c.Members() {
			if other != m && !strings.Contains(err.Error(), other.Name) {
				t.Errorf("the refusal does not name %s: %v", other.Name, err)
			}
		}
		m.Reconfigure(func(c *config.Config) { c.Gates.InitialCorruptCheck = false })
		m.Restart()
	})
}
