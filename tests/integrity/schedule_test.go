package integrity

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// run does maintenance on demand and returns how it ended.
func run(t *testing.T, c *cluster.Cluster, r *upkeeppb.RunRequest) *schedulepb.Run {
	t.Helper()
	cli := upkeeppb.NewUpkeepClient(c.Client().ActiveConnection())
	opened, err := cli.Run(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := cli.Follow(t.Context(), &upkeeppb.FollowRequest{Run: opened.Run})
	for err == nil {
		var resp *upkeeppb.FollowResponse
		if resp, err = stream.Recv(); err == nil && resp.Run != nil {
			return resp.Run
		}
	}
	t.Fatal(err)
	return nil
}

// By default the members are compared once a day. The one that differs is named with the revision from which on it does,
// and one command puts it right.
func TestDailyCheckAndRebuildByCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(5*time.Second))
		fill(c)
		var at int64
		for i := range 40 {
			rev := c.Put("k", fmt.Sprint("precious-", i, "."))
			if i == 17 {
				at = rev
			}
		}
		c.WaitApplied()
		time.Sleep(time.Minute) // the first comparison
		m := c.Follower()
		rot(t, m, "precious-17.")
		time.Sleep(12 * time.Hour)
		if found := corruptAlarms(c); len(found) != 0 {
			t.Fatalf("compared after half a day: %x", found)
		}
		time.Sleep(13 * time.Hour)
		if found := corruptAlarms(c); len(found) != 1 || found[0] != m.Server().ID() {
			t.Fatalf("alarms for %x, want %x", found, m.Server().ID())
		}
		history, err := upkeeppb.NewUpkeepClient(c.Client().ActiveConnection()).History(t.Context(), &upkeeppb.HistoryRequest{Kind: schedulepb.Kind_CHECK})
		if err != nil {
			t.Fatal(err)
		}
		last := history.Events[len(history.Events)-1].GetOutcome().GetMessage()
		for _, want := range []string{m.Name, fmt.Sprintf("from revision %d on", at), "hash"} {
			if !strings.Contains(last, want) {
				t.Errorf("the event does not say %q: %s", want, last)
			}
		}

		ended := run(t, c, &upkeeppb.RunRequest{
			Kind: schedulepb.Kind_REBUILD, Members: []uint64{m.Server().ID()},
			Parameters: []*schedulepb.Parameter{{Name: "disarm", Value: "true"}},
		})
		if ended.State != schedulepb.Run_SUCCEEDED {
			t.Fatalf("%v", ended)
		}
		m.WaitAlarm(pb.AlarmType_CORRUPT, false)
		c.Put("k", "goes on")
		sameHashes(t, c)
		ended = run(t, c, &upkeeppb.RunRequest{Kind: schedulepb.Kind_CHECK})
		if ended.State != schedulepb.Run_SUCCEEDED || !strings.Contains(ended.Outcomes[0].Message, "3 of 3") {
			t.Fatalf("%v", ended)
		}
	})
}

// The leader is rebuilt too, through the schedule, and a run that cannot succeed says why.
func TestRebuildRunOfTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second))
		fill(c)
		c.Put("k", "precious")
		c.WaitApplied()
		m := c.Leader()
		rot(t, m, "precious")
		ended := run(t, c, &upkeeppb.RunRequest{Kind: schedulepb.Kind_REBUILD})
		if ended.State != schedulepb.Run_FAILED || !strings.Contains(ended.Message, "name the one member") {
			t.Fatalf("%v", ended)
		}
		ended = run(t, c, &upkeeppb.RunRequest{Kind: schedulepb.Kind_REBUILD, Members: []uint64{m.Server().ID()}})
		if ended.State != schedulepb.Run_SUCCEEDED {
			t.Fatalf("%v", ended)
		}
		sameHashes(t, c)
	})
}
