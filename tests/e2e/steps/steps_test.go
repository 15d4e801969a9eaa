package steps

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/snapshot/backup"
	"github.com/upkeep-kv/upkeep/tests/longrun"
	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

func TestKillAtEveryStep(t *testing.T) {
	t.Run("defrag", killAtDefrag)
	t.Run("backup", killAtBackup)
	t.Run("rebuild", killAtRebuild)
	t.Run("online restore", killAtOnlineRestore)
	t.Run("offline restore", killAtOfflineRestore)
}

// A database is copied, the copy catches up, is verified and takes the old one's place.
func killAtDefrag(t *testing.T) {
	t.Parallel()
	v := start(t, 1, 16)
	v.kills(schedulepb.Kind_DEFRAG, nil, nil, "copy", "catch up", "verify structure", "verify", "swap")
	v.end()
}

// Full backups are uploaded and restored to verify them, older ones are removed; increments are read.
func killAtBackup(t *testing.T) {
	t.Parallel()
	repository := filepath.Join(t.TempDir(), "repository")
	v := start(t, 1, 16, "--upkeep-backup-to", repository, "--upkeep-backup-full-interval=720h",
		"--upkeep-backup-incremental-interval=720h", "--upkeep-backup-keep-count=2", "--upkeep-backup-compress=false")
	r, err := backup.Open(repository)
	if err != nil {
		t.Fatal(err)
	}
	k := keeper{t: t, repository: r}
	full, incremental := map[string]string{"backup": "full"}, map[string]string{"backup": "incremental"}
	v.finished(v.ask(schedulepb.Kind_BACKUP, full))
	v.kills(schedulepb.Kind_BACKUP, full, k.check, "hash", "upload", "verify", "over")
	v.kills(schedulepb.Kind_BACKUP, incremental, k.check, "starting", "upload", "verify")
	v.end()
	if left, _ := filepath.Glob(filepath.Join(v.m.DataDir, "backup.scratch", "*")); len(left) > 0 {
		t.Errorf("left in the scratch directory: %v", left)
	}
}

// keeper looks at a repository.
type keeper struct {
	t          *testing.T
	repository *backup.Repository
	newest     *backup.Manifest
}

// check: the newest good full backup that there ever was is there, or a newer one, and the newest of all can be restored.
func (k *keeper) check() {
	k.t.Helper()
	inventory, err := k.repository.List(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	var good *backup.Manifest
	for _, m := range inventory.Backups {
		if m.Kind == backup.Full && m.Good() && (good == nil || m.TakenAt.After(good.TakenAt)) {
			good = m
		}
	}
	switch {
	case len(inventory.Problems) > 0:
		k.t.Errorf("problems of the repository: %v", inventory.Problems)
	case good == nil:
		k.t.Fatalf("no good full backup among %d", len(inventory.Backups))
	case k.newest != nil && good.TakenAt.Before(k.newest.TakenAt):
		k.t.Errorf("the newest good full backup %s is gone, the newest is %s", k.newest.ID, good.ID)
	}
	k.newest = good
	last := inventory.Backups[len(inventory.Backups)-1]
	chain, err := inventory.Chain(last)
	if err != nil {
		k.t.Fatal(err)
	}
	if v, err := k.repository.VerifyByRestoring(k.t.Context(), chain, k.t.TempDir()); err != nil || v.Error != "" {
		k.t.Errorf("restoring %s: %v, %v", last.ID, v, err)
	}
}

// A member's database is fetched from another member and takes the old one's place.
func killAtRebuild(t *testing.T) {
	t.Parallel()
	v := start(t, 3, 8)
	v.kills(schedulepb.Kind_REBUILD, nil, nil, "compare", "fetch", "swap", "verify")
	v.end()
}

// A running cluster is taken back to one of its revisions, and the member that does it, or another one, is killed. All
// members are back, or none is; asked again it succeeds.
func killAtOnlineRestore(t *testing.T) {
	t.Parallel()
	v := start(t, 3, 4)
	v.load.stop() // what is acknowledged between the revision and the restore is meant to go
	v.load.check(t, v.c)
	steps := []string{"verify", "safety snapshot", "prepare", "stage", "commit", "compare"}
	end := time.Now().Add(longrun.Length(t, 0) / 5)
	back := map[string]int{}
	for round := 0; round < len(steps) || time.Now().Before(end); round++ {
		value, step := fmt.Sprint("round ", round), steps[round%len(steps)]
		v.restoreOnline(value, step, v.c.Members[v.rng.IntN(2)])
		for _, m := range v.c.Members {
			m.Stop() // in good order, but for the one that was killed
			m.Restart()
		}
		sameHashes(t, v.c)
		got := map[string]int{}
		for _, m := range v.c.Members {
			got[v.marker(m)]++
		}
		switch {
		case got[value+", before"] == 3:
			back[step]++
		case got[value+", after"] != 3:
			t.Fatalf("killed at %q, the members hold %v", step, got)
		}
		v.restoreOnline("again", "", nil)
	}
	t.Logf("kills after which the restore took place, by step: %v", back)
	sameHashes(t, v.c)
	for _, m := range v.c.Members {
		m.Stop()
		v.checkDatabase(m)
	}
}

// restoreOnline writes a marker, and goes back to what was before its second value. At the step, or when it is over, a member
// is killed; without one the restore must succeed.
func (v *victim) restoreOnline(value, step string, kill *proc.Member) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	client := v.c.Members[0].Client()
	before, err := client.Put(ctx, "marker", value+", before")
	if err == nil {
		_, err = client.Put(ctx, "marker", value+", after")
	}
	if err != nil {
		v.t.Fatal(err)
	}
	stream, err := upkeeppb.NewUpkeepClient(client.ActiveConnection()).Restore(ctx)
	if err == nil {
		_ = stream.Send(&upkeeppb.RestoreRequest{Live: true, ToRevision: before.Header.Revision}) // shows below
		err = stream.CloseSend()
	}
	for err == nil {
		var resp *upkeeppb.RestoreResponse
		resp, err = stream.Recv()
		if kill != nil && (err != nil || resp.Progress == nil || strings.HasPrefix(resp.Progress.Phase, step)) {
			time.Sleep(time.Duration(v.rng.IntN(15)) * time.Millisecond) // a random moment is the point here
			kill.Kill()
			return
		}
		if err == nil && resp.Progress == nil {
			break
		}
	}
	if err != nil {
		v.t.Fatalf("restoring: %v", err)
	}
	for _, m := range v.c.Members {
		if got := v.marker(m); got != value+", before" {
			v.t.Fatalf("%s holds %q after the restore", m.Name, got)
		}
	}
}

