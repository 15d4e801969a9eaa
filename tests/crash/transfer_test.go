package crash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/walpb"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/raftnode/memnet"
	"github.com/upkeep-kv/upkeep/raftnode/transport"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
)

const (
	snapDir = "data/member/snap"
	dbPath  = snapDir + "/db"
)

// database stands in for a bbolt file: an applied index, contents, and a checksum over both.
func database(index uint64, size int, seed uint64) []byte {
	b := binary.BigEndian.AppendUint64(nil, index)
	contents := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed), byte(index)}).Read(contents)
	b = append(b, contents...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func appliedOf(file []byte) (uint64, error) {
	if len(file) < 8+sha256.Size {
		return 0, fmt.Errorf("database of %d bytes", len(file))
	}
	body := file[:len(file)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], file[len(body):]) {
		return 0, errors.New("damaged database")
	}
	return binary.BigEndian.Uint64(file), nil
}

// receivingMember has the log and the directory of a member and takes state transfers in the order in which
// raftnode/append.go and server/apply do: record in the log, synced; rename; directory synced; older files removed.
type receivingMember struct {
	disk *Recorder
	log  *wal.WAL

	mu           sync.Mutex
	acknowledged []int // moments
	indexes      []uint64
	term         uint64
}

func (m *receivingMember) Step(context.Context, *raftpb.Message) error { return nil }
func (m *receivingMember) ReportUnreachable(uint64)                    {}
func (m *receivingMember) ReportSnapshot(uint64, bool)                 {}

func (m *receivingMember) InstallSnapshot(msg *raftpb.Message, file string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	index := msg.GetSnapshot().GetMetadata().GetIndex()
	m.term++
	hs := &raftpb.HardState{Term: new(m.term), Vote: new(uint64(1)), Commit: new(index)}
	record := &walpb.Snapshot{Index: new(index), Term: new(m.term)}
	if err := errors.Join(m.log.Append(hs, nil, record), m.log.Sync()); err != nil {
		return err
	}
	if err := errors.Join(m.disk.Rename(file, dbPath), m.disk.SyncDir(snapDir)); err != nil {
		return err
	}
	if err := m.log.Release(index); err != nil {
		return err
	}
	m.acknowledged, m.indexes = append(m.acknowledged, m.disk.Now()), append(m.indexes, index)
	return nil
}

// bootAfterTransfer is what server/bootstrap.go does at the start of a member, on files of this test.
func bootAfterTransfer(disk vfs.FS) (applied uint64, err error) {
	file, err := vfs.ReadFile(disk, dbPath)
	if err == nil {
		applied, err = appliedOf(file)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", dbPath, err)
	}
	log, rec, err := wal.Open(disk, walDir, walOptions)
	if err != nil {
		return 0, err
	}
	if err := log.Close(); err != nil {
		return 0, err
	}
	wanted := rec.Snapshot.GetIndex()
	if applied >= wanted {
		return applied, nil
	}
	received := filepath.Join(snapDir, transport.SnapshotFile(wanted))
	if file, err = vfs.ReadFile(disk, received); err != nil {
		return 0, fmt.Errorf("the log starts behind %d, the database is applied up to %d: %w", wanted, applied, err)
	}
	if applied, err = appliedOf(file); err != nil {
		return 0, fmt.Errorf("%s: %w", received, err)
	}
	return applied, errors.Join(disk.Rename(received, dbPath), disk.SyncDir(snapDir))
}

type memImage struct{ imageOf }

func (memImage) Close() error { return nil }

// discard is the sender's node.
type discard struct{ reports chan bool }

func (discard) Step(context.Context, *raftpb.Message) error   { return nil }
func (discard) ReportUnreachable(uint64)                      {}
func (d discard) ReportSnapshot(_ uint64, ok bool)            { d.reports <- ok }
func (discard) InstallSnapshot(*raftpb.Message, string) error { return errors.New("not a receiver") }

