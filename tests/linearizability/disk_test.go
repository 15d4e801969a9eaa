package linearizability_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// diskBytes holds a database, the two segments of a log that are made ahead, and a bit more.
const diskBytes = 400 << 20

// smallDisk is where one member has its data: a file system of its own, so that it can be full while others are not.
type smallDisk struct {
	dir string
	err error // why it is not one
}

func newSmallDisk(t *testing.T) *smallDisk {
	t.Helper()
	d := &smallDisk{dir: t.TempDir()}
	d.err = syscall.Mount("tmpfs", d.dir, "tmpfs", 0, fmt.Sprintf("size=%d", diskBytes))
	if d.err == nil {
		t.Cleanup(func() { _ = syscall.Unmount(d.dir, syscall.MNT_DETACH) })
	}
	return d
}

// fill takes all the room there is, and what becomes free, until the disk is emptied.
func (d *smallDisk) fill() (empty func(), err error) {
	path := filepath.Join(d.dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	var size int64
	for step := int64(64 << 20); step >= 4096; step /= 2 {
		for syscall.Fallocate(int(f.Fd()), 0, size, step) == nil {
			size += step
		}
	}
	return func() { _ = f.Close(); _ = os.Remove(path) }, nil
}

// diskFull leaves no room on the first member's disk. Its database cannot grow; now and then its log is filled up too, so
// that it needs a new segment and stops, or it is killed and started on the full disk.
func (n *processes) diskFull() (heal func()) {
	m := n.members[0]
	empty, err := n.disk.fill()
	if err != nil {
		n.rec.Fault("the disk of %s cannot be filled: %v", m.Name, err)
		return func() {}
	}
	n.rec.Fault("the disk of %s is full", m.Name)
	switch n.random.IntN(3) {
	case 0:
		n.rec.Fault("%s is killed and started on the full disk", m.Name)
		n.kill(0)
		n.launch(0)
	case 1:
		n.rec.Fault("the log grows by %d MiB", n.floodLog())
	}
	return func() {
		empty()
		select {
		case <-m.Exited():
			n.rec.Fault("%s had stopped by itself", m.Name)
			n.kill(0)
			n.launch(0)
		default:
		}
	}
}

// floodLog has more than a segment of the log written by requests that change nothing: the branch with the large value is
// not taken.
func (n *processes) floodLog() (mebibytes int) {
	client := n.members[1].Client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	always := clientv3.Compare(clientv3.CreateRevision("flood"), "=", 0)
	large := clientv3.OpPut("flood", strings.Repeat("x", 1<<20))
	for range 80 {
		if _, err := client.Txn(ctx).If(always).Else(large).Commit(); err == nil {
			mebibytes++
		}
	}
	return mebibytes
}

// slowDisk makes each sync of one member take longer, of its log and of its database.
func (n *processes) slowDisk(i int) (heal func()) {
	m, gate := n.members[i], n.gates[i]
	if err := gate.Err(); err != nil {
		n.rec.Fault("%s stutters, since its disk cannot be slowed down here: %v", m.Name, err)
		return n.stutter(m.Pid())
	}
	delay := time.Duration(10+n.random.Int64N(500)) * time.Millisecond
	n.rec.Fault("each sync of %s takes %v", m.Name, delay)
	gate.SetDelay(delay)
	return func() { gate.SetDelay(0) }
}
