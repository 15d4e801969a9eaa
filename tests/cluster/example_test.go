package cluster_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// inTest stands for the *testing.T that a test gets from go test, and for synctest.Test around the test.
func inTest(name string, fn func(t *testing.T)) {
	output := os.Stdout
	quiet, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	defer func() { os.Stdout = output; quiet.Close() }()
	os.Stdout = quiet // package testing says what it runs
	all := func(_, _ string) (bool, error) { return true, nil }
	testing.RunTests(all, []testing.InternalTest{{Name: name, F: func(t *testing.T) {
		os.Stdout = output
		defer func() { os.Stdout = quiet }()
		synctest.Test(t, fn)
	}}})
}

// Two hours pass at once, and with them the history.
func Example() {
	inTest("TestRetention", func(t *testing.T) {
		c := cluster.Start(t, cluster.Retention(time.Hour), cluster.Heartbeat(time.Second))
		rev := c.Put("k", "old")
		c.Put("k", "new")
		time.Sleep(2 * time.Hour)
		_, err := c.Client().Get(context.Background(), "k", clientv3.WithRev(rev))
		fmt.Println(err)
	})
	// Output:
	// etcdserver: mvcc: required revision has been compacted
}

// A member loses its power, and nothing that was acknowledged is missing.
func ExampleMember_Kill() {
	inTest("TestKill", func(t *testing.T) {
		c := cluster.Start(t)
		leader := c.Leader()
		c.Put("k", "v")
		leader.Kill()
		c.NewLeader(leader)
		value, _ := c.Get("k")
		fmt.Println(value)
		leader.Restart()
		c.WaitApplied()
	})
	// Output:
	// v
}

// A minority that is cut off does not answer, and catches up when the network heals.
func ExampleCluster_Partition() {
	inTest("TestPartition", func(t *testing.T) {
		c := cluster.Start(t)
		old := c.Leader()
		c.Partition(old)
		next := c.NewLeader(old)
		if _, err := next.Client().Put(context.Background(), "k", "v"); err != nil {
			t.Fatal(err)
		}
		c.Heal()
		c.WaitApplied()
		fmt.Println(old.Server().Revision() == next.Server().Revision())
	})
	// Output:
	// true
}

// One member has no room: its alarm stops the writes of all, until it is disarmed.
func ExampleMember_SetQuota() {
	inTest("TestQuota", func(t *testing.T) {
		c := cluster.Start(t)
		m := c.Follower()
		m.SetQuota(1 << 20)
		for err := error(nil); err == nil; {
			_, err = c.Leader().Client().Put(context.Background(), "k", string(make([]byte, 100<<10)))
			time.Sleep(time.Second) // of virtual time, for the commit that m measures itself by
		}
		m.WaitAlarm(pb.AlarmType_NOSPACE, true)
		m.SetQuota(1 << 30)
		c.Disarm()
		fmt.Println(c.Put("k", "again") > 0)
	})
	// Output:
	// true
}
