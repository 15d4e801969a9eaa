package backups

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/server/maintenance"
	"github.com/upkeep-kv/upkeep/snapshot/backup"
	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// patience bounds a wait for a process on a slow machine.
const patience = 2 * time.Minute

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

func list(t *testing.T, r *backup.Repository) *backup.Inventory {
	t.Helper()
	inventory, err := r.List(context.Background())
	check(t, err)
	return inventory
}

// ask asks for a full backup now. What it answers does not matter: the member may be killed meanwhile.
func ask(ctx context.Context, m *proc.Member) {
	_, _ = upkeeppb.NewUpkeepClient(m.Client().ActiveConnection()).Run(ctx, &upkeeppb.RunRequest{
		Kind:       schedulepb.Kind_BACKUP,
		Parameters: []*schedulepb.Parameter{{Name: maintenance.ParamBackup, Value: maintenance.BackupFull}},
	}, grpc.WaitForReady(true))
}

// TestKillDuringBackup kills a member at several points of its backups. The repository stays valid, all that is listed
// can be restored, and the next run goes on.
func TestKillDuringBackup(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	repository := filepath.Join(t.TempDir(), "repository")
	m := proc.Single(t, proc.Build(t, "upkeep"), filepath.Join(t.TempDir(), "data"), "http://"+ports.Address(t),
		"--upkeep-backup-to", repository, "--upkeep-settle", "0s", "--upkeep-backup-compress=false", "--upkeep-backup-keep-count", "3")
	r, err := backup.Open(repository)
	check(t, err)
	value := strings.Repeat("x", 1<<20)
	client := m.Client()
	for i := range 24 {
		_, err := client.Put(ctx, fmt.Sprintf("big%d", i), value)
		check(t, err)
	}
	rng := rand.New(rand.NewPCG(7, 8))
	scratch := filepath.Join(m.DataDir, "backup.scratch", "*")
	for round := range 3 {
		newest := list(t, r).Totals(0).Newest
		_, err := m.Client().Put(ctx, "round", fmt.Sprint(round))
		check(t, err)
		ask(ctx, m)
		// An upload or a verification is under way.
		eventually(t, "a backup to begin", func() bool {
			parts, _ := filepath.Glob(filepath.Join(repository, ".part-*"))
			restores, _ := filepath.Glob(scratch)
			return len(parts)+len(restores) > 0
		})
		time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
		m.Kill()
		inventory := list(t, r)
		if len(inventory.Problems) > 0 {
			t.Fatalf("round %d: %v", round, inventory.Problems)
		}
		m.Restart()
		ask(ctx, m)
		eventually(t, "the next backup", func() bool { return list(t, r).Totals(0).Newest.After(newest) })
		if left, _ := filepath.Glob(filepath.Join(m.DataDir, "backup.scratch", "upkeep-verify-*")); len(left) > 1 {
			t.Fatalf("round %d: scratch directories were left: %v", round, left)
		}
	}
	m.Stop()
	inventory := list(t, r)
	last := inventory.Backups[len(inventory.Backups)-1]
	got, _ := restoreTo(t, r, backup.Target{Revision: last.ToRevision})
	if got.revision != last.ToRevision || got.hash != last.Hash.Hash || !strings.Contains(got.keys, "round=") {
		t.Fatalf("restored revision %d, hash %d; the backup says %d, %d", got.revision, got.hash, last.ToRevision, last.Hash.Hash)
	}
}

// TestKillDuringRestore kills upkeepctl while it restores. The data directory is not there or whole, and running it again
// gives a member that serves what was there.
func TestKillDuringRestore(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	repository := filepath.Join(t.TempDir(), "repository")
	peer := "http://" + ports.Address(t)
	m := proc.Single(t, proc.Build(t, "upkeep"), filepath.Join(t.TempDir(), "data"), peer, "--upkeep-backup-to", repository,
		"--upkeep-settle", "0s")
	value := strings.Repeat("x", 1<<20)
	for i := range 24 {
		_, err := m.Client().Put(ctx, fmt.Sprintf("big%d", i), value)
		check(t, err)
	}
	ask(ctx, m)
	r, err := backup.Open(repository)
	check(t, err)
	const full = 25 // revision 1 is the empty store
	var want *backup.Manifest
	eventually(t, "a full backup of everything", func() bool {
		for _, b := range list(t, r).Backups {
			if b.Kind == backup.Full && b.ToRevision == full {
				want = b
			}
		}
		return want != nil
	})
	m.Stop()

	ctl := proc.Build(t, "upkeepctl")
	dir := filepath.Join(t.TempDir(), "restored")
	arguments := []string{"restore", "--from", repository, "--data-dir", dir, "--name", "m0", "--to-revision", fmt.Sprint(want.ToRevision),
		"--initial-cluster", "m0=" + peer, "--initial-advertise-peer-urls", peer}
	killed := 0
	for delay := 20 * time.Millisecond; killed < 6; delay += 40 * time.Millisecond {
		cmd := exec.Command(ctl, arguments...)
		check(t, cmd.Start())
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			check(t, err)
			killed = 6
		case <-time.After(delay):
			check(t, cmd.Process.Kill())
			<-done
			killed++
		}
		if _, err := os.Stat(filepath.Join(dir, "member")); err == nil {
			killed = 6
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "member")); err != nil {
		out, err := exec.Command(ctl, arguments...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	restored := proc.Single(t, proc.Build(t, "upkeep"), dir, peer, "--initial-cluster-token", "etcd-cluster")
	resp, err := restored.Client().Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	check(t, err)
	hash, err := restored.Client().HashKV(ctx, restored.ClientURL, want.ToRevision)
	check(t, err)
	if resp.Header.Revision != want.ToRevision || hash.Hash != want.Hash.Hash || resp.Count == 0 {
		t.Fatalf("revision %d, %d keys, hash %d; the backup says %d, %d", resp.Header.Revision, resp.Count, hash.Hash, want.ToRevision,
			want.Hash.Hash)
	}
}
