package badinput

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// smallDisk mounts a disk of its own for the test.
type smallDisk struct {
	t   *testing.T
	dir string
}

func newDisk(t *testing.T, mebibytes int) smallDisk {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	check(t, os.Mkdir(dir, 0o700))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mebibytes)); err != nil {
		t.Skipf("a disk that can be filled needs the right to mount one: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return smallDisk{t, dir}
}

// fill uses up all space but what spare says, in bytes, and returns how to give it back.
func (d smallDisk) fill(spare int64) (empty func()) {
	d.t.Helper()
	path := filepath.Join(d.dir, "hog")
	f, err := os.Create(path)
	check(d.t, err)
	defer f.Close()
	var st syscall.Statfs_t
	check(d.t, syscall.Statfs(d.dir, &st))
	zeroes := make([]byte, st.Bsize)
	// Most of it at once, the rest page by page, for others use space meanwhile.
	for most := int64(st.Bavail)*st.Bsize - spare; most > 1<<20; most -= 1 << 20 {
		if err := syscall.Fallocate(int(f.Fd()), 0, 0, most); err == nil {
			_, err = f.Seek(most, io.SeekStart)
			check(d.t, err)
			break
		}
	}
	for {
		check(d.t, syscall.Statfs(d.dir, &st))
		if int64(st.Bavail)*st.Bsize <= spare {
			break
		}
		if _, err := f.Write(zeroes); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			d.t.Fatal(err)
		}
	}
	return func() { check(d.t, os.Remove(path)) }
}

// grow makes the disk larger.
func (d smallDisk) grow(mebibytes int) {
	d.t.Helper()
	check(d.t, syscall.Mount("tmpfs", d.dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%dm", mebibytes)))
}

// random text that does not compress, so that sizes are what they seem.
func text(bytes int) string {
	var b strings.Builder
	for b.Len() < bytes {
		fmt.Fprintf(&b, "%016x", rand.Uint64())
	}
	return b.String()[:bytes]
}

// writeUntilRefused puts value under numbered keys until one is not acknowledged in time or something else ends it, and
// returns how many were.
func writeUntilRefused(t *testing.T, client *clientv3.Client, prefix, value string, most int) (acknowledged int) {
	t.Helper()
	for i := range most {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		_, err := client.Put(ctx, fmt.Sprintf("%s%04d", prefix, i), value)
		cancel()
		if err != nil {
			return i
		}
	}
	t.Fatalf("%d writes of %d bytes fit", most, len(value))
	return 0
}

// acknowledgedAreThere compares the numbered keys with what was acknowledged. One more may be there: a write that was not
// acknowledged may have happened all the same.
func acknowledgedAreThere(t *testing.T, client *clientv3.Client, prefix string, acknowledged int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	check(t, err)
	if resp.Count < int64(acknowledged) || resp.Count > int64(acknowledged)+1 {
		t.Errorf("%d keys, but %d were acknowledged", resp.Count, acknowledged)
	}
}

// TestFullDiskOfDatabase: the log takes what clients write until memory is used up; then writes wait. Reads go on. With
// space again, with a restart in between or without, all that was acknowledged is there.
func TestFullDiskOfDatabase(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			disk := newDisk(t, 32)
			m := proc.Single(t, upkeep(t), filepath.Join(disk.dir, "data"), peerURL(t),
				"--wal-dir", filepath.Join(t.TempDir(), "wal"), "--backend-batch-limit=50", "--backend-batch-interval=10ms")
			client := m.Client()
			put(t, client, "before", "1")
			empty := disk.fill(0)
			n := writeUntilRefused(t, client, "k", text(20_000), 1000)
			waitOutput(t, m, `backend commit failed, keeping the batch and trying again.*member/snap/db.*no space left on device`)
			if n < 50 || get(t, client, "before", clientv3.WithSerializable()) != "1" {
				t.Errorf("%d writes acknowledged; the member does not serve what it has", n)
			}
			if restart {
				start := time.Now()
				m.Stop()
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("with a full disk, stopping took %v", took)
				}
				mustMatch(t, m.Output(), `closing the database: .*no space left on device; what it lacks is in the log`)
				m.Launch()
				waitOutput(t, m, `(?s)closing the database.*backend commit failed.*no space left on device`)
			}
			empty()
			m.WaitReady()
			waitOutput(t, m, `backend commits succeed again`)
			put(t, client, "after", "1")
			acknowledgedAreThere(t, client, "k", n)
			m.Stop()
			noPanic(t, m.Output())
			m.Restart()
			acknowledgedAreThere(t, client, "k", n)
		})
	}
}