func (v *victim) marker(m *proc.Member) string {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	resp, err := m.Client().Get(ctx, "marker")
	if err != nil || len(resp.Kvs) != 1 {
		v.t.Fatalf("%s: %v, %v", m.Name, resp, err)
	}
	return string(resp.Kvs[0].Value)
}

// `upkeepctl snapshot restore` and `upkeepctl restore` make a data directory. Killed at any moment, they leave none or a whole
// one; run again they succeed, and a member starts on it with all that the snapshot holds.
func killAtOfflineRestore(t *testing.T) {
	t.Parallel()
	repository := filepath.Join(t.TempDir(), "repository")
	v := start(t, 1, 16, "--upkeep-backup-to", repository, "--upkeep-backup-full-interval=720h",
		"--upkeep-backup-incremental-interval=720h")
	v.load.stop()
	v.finished(v.ask(schedulepb.Kind_BACKUP, map[string]string{"backup": "full"}))
	v.finished(v.ask(schedulepb.Kind_BACKUP, map[string]string{"backup": "incremental"}))
	file := filepath.Join(t.TempDir(), "snapshot.db")
	ctl := proc.Build(t, "upkeepctl")
	if out, err := exec.Command(ctl, "--endpoints", v.m.ClientURL, "snapshot", "save", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := contents(t, v.m)
	v.m.Stop()
	end := time.Now().Add(longrun.Length(t, 0) / 5)
	for round := 0; round == 0 || time.Now().Before(end); round++ {
		v.killRestore(ctl, want, "snapshot", "restore", file)
		v.killRestore(ctl, want, "restore", "--from", repository)
	}
}

// killRestore kills a command that restores several times, lets it succeed, and starts a member.
func (v *victim) killRestore(ctl string, want map[string]string, args ...string) {
	v.t.Helper()
	dir := filepath.Join(v.t.TempDir(), "data")
	peer := "http://" + ports.Address(v.t)
	args = append(args, "--data-dir", dir, "--name", "m0", "--initial-cluster", "m0="+peer, "--initial-advertise-peer-urls", peer)
	began := time.Now()
	v.restore(ctl, args)
	took := time.Since(began)
	for range 4 {
		if err := os.RemoveAll(dir); err != nil {
			v.t.Fatal(err)
		}
		cmd := exec.Command(ctl, args...)
		if err := cmd.Start(); err != nil {
			v.t.Fatal(err)
		}
		time.Sleep(time.Duration(v.rng.Int64N(int64(took)))) // a random moment is the point here
		_ = cmd.Process.Kill()                               // it may have ended
		_ = cmd.Wait()
		if _, err := os.Stat(filepath.Join(dir, "member")); err == nil {
			break // whole, whether or not anybody was told: a member must start on it
		}
		if _, err := os.Stat(dir); err == nil {
			v.refusesUnfinished(dir, peer)
		}
		v.restore(ctl, args)
	}
	m := proc.Single(v.t, proc.Build(v.t, "upkeep"), dir, peer)
	defer m.Kill()
	got := contents(v.t, m)
	if len(got) != len(want) {
		v.t.Errorf("%d keys, the snapshot has %d", len(got), len(want))
	}
	for k, value := range want {
		if got[k] != value {
			v.t.Errorf("%s differs", k)
		}
	}
}

// refusesUnfinished: no member begins empty where a restore was broken off.
func (v *victim) refusesUnfinished(dir, peer string) {
	v.t.Helper()
	m := proc.Prepare(v.t, proc.Build(v.t, "upkeep"), "m0", dir, peer)
	m.Launch()
	if code := m.WaitExit(); code == 0 || !strings.Contains(m.Output(), "broken off") {
		v.t.Errorf("exit code %d on a restore that was broken off: %s", code, m.Output())
	}
}

func (v *victim) restore(ctl string, args []string) {
	v.t.Helper()
	if out, err := exec.Command(ctl, args...).CombinedOutput(); err != nil {
		v.t.Fatalf("upkeepctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func contents(t *testing.T, m *proc.Member) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	keys := map[string]string{}
	for from := "\x00"; ; {
		resp, err := m.Client().Get(ctx, from, clientv3.WithFromKey(), clientv3.WithLimit(16))
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range resp.Kvs {
			keys[string(kv.Key)] = string(kv.Value)
			from = string(kv.Key) + "\x00"
		}
		if !resp.More {
			return keys
		}
	}
}
