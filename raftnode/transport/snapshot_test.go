package transport

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/raftnode/memnet"
)

func randomImage(size int) *image {
	data := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(data)
	return &image{data: data, pieces: 77}
}

// outcome waits until the transfer ended and returns what the sender's node was told.
func outcome(t *testing.T, m *testMember, limit time.Duration) bool {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		m.node.mu.Lock()
		reports := m.node.reports
		m.node.reports = nil
		m.node.mu.Unlock()
		if len(reports) > 1 {
			t.Errorf("reported %d times", len(reports))
		}
		if len(reports) > 0 {
			synctest.Wait()
			return reports[0]
		}
	}
	t.Fatal("no outcome was reported")
	return false
}

func checkInstalled(t *testing.T, m *testMember, index uint64, want []byte) {
	t.Helper()
	file := "snap/" + SnapshotFile(index)
	got, err := vfs.ReadFile(m.disk, file)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("received file has %d bytes, %v; want %d", len(got), err, len(want))
	}
	if len(m.node.installed) != 1 || m.node.installed[0] != file {
		t.Errorf("installed %v", m.node.installed)
	}
	if durable, err := vfs.ReadFile(m.disk.CrashClone(1), file); err != nil || !bytes.Equal(durable, want) {
		t.Errorf("not durable when it was handed over: %d bytes, %v", len(durable), err)
	}
	if left := m.files(t, partSuffix); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSnapshotTransfer(t *testing.T) {
	for name, size := range map[string]int{
		"smaller than a chunk": 1000, "whole chunks": 4 * chunkBytes, "many chunks": 3<<20 + 17,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := memnet.New(1)
				a, b := start(t, network, 1, nil), start(t, network, 2, nil)
				connect(a, b)
				img := randomImage(size)
				a.SendSnapshot(snapshotOf(1, 2, 0x1f, img))
				if !outcome(t, a, time.Minute) {
					t.Error("reported as failed")
				}
				checkInstalled(t, b, 0x1f, img.data)
				if !img.closed.Load() {
					t.Error("image was not closed")
				}
				a.stop()
				b.stop()
			})
		})
	}
}

// The stream breaks again and again, for longer than a transfer may go without progress; each attempt must go on where
// the one before ended, and what is sent in total must be the image and little more.
func TestSnapshotResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		var received, streams atomic.Int64
		a := start(t, network, 1, func(c *Config) { c.SnapshotBytesPerSecond = 1 << 16 })
		b := start(t, network, 2, func(c *Config) {
			c.Observer.Received = func(_ uint64, n int) { received.Add(int64(n)) }
			c.Observer.SnapshotReceiving = func(uint64) { streams.Add(1) }
		})
		connect(a, b)
		img := randomImage(8 << 20)
		begin := time.Now()
		received.Store(0)
		a.SendSnapshot(snapshotOf(1, 2, 5, img))
		for range 3 {
			time.Sleep(27 * time.Second)
			if network.Disconnect("m1", "m2") == 0 {
				t.Fatal("nothing to disconnect")
			}
		}
		if !outcome(t, a, 5*time.Minute) {
			t.Error("reported as failed")
		}
		checkInstalled(t, b, 5, img.data)
		if streams.Load() != 4 {
			t.Errorf("%d streams, want 4", streams.Load())
		}
		if received.Load() > 9<<20 {
			t.Errorf("received %d bytes for an image of %d", received.Load(), len(img.data))
		}
		// 8 MiB at 64 KiB/s; each new stream may send its first chunk at once.
		if took := time.Since(begin); took < 110*time.Second || took > 140*time.Second {
			t.Errorf("took %v, the pace is not kept", took)
		}
		a.stop()
		b.stop()
	})
}