// TestFullDiskOfLog: nothing can be acknowledged any more, so the member stops and says why; it starts again once there
// is space.
func TestFullDiskOfLog(t *testing.T) {
	t.Parallel()
	disk := newDisk(t, 72) // one segment of 64 MB, and no room for the next
	m := proc.Single(t, upkeep(t), filepath.Join(t.TempDir(), "data"), peerURL(t), "--wal-dir", filepath.Join(disk.dir, "wal"))
	client := m.Client()
	n := writeUntilRefused(t, client, "k", text(1<<20), 100)
	ended{m.WaitExit(), m.Output()}.says(t, 1,
		`cannot prepare the next segment of the log.*no space left on device`,
		`the server stops.*/disk/wal/.*no space left on device.*free space`)
	m.Launch() // still full: it may start, but must not do harm
	if exited := m.Exited(); true {
		select {
		case <-exited:
			ended{m.WaitExit(), m.Output()}.says(t, 1)
		case <-time.After(time.Second):
			m.Kill()
		}
	}
	disk.grow(400)
	m.Restart()
	acknowledgedAreThere(t, client, "k", n)
	put(t, client, "after", "1")
	m.Kill()
	m.Restart()
	acknowledgedAreThere(t, client, "k", n)
	noPanic(t, m.Output())
}

// TestFullDiskAtFirstStart: what a failed first start leaves must not stand in the way of the next.
func TestFullDiskAtFirstStart(t *testing.T) {
	t.Parallel()
	disk := newDisk(t, 160)
	for _, spare := range []int64{0, 8 << 10, 16 << 10, 24 << 10, 64 << 10, 1 << 20} {
		empty := disk.fill(spare)
		dir := filepath.Join(disk.dir, fmt.Sprintf("data-%d", spare))
		m := proc.Prepare(t, upkeep(t), "m0", dir, peerURL(t))
		m.Launch()
		ended{m.WaitExit(), m.Output()}.says(t, 1, `no space left on device`, `/data-`)
		empty()
		m.Restart()
		put(t, m.Client(), "k", "v")
		m.Kill()
		check(t, os.RemoveAll(dir))
	}
}

// TestFullDiskDuringDefrag: refused at once if the copy cannot fit, given up if the space goes meanwhile; the old file
// stays and the member goes on.
func TestFullDiskDuringDefrag(t *testing.T) {
	t.Parallel()
	disk := newDisk(t, 160)
	m := proc.Single(t, upkeep(t), filepath.Join(disk.dir, "data"), peerURL(t), "--wal-dir", filepath.Join(t.TempDir(), "wal"))
	client := m.Client()
	for i := range 48 {
		put(t, client, fmt.Sprintf("k%04d", i), text(1<<20))
	}
	hash := hashOf(t, m)
	empty := disk.fill(1 << 20)
	_, err := client.Defragment(t.Context(), m.ClientURL)
	if err == nil || !strings.Contains(err.Error(), "not enough free disk space") {
		t.Errorf("with no space: %v", err)
	}
	empty()
	failed := make(chan error, 1)
	go func() {
		_, err := client.Defragment(t.Context(), m.ClientURL)
		failed <- err
	}()
	temps := filepath.Join(m.DataDir, "member", "snap", "db.tmp.*")
	eventually(t, "the copy to begin", func() bool {
		found, _ := filepath.Glob(temps)
		return len(found) > 0
	})
	empty = disk.fill(0)
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("with space that went: %v", err)
	}
	if found, _ := filepath.Glob(temps); len(found) > 0 {
		t.Errorf("%v was left", found)
	}
	mustMatch(t, m.Output(), `defragmentation failed.*no space left on device`)
	empty()
	put(t, client, "after", "1")
	_, err = client.Defragment(t.Context(), m.ClientURL)
	check(t, err)
	_, err = client.Delete(t.Context(), "after")
	check(t, err)
	m.Kill()
	m.Restart()
	acknowledgedAreThere(t, client, "k", 48)
	if again := hashOf(t, m); again == hash {
		t.Error("the test does not see changes of the history")
	}
	noPanic(t, m.Output())
}

