package maintenance

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

const smallQuota = 4 << 20

// fill writes until the cluster has no more room: one key over and over, or, with distinct, ever new ones. It returns what
// the last write was refused with.
func fill(c *cluster.Cluster, distinct bool) error {
	value := strings.Repeat("v", 8<<10)
	var err error
	for i := 0; err == nil && i < 4*smallQuota/len(value); i++ {
		key := "k"
		if distinct {
			key += fmt.Sprintf("%06d", i)
		}
		_, err = c.Client().Put(context.Background(), key, value)
		if i%50 == 0 {
			time.Sleep(time.Second) // so that commits are large, and leave few holes
		}
	}
	c.Wait("the alarm", func() bool { return len(c.Alarms()) > 0 })
	return err
}

func recovers(u *config.Upkeep) { u.RecoverNoSpace = true }

// With --auto-recover-nospace and retention a full cluster gets out by itself: it compacts, defragments its members in turn
// and lowers the alarms.
func TestRecoversFromNoSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), unchecked(), cluster.Quota(smallQuota), cluster.Upkeep(recovers),
			cluster.Configure(func(cfg *config.Config) {
				cfg.AutoCompaction = config.Retention{Mode: config.CompactRevision, Revisions: 5}
			}))
		if err := fill(c, false); err == nil || !strings.Contains(err.Error(), "database space exceeded") {
			t.Fatalf("writes ended with %v", err)
		}
		c.WaitFor(10*time.Minute, "the alarms to be lowered", func() bool { return len(c.Leader().Server().Alarms()) == 0 })
		c.Put("again", "v")
		events := ended(c, schedulepb.Event_ENDED)
		lines := strings.Split(strings.TrimSpace(events), "\n")
		if len(lines) != 5 || !strings.HasPrefix(lines[0], "ended compact ") || !strings.HasPrefix(lines[4], "ended recover ") ||
			strings.Count(events, "done") != 5 {
			t.Errorf("events:\n%s", c.EventLines(c.Events(0)))
		}
		for _, m := range c.Members() {
			if s := m.Status(); s.DbSize*100 >= 90*smallQuota {
				t.Errorf("%s has %d bytes of %d", m.Name, s.DbSize, smallQuota)
			}
		}
	})
}

// Without retention nothing may be compacted. The cluster says so and what helps, and goes on when the operator has done it.
func TestSaysWhyItCannotRecover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), unchecked(), cluster.Quota(smallQuota), cluster.Upkeep(recovers))
		if err := fill(c, false); err == nil {
			t.Fatal("there was room for everything")
		}
		time.Sleep(20 * time.Minute)
		waiting := c.Leader().Maintenance().Waiting
		if len(c.Alarms()) == 0 || len(waiting) != 1 || waiting[0].Kind != schedulepb.Kind_RECOVER ||
			!strings.Contains(waiting[0].Reason, "no retention is configured") || !strings.Contains(waiting[0].Reason, "--quota-backend-bytes") {
			t.Fatalf("alarms %v, waiting: %v", c.Alarms(), waiting)
		}
		// The members are not full at the same moment.
		if events := c.Events(0); len(events) > 3 || strings.Contains(c.EventLines(events), "begun") {
			t.Errorf("events in 20 minutes:\n%s", c.EventLines(events))
		}
		// Somebody who asks is told at once.
		run, err := c.Leader().UpkeepClient().Run(context.Background(), &upkeeppb.RunRequest{Kind: schedulepb.Kind_RECOVER})
		if err != nil {
			t.Fatal(err)
		}
		c.Wait("the run to fail", func() bool {
			for _, r := range c.Leader().Maintenance().Runs {
				if r.Id == run.Run && r.State == schedulepb.Run_FAILED {
					return strings.Contains(r.Message, "delete keys and compact")
				}
			}
			return false
		})
		c.Compact(c.Leader().Server().Revision())
		c.WaitFor(10*time.Minute, "the alarms to be lowered", func() bool { return len(c.Alarms()) == 0 })
		c.Put("again", "v")
	})
}

// The policy may say how much history recovery leaves without retention.
func TestRecoversWithinItsOwnRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), unchecked(), cluster.Quota(smallQuota), cluster.Upkeep(func(u *config.Upkeep) {
			u.RecoverNoSpace, u.RecoverKeepRevisions = true, 10
		}))
		if err := fill(c, false); err == nil {
			t.Fatal("there was room for everything")
		}
		before := c.Leader().Server().Revision()
		c.WaitFor(10*time.Minute, "the alarms to be lowered", func() bool { return len(c.Alarms()) == 0 })
		if floor := c.Leader().Server().CompactRevision(); floor != before-10 {
			t.Errorf("compacted to %d of %d", floor, before)
		}
	})
}

// What is live fills the quota: no maintenance helps, and the alarm stays.
func TestLiveKeysKeepTheAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), unchecked(), cluster.Quota(smallQuota), cluster.Upkeep(recovers),
			cluster.Configure(func(cfg *config.Config) {
				cfg.AutoCompaction = config.Retention{Mode: config.CompactRevision, Revisions: 1}
			}))
		if err := fill(c, true); err == nil {
			t.Fatal("there was room for everything")
		}
		time.Sleep(20 * time.Minute)
		waiting := c.Leader().Maintenance().Waiting
		if len(c.Alarms()) == 0 || len(waiting) != 1 || !strings.Contains(waiting[0].Reason, "there is no more history that may be compacted") {
			t.Fatalf("alarms %v, waiting: %v, events:\n%s", c.Alarms(), waiting, c.EventLines(c.Events(0)))
		}
		if n := strings.Count(ended(c, schedulepb.Event_BEGUN), "defrag"); n > 6 {
			t.Errorf("%d defragmentations in 20 minutes:\n%s", n, c.EventLines(c.Events(0)))
		}
	})
}

// Without the flag the alarm is the operator's, as in etcd.
func TestDoesNotRecoverUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second), unchecked(), cluster.Quota(smallQuota), cluster.Members(1))
		if err := fill(c, false); err == nil {
			t.Fatal("there was room for everything")
		}
		c.Compact(c.Leader().Server().Revision())
		c.Member(0).Defrag()
		time.Sleep(20 * time.Minute)
		if alarms := c.Alarms(); len(alarms) != 1 || alarms[0].Alarm != pb.AlarmType_NOSPACE {
			t.Fatalf("alarms: %v", alarms)
		}
	})
}
