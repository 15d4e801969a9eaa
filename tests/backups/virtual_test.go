package backups

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/snapshot"
	"github.com/upkeep-kv/upkeep/snapshot/backup"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// scheduled starts a cluster that is backed up to dir.
func scheduled(t *testing.T, dir string, members int, change func(*config.Upkeep)) *cluster.Cluster {
	return cluster.Start(t, cluster.Members(members), cluster.Heartbeat(time.Second), cluster.Configure(func(c *config.Config) {
		u := &c.Upkeep
		u.BackupTo, u.BackupFullInterval, u.BackupIncrementalInterval = dir, time.Hour, 5*time.Minute
		u.BackupKeepCount = 0
		if change != nil {
			change(u)
		}
	}))
}

// moment is what a cluster held at one time.
type moment struct {
	at       time.Time
	revision int64
	keys     string
	hash     uint32
	compact  int64
}

// look records the state now, which the member has sampled once the second is over.
func look(t *testing.T, c *cluster.Cluster) moment {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := c.Client()
	time.Sleep(1500 * time.Millisecond)
	resp, err := client.Get(ctx, "", clientv3.WithPrefix())
	check(t, err)
	running := slices.IndexFunc(c.Members(), (*cluster.Member).Running)
	hash, err := client.HashKV(ctx, c.Member(running).ClientURL(), resp.Header.Revision)
	check(t, err)
	m := moment{at: time.Now(), revision: resp.Header.Revision, hash: hash.Hash, compact: hash.CompactRevision}
	for _, kv := range resp.Kvs {
		m.keys += fmt.Sprintf("%s=%s v%d\n", kv.Key, kv.Value, kv.Version)
	}
	return m
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// restoreTo restores into a new directory and returns what a member finds there.
func restoreTo(t *testing.T, r *backup.Repository, target backup.Target) (moment, *backup.RestorePlan) {
	t.Helper()
	ctx := context.Background()
	plan, err := r.PlanRestore(ctx, target)
	check(t, err)
	dir := filepath.Join(t.TempDir(), "data")
	_, err = plan.Run(ctx, snapshot.RestoreOptions{DataDir: dir, InitialMmapBytes: 1 << 26})
	check(t, err)
	b, err := backend.Open(backend.Config{Path: filepath.Join(dir, "member", "snap", "db"), NoSync: true})
	check(t, err)
	defer b.Close()
	store, err := mvcc.Open(b, mvcc.Config{})
	check(t, err)
	defer store.Close()
	got := moment{revision: store.Revision()}
	result, err := store.Range(ctx, []byte{0}, []byte{0}, mvcc.RangeOptions{})
	check(t, err)
	for _, kv := range result.KVs {
		got.keys += fmt.Sprintf("%s=%s v%d\n", kv.Key, kv.Value, kv.Version)
	}
	hash, err := store.ReadHashKV(ctx, 0)
	check(t, err)
	got.hash, got.compact = hash.Hash, hash.CompactRevision
	return got, plan
}

// TestHoursOfBackups: with full backups every hour and incremental ones every five minutes each moment in between can be
// restored, whichever member took the backups, while leaders change and a member is down.
func TestHoursOfBackups(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := scheduled(t, dir, 3, nil)
		rng := rand.New(rand.NewPCG(3, 4))
		var moments []moment
		for minute := range 150 {
			for range 1 + rng.IntN(3) {
				c.Put(fmt.Sprintf("k%d", rng.IntN(20)), fmt.Sprint("at ", minute, " ", rng.IntN(1000)))
			}
			if rng.IntN(5) == 0 {
				_, err := c.Client().Delete(context.Background(), fmt.Sprintf("k%d", rng.IntN(20)))
				check(t, err)
			}
			if rng.IntN(8) == 0 {
				moments = append(moments, look(t, c))
			}
			switch minute {
			case 40:
				c.MoveLeader(c.Follower())
			case 70:
				c.Follower().Stop()
			case 95:
				for _, m := range c.Members() {
					if !m.Running() {
						m.Launch()
						m.WaitReady()
					}
				}
			}
			time.Sleep(time.Minute)
		}
		time.Sleep(6 * time.Minute)
		r, err := backup.Open(dir)
		check(t, err)
		inventory, err := r.List(context.Background())
		check(t, err)
		verifyDay(t, inventory, 3, 28)
		// Of one every five minutes each full backup replaces one.
		for _, want := range moments {
			got, plan := restoreTo(t, r, backup.Target{At: want.at})
			if got.keys != want.keys || got.revision != want.revision {
				t.Fatalf("at %v: revision %d by %d backups\n%s\nwanted revision %d\n%s", want.at, got.revision, len(plan.Chain),
					got.keys, want.revision, want.keys)
			}
			if got.hash != want.hash || got.compact != want.compact {
				t.Fatalf("at %v: hash %d at compaction %d, the cluster's was %d at %d", want.at, got.hash, got.compact, want.hash, want.compact)
			}
		}
		if len(moments) < 10 {
			t.Fatalf("only %d moments were looked at", len(moments))
		}
	})
}

func verifyDay(t *testing.T, inventory *backup.Inventory, fulls, atLeast int) {
	t.Helper()
	members := map[string]bool{}
	full := 0
	for _, m := range inventory.Backups {
		members[m.MemberName] = true
		if !m.Good() {
			t.Errorf("%s is not verified", m.ID)
		}
		if m.Kind == backup.Full {
			full++
		}
	}
	if full != fulls || len(inventory.Backups) < atLeast || len(inventory.Problems)+len(inventory.Strays) > 0 {
		var ids []string
		for _, m := range inventory.Backups {
			ids = append(ids, m.ID+": "+m.Reason)
		}
		t.Errorf("%d full ones among %d, problems %v, strays %v:\n%s", full, len(inventory.Backups), inventory.Problems,
			inventory.Strays, strings.Join(ids, "\n"))
	}
	t.Logf("%d backups by %d members", len(inventory.Backups), len(members))
}
