package integrity

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server"
	"github.com/upkeep-kv/upkeep/snapshot"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// hashOf is what confirms a snapshot.
func hashOf(t *testing.T, path string) string {
	t.Helper()
	info, err := snapshot.Status(t.Context(), path, snapshot.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", info.Hash)
}

// The cluster goes back to a snapshot while it runs: keys and leases are the snapshot's, revisions go forward, watchers are
// told that they have missed something, and the members stay equal, also over a restart.
func TestOnlineRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second))
		backup := filepath.Join(t.TempDir(), "backup.db")
		lease, err := c.Client().Grant(t.Context(), 600)
		if err != nil {
			t.Fatal(err)
		}
		c.Put("kept", "old")
		c.Put("deleted", "was here")
		if _, err := c.Client().Put(t.Context(), "leased", "x", clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
		c.WaitApplied()
		c.Follower().Snapshot(backup)
		c.Put("kept", "new")
		if _, err := c.Client().Delete(t.Context(), "deleted"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Client().Revoke(t.Context(), lease.ID); err != nil {
			t.Fatal(err)
		}
		before := c.Put("later", "x")
		level := c.Follower().Watch(&pb.WatchCreateRequest{Key: []byte("kept")})
		l := startLoad(c, t)
		time.Sleep(time.Second)

		m := c.Follower()
		result, err := m.Server().RestoreOnline(t.Context(), server.RestoreOnlineOptions{Snapshot: backup, Confirm: hashOf(t, backup)})
		if err != nil {
			t.Fatal(err)
		}
		l.cancel()
		l.writers.Wait()
		if result.Revision <= before || result.Members != 3 || result.Hash == 0 {
			t.Errorf("%+v", result)
		}
		if err := snapshot.Verify(t.Context(), result.SafetySnapshot); err != nil {
			t.Errorf("safety snapshot: %v", err)
		}
		for key, want := range map[string]string{"kept": "old", "deleted": "was here", "leased": "x", "later": ""} {
			if got, _ := c.Get(key); got != want {
				t.Errorf("%s is %q, want %q", key, got, want)
			}
		}
		for {
			resp, err := level.Next()
			if err != nil {
				t.Fatal(err)
			}
			if resp.Canceled {
				if resp.CompactRevision != result.Revision {
					t.Errorf("cancelled with compact revision %d, want %d", resp.CompactRevision, result.Revision)
				}
				break
			}
		}
		if rev := c.Put("kept", "goes on"); rev <= result.Revision {
			t.Errorf("revision %d after %d", rev, result.Revision)
		}
		ttl, err := c.Client().TimeToLive(t.Context(), lease.ID, clientv3.WithAttachedKeys())
		if err != nil || len(ttl.Keys) != 1 {
			t.Errorf("the lease: %+v, %v", ttl, err)
		}
		// Who joins now is sent the state, since the log from before cannot be applied any more.
		added := c.AddMember(true)
		if resp, err := added.Client().Get(t.Context(), "deleted", clientv3.WithSerializable()); err != nil || len(resp.Kvs) != 1 {
			t.Errorf("on the member that came later: %v, %v", resp, err)
		}
		sameHashes(t, c)
		for _, m := range c.Members() {
			m.Kill()
			m.Restart()
		}
		sameHashes(t, c)
	})
}

// A revision that the live history still holds needs no snapshot.
func TestOnlineRestoreToLiveRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second))
		c.AddMember(true) // a learner is given the state too
		at := c.Put("k", "good")
		c.Put("k", "bad")
		if _, err := c.Client().Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		result, err := c.Leader().Server().RestoreOnline(t.Context(), server.RestoreOnlineOptions{ToRevision: at})
		if err != nil {
			t.Fatal(err)
		}
		if v, _ := c.Get("k"); v != "good" || result.Restored != at || result.Members != 4 {
			t.Errorf("k is %q, %+v", v, result)
		}
		c.Put("k", "goes on")
		sameHashes(t, c)
		// And back again, to the state from before, which is in the safety snapshot.
		_, err = c.Follower().Server().RestoreOnline(t.Context(), server.RestoreOnlineOptions{
			Snapshot: result.SafetySnapshot, Confirm: hashOf(t, result.SafetySnapshot),
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := c.Get("k"); ok {
			t.Error("k is back, though it was deleted before the restore")
		}
		sameHashes(t, c)
	})
}

func TestOnlineRestoreRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second))
		backup := filepath.Join(t.TempDir(), "backup.db")
		rev := c.Put("k", "v")
		c.Put("k", "w")
		c.WaitApplied()
		c.Follower().Snapshot(backup)
		cut := filepath.Join(t.TempDir(), "cut.db")
		content, err := os.ReadFile(backup)
		if err != nil {
			t.Fatal(err)
		}
		content[len(content)/2] ^= 1
		if err := os.WriteFile(cut, content, 0o600); err != nil {
			t.Fatal(err)
		}
		right := hashOf(t, backup)
		refused := func(o server.RestoreOnlineOptions, want string) {
			t.Helper()
			_, err := c.Leader().Server().RestoreOnline(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", o, err, want)
			}
		}
		refused(server.RestoreOnlineOptions{Snapshot: backup, Confirm: "deadbeef"}, "the hash given is deadbeef, that of the snapshot is "+right)
		refused(server.RestoreOnlineOptions{Snapshot: backup}, "confirm it")
		refused(server.RestoreOnlineOptions{Snapshot: cut, Confirm: right}, "expected sha256")
		refused(server.RestoreOnlineOptions{Snapshot: backup, Confirm: right, ToRevision: 4711}, "4711")
		refused(server.RestoreOnlineOptions{ToRevision: 4711}, "does not hold revision 4711")
		refused(server.RestoreOnlineOptions{ToRevision: rev, Confirm: "deadbeef"}, "deadbeef")
		refused(server.RestoreOnlineOptions{}, "name a snapshot")
		down := c.Follower()
		down.Stop()
		refused(server.RestoreOnlineOptions{Snapshot: backup, Confirm: right}, "does not answer")
		down.Restart()
		if v, _ := c.Get("k"); v != "w" {
			t.Errorf("k is %q after refusals", v)
		}
	})
}