// A sender whose stream broke after the last chunk learns how the installation ended, without sending again.
func TestSnapshotBreaksWhileInstalling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		var received atomic.Int64
		a := start(t, network, 1, nil)
		b := start(t, network, 2, func(c *Config) {
			c.Observer.Received = func(_ uint64, n int) { received.Add(int64(n)) }
		})
		b.node.installing = func(string) error {
			time.Sleep(20 * time.Second)
			return nil
		}
		connect(a, b)
		img := randomImage(2 << 20)
		a.SendSnapshot(snapshotOf(1, 2, 5, img))
		time.Sleep(10 * time.Second)
		network.Disconnect("m1", "m2")
		if !outcome(t, a, time.Minute) {
			t.Error("reported as failed")
		}
		checkInstalled(t, b, 5, img.data)
		if received.Load() > 5<<19 {
			t.Errorf("sent again: %d bytes", received.Load())
		}
		a.stop()
		b.stop()
	})
}

func TestSnapshotSurvivesRestartOfReceiversServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		a := start(t, network, 1, func(c *Config) { c.SnapshotBytesPerSecond = 1 << 20 })
		b := start(t, network, 2, nil)
		connect(a, b)
		img := randomImage(4 << 20)
		a.SendSnapshot(snapshotOf(1, 2, 5, img))
		time.Sleep(2 * time.Second)
		b.stopServer()
		time.Sleep(resumeWindow / 2)
		b.serve(t, network)
		if !outcome(t, a, time.Minute) {
			t.Error("reported as failed")
		}
		checkInstalled(t, b, 5, img.data)
		a.stop()
		b.stop()
	})
}

// lyingImage is not the same each time it is written, as a file is that changes under the reader.
type lyingImage struct {
	*image
	times int
}

func (l *lyingImage) WriteTo(w io.Writer) (int64, error) {
	l.times++
	l.data[0]++
	return l.image.WriteTo(w)
}

func TestSnapshotThatFails(t *testing.T) {
	tests := []struct {
		name string
		// during runs while the transfer is under way.
		during func(t *testing.T, network *memnet.Network, b *testMember)
		fault  *vfs.Rule
		node   error
		size   int64 // announced, if not the true one
		image  func(*image) raftnode.Image
		to     uint64
		want   bool
	}{
		{name: "unknown peer", to: 9},
		{name: "receiver is gone", during: func(_ *testing.T, _ *memnet.Network, b *testMember) { b.stopServer() }},
		{name: "receiver's disk is full", fault: &vfs.Rule{Ops: vfs.OpWrite, Match: "*.part", Err: syscall.ENOSPC}},
		{name: "receiver cannot rename", fault: &vfs.Rule{Ops: vfs.OpRename, Err: syscall.EIO}},
		{name: "node cannot install", node: errors.New("no")},
		{name: "node has no use for it", node: raftnode.ErrSnapshotIgnored, want: true},
		{name: "image is shorter than announced", size: 9 << 20},
		{name: "image is longer than announced", size: 1 << 20},
		{name: "image changes between attempts",
			during: func(_ *testing.T, network *memnet.Network, _ *testMember) { network.Disconnect("m1", "m2") },
			image:  func(i *image) raftnode.Image { return &lyingImage{image: i} }, want: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := memnet.New(1)
				a := start(t, network, 1, func(c *Config) { c.SnapshotBytesPerSecond = 1 << 20 })
				b := start(t, network, 2, func(c *Config) {
					if test.fault != nil {
						faulty := vfs.NewFaulty(c.FS)
						faulty.Inject(*test.fault)
						c.FS = faulty
					}
				})
				b.node.installing = func(string) error { return test.node }
				connect(a, b)
				img := randomImage(3 << 20)
				m, s := snapshotOf(1, 2, 5, img)
				if test.to != 0 {
					m.To = &test.to
				}
				if test.size != 0 {
					s.Size = test.size
				}
				if test.image != nil {
					s.Image = test.image(img)
				}
				a.SendSnapshot(m, s)
				time.Sleep(1500 * time.Millisecond)
				if test.during != nil {
					test.during(t, network, b)
				}
				if got := outcome(t, a, 10*time.Minute); got != test.want {
					t.Errorf("reported %v", got)
				}
				if !img.closed.Load() {
					t.Error("image was not closed")
				}
				b.stop()
				// Only an image that arrived whole and unchanged may have been installed.
				for _, name := range b.files(t, "*") {
					if data, _ := vfs.ReadFile(b.disk, "snap/"+name); name != SnapshotFile(5) || !bytes.Equal(data, img.data) {
						t.Errorf("left behind: %s", name)
					}
				}
				a.stop()
			})
		})
	}
}

