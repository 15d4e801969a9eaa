package badinput

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestKillDuringDefrag kills a member at several points of the copy, and around its end. The file is the old or the new
// one, both whole.
func TestKillDuringDefrag(t *testing.T) {
	t.Parallel()
	const keys = 64
	m := proc.Single(t, upkeep(t), filepath.Join(t.TempDir(), "data"), peerURL(t))
	fillKeys(t, m.Client(), keys, 1<<20)
	want := hashOf(t, m)
	temps := filepath.Join(m.DataDir, "member", "snap", "db.tmp.*")
	random := rand.New(rand.NewPCG(5, 6))
	for round := range 6 {
		client := m.Client()
		done := make(chan error, 1)
		go func() {
			_, err := client.Defragment(context.Background(), m.ClientURL)
			done <- err
		}()
		// From the beginning of the copy to behind its end.
		until := int64(keys<<20) * int64(round) / 5
		eventually(t, "the copy to come far enough", func() bool {
			select {
			case err := <-done:
				done <- err
				return true
			default:
			}
			found, _ := filepath.Glob(temps)
			if len(found) == 0 {
				return false
			}
			info, err := os.Stat(found[0])
			return err == nil && info.Size() >= until
		})
		if round == 5 {
			time.Sleep(time.Duration(random.IntN(50)) * time.Millisecond) // around the rename
		}
		m.Kill()
		<-done
		m.Restart()
		if got := hashOf(t, m); got != want {
			t.Fatalf("round %d: hash %d, want %d", round, got, want)
		}
		if left, _ := filepath.Glob(temps); len(left) > 0 {
			t.Errorf("round %d: %v was left", round, left)
		}
	}
	noPanic(t, m.Output())
	m.Stop()
	run(t, upkeepctl(t), "check", database(m)).says(t, 0, `is sound`)
}

// TestKillDuringTransfer kills the receiver and the sender of a state transfer, several times over. In the end all are
// level, with the same history.
func TestKillDuringTransfer(t *testing.T) {
	t.Parallel()
	const keys = 64
	c := proc.Start(t, upkeep(t), 3, "--snapshot-count=20", "--snapshot-catchup-entries=5")
	lagging := follower(t, c)
	lagging.Kill()
	fillKeys(t, leader(t, without(c, lagging)).Client(), keys, 1<<20)
	incoming := filepath.Join(lagging.DataDir, "member", "snap", "*.snap.db*")
	arriving := func(from int64) {
		eventually(t, "the transfer", func() bool {
			found, _ := filepath.Glob(incoming)
			for _, path := range found {
				if info, err := os.Stat(path); err == nil && info.Size() >= from {
					return true
				}
			}
			return false
		})
	}
	for i := range 3 {
		lagging.Launch()
		arriving(int64(i) * (keys << 20) / 3)
		lagging.Kill()
	}
	lagging.Launch()
	arriving(keys << 20 / 4)
	sender := leader(t, without(c, lagging))
	sender.Kill()
	sender.Launch()
	for _, m := range c.Members {
		m.WaitReady()
	}
	waitLevel(t, c)
	want := hashOf(t, c.Members[0])
	for _, m := range c.Members {
		if got := hashOf(t, m); got != want {
			t.Errorf("%s: hash %d, want %d", m.Name, got, want)
		}
		noPanic(t, m.Output())
	}
	eventually(t, "the received file to be gone", func() bool {
		found, _ := filepath.Glob(incoming)
		return len(found) == 0
	})
	lagging.Kill()
	lagging.Restart()
	acknowledgedAreThere(t, lagging.Client(), "k", keys)
}

// TestPaused: a leader that is paused is replaced, and follows when it goes on; what either acknowledged stays.
func TestPaused(t *testing.T) {
	t.Parallel()
	c := proc.Start(t, upkeep(t), 3)
	client := c.Client()
	put(t, client, "before", "1")
	old := leader(t, c)
	check(t, syscall.Kill(old.Pid(), syscall.SIGSTOP))
	rest := without(c, old)
	lead := leader(t, rest)
	put(t, lead.Client(), "meanwhile", "2")
	check(t, syscall.Kill(old.Pid(), syscall.SIGCONT))
	waitLevel(t, c)
	for _, m := range c.Members {
		if get(t, m.Client(), "before") != "1" || get(t, m.Client(), "meanwhile") != "2" {
			t.Errorf("%s lacks what was acknowledged", m.Name)
		}
		noPanic(t, m.Output())
	}
	put(t, old.Client(), "after", "3")
	// A member alone is just as unimpressed.
	single := proc.Single(t, upkeep(t), filepath.Join(t.TempDir(), "data"), peerURL(t))
	check(t, syscall.Kill(single.Pid(), syscall.SIGSTOP))
	time.Sleep(2 * time.Second) // longer than its election timeout is the point
	check(t, syscall.Kill(single.Pid(), syscall.SIGCONT))
	put(t, single.Client(), "k", "v")
}

func without(c *proc.Cluster, gone *proc.Member) *proc.Cluster {
	rest := &proc.Cluster{}
	for _, m := range c.Members {
		if m != gone {
			rest.Members = append(rest.Members, m)
		}
	}
	return rest
}

func fillKeys(t *testing.T, client *clientv3.Client, keys, bytes int) {
	t.Helper()
	value := text(bytes)
	for i := range keys {
		put(t, client, fmt.Sprintf("k%04d", i), value)
	}
}