// Members die while a restore is under way, each at some moment: they end up equal, and the next restore works.
func TestOnlineRestoreWithKills(t *testing.T) {
	for i := range 6 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cluster.Start(t, cluster.Heartbeat(time.Second))
				for j := range 50 {
					c.Put(fmt.Sprint("k", j), strings.Repeat("v", 1000))
				}
				c.WaitApplied()
				backup := filepath.Join(t.TempDir(), "backup.db")
				c.Follower().Snapshot(backup)
				c.Put("k1", "later")
				conductor, victim := c.Leader(), c.Members()[i%3]
				// What is written between members takes its time, so that kills hit different steps.
				for _, a := range c.Members() {
					for _, b := range c.Members() {
						if a != b {
							c.SlowLink(a, b, 20*time.Millisecond, 0)
						}
					}
				}
				s := conductor.Server()
				done := make(chan error, 1)
				go func() {
					ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
					defer cancel()
					_, err := s.RestoreOnline(ctx, server.RestoreOnlineOptions{Snapshot: backup, Confirm: hashOf(t, backup)})
					done <- err
				}()
				time.Sleep(time.Duration(i*150) * time.Millisecond)
				victim.Kill()
				victim.Restart()
				t.Logf("killed %v of the conductor: %v", victim == conductor, <-done)
				c.Put("k2", "goes on")
				sameHashes(t, c)
				c.Leader()
				if _, err := c.Leader().Server().RestoreOnline(t.Context(), server.RestoreOnlineOptions{Snapshot: backup, Confirm: hashOf(t, backup)}); err != nil {
					t.Fatal(err)
				}
				sameHashes(t, c)
				for _, m := range c.Members() {
					m.Restart()
				}
				sameHashes(t, c)
			})
		})
	}
}

// A restore is a task like any other: it waits for its turn, is in the history with what it did, and tells how far it is.
func TestOnlineRestoreIsInTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second))
		at := c.Put("k", "good")
		before := c.Put("k", "bad")
		c.WaitApplied()
		var phases []string
		s := c.Follower().Server()
		result, err := s.RestoreOnline(t.Context(), server.RestoreOnlineOptions{ToRevision: at, Report: func(phase string, _, _ int64) {
			if len(phases) == 0 || phases[len(phases)-1] != phase {
				phases = append(phases, phase)
			}
			if open := s.Maintenance().Open; phase == "commit" && (open == nil || open.Kind != schedulepb.Kind_RESTORE) {
				t.Errorf("open while it commits: %v", open)
			}
		}})
		if err != nil || result.Before != before {
			t.Fatalf("%+v, %v", result, err)
		}
		got := strings.Join(phases, ", ")
		if !strings.HasPrefix(got, "verify, safety snapshot, prepare, stage on ") || !strings.HasSuffix(got, ", commit, compare") {
			t.Errorf("phases: %s", got)
		}
		time.Sleep(time.Second) // the task is closed after its caller is answered
		for _, m := range c.Members() {
			events := m.Server().MaintenanceEvents(0)
			if len(events) < 2 {
				t.Fatalf("%d events", len(events))
			}
			begun, ended := events[len(events)-2], events[len(events)-1]
			if begun.Type != schedulepb.Event_BEGUN || !strings.Contains(begun.Reason, fmt.Sprint("its own revision ", at)) {
				t.Errorf("begun: %v", begun)
			}
			o := ended.Outcome
			if o.GetResult() != schedulepb.Outcome_DONE || o.Hash != result.Hash || !strings.Contains(o.Message, result.SafetySnapshot) ||
				!strings.Contains(o.Message, fmt.Sprintf("were at %d and go on from %d", before, result.Revision)) {
				t.Errorf("ended: %v", ended)
			}
		}
	})
}

// What was given to the members for a restore that is given up is gone from all of them at once.
func TestOnlineRestoreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Heartbeat(time.Second))
		at := c.Put("k", "good")
		c.Put("k", "bad")
		c.WaitApplied()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		staged := 0
		s := c.Follower().Server()
		_, err := s.RestoreOnline(ctx, server.RestoreOnlineOptions{ToRevision: at, Report: func(phase string, _, _ int64) {
			if strings.HasPrefix(phase, "stage on ") {
				if staged = stagedFiles(c); staged == 2 { // here, and on the first of the others
					cancel()
				}
			}
		}})
		if err == nil || staged != 2 {
			t.Fatalf("%v, with %d files", err, staged)
		}
		if n := stagedFiles(c); n != 0 {
			t.Errorf("%d staged files are left", n)
		}
		if v, _ := c.Get("k"); v != "bad" {
			t.Errorf("k is %q", v)
		}
		time.Sleep(time.Second)
		events := s.MaintenanceEvents(0)
		if last := events[len(events)-1]; last.Outcome.GetResult() != schedulepb.Outcome_CANCELLED {
			t.Errorf("last event: %v", last)
		}
	})
}

func stagedFiles(c *cluster.Cluster) (n int) {
	for _, m := range c.Members() {
		files, _ := filepath.Glob(filepath.Join(m.DataDir(), "member", "snap", "*.restore.db"))
		n += len(files)
	}
	return n
}