// A new leader's transfer takes over from that of the old one, which ends instead of fighting back.
// TestSnapshotWithoutRoom: a receiver that has no room refuses before it writes anything, and is then left alone for a
// while.
func TestSnapshotWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		a := start(t, network, 1, nil)
		b := start(t, network, 2, func(c *Config) {
			c.FreeBytes = func(string) (int64, error) { return 1 << 20, nil }
		})
		connect(a, b)
		img := randomImage(2 << 20)
		begin := time.Now()
		a.SendSnapshot(snapshotOf(1, 2, 5, img))
		if outcome(t, a, time.Minute) {
			t.Error("reported as received")
		}
		if took := time.Since(begin); took < fullDiskPause || took > 2*fullDiskPause {
			t.Errorf("reported after %v", took)
		}
		if left := b.files(t, ""); len(left) > 0 {
			t.Errorf("written: %v", left)
		}
		a.SendSnapshot(snapshotOf(1, 2, 5, randomImage(1<<20)))
		if !outcome(t, a, time.Minute) {
			t.Error("what fits was not received")
		}
		a.stop()
		b.stop()
	})
}

func TestNewTransferSupersedesOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		slow := func(c *Config) { c.SnapshotBytesPerSecond = 1 << 20 }
		var streams atomic.Int64
		a, c := start(t, network, 1, slow), start(t, network, 3, slow)
		b := start(t, network, 2, func(c *Config) { c.Observer.SnapshotReceiving = func(uint64) { streams.Add(1) } })
		connect(a, b, c)
		first, second := randomImage(4<<20), randomImage(5<<20)
		a.SendSnapshot(snapshotOf(1, 2, 5, first))
		time.Sleep(2 * time.Second)
		c.SendSnapshot(snapshotOf(3, 2, 6, second))
		if outcome(t, a, time.Minute) || !outcome(t, c, time.Minute) {
			t.Error("want the first to fail and the second to succeed")
		}
		if streams.Load() != 2 {
			t.Errorf("%d streams: the first has begun again", streams.Load())
		}
		checkInstalled(t, b, 6, second.data)
		a.stop()
		b.stop()
		c.stop()
	})
}

func TestCloseEndsTransfersAndRemovesParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		a := start(t, network, 1, func(c *Config) { c.SnapshotBytesPerSecond = 1 << 20 })
		b := start(t, network, 2, nil)
		connect(a, b)
		img := randomImage(4 << 20)
		a.SendSnapshot(snapshotOf(1, 2, 5, img))
		time.Sleep(2 * time.Second)
		a.stop()
		if !img.closed.Load() {
			t.Error("image was not closed")
		}
		if len(b.files(t, partSuffix)) != 1 {
			t.Error("nothing was under way")
		}
		b.stop()
		if left := b.files(t, "*"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		late := randomImage(1)
		a.SendSnapshot(snapshotOf(1, 2, 5, late))
		if !late.closed.Load() {
			t.Error("image handed to a closed transport was not closed")
		}
	})
}

func TestPartsOfAnEarlierRunAreRemoved(t *testing.T) {
	disk := vfs.NewMem()
	disk.MkdirAll("snap", 0o700)
	for _, name := range []string{"snap/0000000000000007.snap.db.part", "snap/0000000000000007.snap.db", "snap/db"} {
		f, err := disk.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	transport, err := New(Config{ID: 1, FS: disk, SnapDir: "snap"})
	if err != nil {
		t.Fatal(err)
	}
	transport.Close()
	if _, err := disk.Stat("snap/0000000000000007.snap.db.part"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("part is still there")
	}
	if entries, _ := disk.ReadDir("snap"); len(entries) != 2 {
		t.Errorf("%v", entries)
	}
	if _, err := New(Config{FS: disk, SnapDir: "absent"}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