// TestFullDiskDuringBackup: neither a saved nor a restored half is left, and an older backup stays.
func TestFullDiskDuringBackup(t *testing.T) {
	t.Parallel()
	m := proc.Single(t, upkeep(t), filepath.Join(t.TempDir(), "data"), peerURL(t))
	client := m.Client()
	for i := range 8 {
		put(t, client, fmt.Sprintf("k%04d", i), text(1<<20))
	}
	good := filepath.Join(t.TempDir(), "good.db")
	ctl := upkeepctl(t)
	run(t, ctl, "--endpoints", m.ClientURL, "snapshot", "save", good).says(t, 0)
	disk := newDisk(t, 4)
	backup := filepath.Join(disk.dir, "backup.db")
	for _, older := range []bool{false, true} {
		if older {
			check(t, os.WriteFile(backup, []byte("an older backup"), 0o600))
		}
		run(t, ctl, "--endpoints", m.ClientURL, "snapshot", "save", backup).says(t, 5, `/backup\.db.*no space left on device`)
		if left, err := os.ReadFile(backup); older && string(left) != "an older backup" || !older && err == nil {
			t.Errorf("at the final name stands %.30q, %v", left, err)
		}
		if _, err := os.Stat(backup + ".part"); err == nil {
			t.Error("the half was left")
		}
	}
	dir := filepath.Join(disk.dir, "restored")
	run(t, ctl, "snapshot", "restore", good, "--data-dir", dir).says(t, 1, `/restored.*no space left on device`)
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s was left", dir)
	}
	disk.grow(400)
	run(t, ctl, "snapshot", "restore", good, "--data-dir", dir).says(t, 0)
}

// TestFullDiskDuringTransfer: a member that lags behind and has no room for the state says so, and so does the leader;
// it catches up as soon as there is room.
func TestFullDiskDuringTransfer(t *testing.T) {
	t.Parallel()
	disk := newDisk(t, 40)
	c := startEach(t, 3, func(i int) (dataDir string, flags []string) {
		flags = []string{"--snapshot-count=20", "--snapshot-catchup-entries=10"}
		if i == 2 {
			return filepath.Join(disk.dir, "data"), append(flags, "--wal-dir", filepath.Join(t.TempDir(), "wal"))
		}
		return filepath.Join(t.TempDir(), "data"), flags
	})
	lagging := c.Members[2]
	lagging.Stop()
	client := c.Members[0].Client()
	for i := range 40 {
		put(t, client, fmt.Sprintf("k%04d", i), text(500_000))
	}
	empty := disk.fill(2 << 20)
	lagging.Launch()
	waitOutput(t, lagging, `failed to receive database snapshot.*no space left on device`)
	eventually(t, "the leader to report it", func() bool {
		return strings.Contains(c.Members[0].Output()+c.Members[1].Output(), "failed to send database snapshot")
	})
	empty()
	lagging.WaitReady()
	waitLevel(t, c)
	acknowledgedAreThere(t, lagging.Client(), "k", 40)
	noPanic(t, lagging.Output())
}

// startEach is proc.Start with a data directory and flags for each member.
func startEach(t *testing.T, n int, of func(i int) (dataDir string, flags []string)) *proc.Cluster {
	t.Helper()
	ports := ports.Free(t, n)
	var initial []string
	for i, port := range ports {
		initial = append(initial, fmt.Sprintf("m%d=http://127.0.0.1:%d", i, port))
	}
	c := &proc.Cluster{}
	for i, port := range ports {
		dir, flags := of(i)
		c.Members = append(c.Members, proc.Prepare(t, upkeep(t), fmt.Sprintf("m%d", i), dir, fmt.Sprintf("http://127.0.0.1:%d", port),
			append(flags, "--initial-cluster", strings.Join(initial, ","))...))
	}
	for _, m := range c.Members {
		m.Launch()
	}
	for _, m := range c.Members {
		m.WaitReady()
	}
	return c
}

func hashOf(t *testing.T, m *proc.Member) uint32 {
	t.Helper()
	resp, err := m.Client().HashKV(t.Context(), m.ClientURL, 0)
	check(t, err)
	return resp.Hash
}