// transfers sends a member several databases over the real transport, breaking a stream now and then.
func transfers(t *testing.T, seed uint64) *receivingMember {
	network, rng := memnet.New(seed), rand.New(rand.NewPCG(seed, 5))
	m := &receivingMember{disk: NewRecorder(), term: 1}
	must(t, m.disk.MkdirAll(snapDir, 0o700))
	copyFileTo(t, m.disk, dbPath, database(0, 1000, seed))
	must(t, m.disk.SyncDir(snapDir))
	md := &walpb.Metadata{NodeID: new(uint64(2)), ClusterID: new(uint64(9))}
	must(t, wal.Bootstrap(m.disk, walDir, md, wal.BootstrapState{}))
	var err error
	m.log, _, err = wal.Open(m.disk, walDir, walOptions)
	must(t, err)
	m.acknowledged, m.indexes = []int{m.disk.Now()}, []uint64{0}

	from := discard{make(chan bool, 10)}
	sender, stopSender := startTransport(t, network, 1, vfs.NewMem(), from)
	receiver, stopReceiver := startTransport(t, network, 2, m.disk, m)
	sender.AddPeer(2, []string{"http://m2:2380"})
	receiver.AddPeer(1, []string{"http://m1:2380"})
	for n := range 5 {
		index := uint64(100*(n+1) + rng.IntN(50))
		sender.SendSnapshot(&raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: new(uint64(1)), To: new(uint64(2)),
			Term: new(uint64(1)), Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(index), Term: new(uint64(1))}},
		}, raftnode.Snapshot{Index: index, Term: 1, Size: int64(len(database(index, 3000*n+n, seed))),
			Image: memImage{imageOf(database(index, 3000*n+n, seed))}})
		if rng.IntN(2) == 0 {
			time.Sleep(time.Millisecond)
			network.Disconnect("m1", "m2")
		}
		if !<-from.reports {
			t.Logf("transfer %d failed, which is no harm", n)
		}
	}
	stopSender()
	stopReceiver()
	must(t, m.log.Close())
	return m
}

func copyFileTo(t *testing.T, disk vfs.FS, path string, content []byte) {
	f, err := disk.Create(path)
	must(t, err)
	_, err = f.Write(content)
	must(t, errors.Join(err, f.Sync(), f.Close()))
}

func startTransport(t *testing.T, network *memnet.Network, id uint64, disk vfs.FS, handler raftnode.Handler) (*transport.Transport, func()) {
	must(t, disk.MkdirAll(snapDir, 0o700))
	host := fmt.Sprintf("m%d", id)
	tr, err := transport.New(transport.Config{ID: id, ClusterID: 9, FS: disk, SnapDir: snapDir, Dial: network.Host(host).Dial})
	must(t, err)
	tr.Attach(handler, nil)
	server := grpc.NewServer()
	tr.Register(server)
	listener, err := network.Listen(host + ":2380")
	must(t, err)
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(listener) }()
	return tr, func() {
		tr.Close()
		server.Stop()
		<-served
	}
}

// TestStateTransfer cuts the power while databases are received and installed. The member must start, on a whole
// database, of the last acknowledged transfer or a later one, and as far as its log demands.
func TestStateTransfer(t *testing.T) {
	disks := newTally()
	for run := range uint64(12) {
		seed := firstSeed(t) + run
		var m *receivingMember
		synctest.Test(t, func(t *testing.T) { m = transfers(t, seed) })
		check := func(left vfs.FS, acknowledged int) error {
			if acknowledged == 0 {
				return nil // the member itself was still being made
			}
			applied, err := bootAfterTransfer(left)
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%w; in the directory: %s", err, listed(left, snapDir))
			}
			if err != nil {
				return err
			}
			if want := m.indexes[acknowledged-1]; applied < want {
				return fmt.Errorf("applied up to %d, %d was acknowledged", applied, want)
			}
			return nil
		}
		everyCut(t, disks, m.disk, seed, acknowledgedAt(m.acknowledged), check)
	}
	disks.report(t, "state transfer")
}
