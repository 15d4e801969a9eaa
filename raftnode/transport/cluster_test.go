package transport

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/raftnode/memnet"
)

const clusterID = 0xc1

// fakeNode records what it is handed.
type fakeNode struct {
	mu          sync.Mutex
	received    []*raftpb.Message
	unreachable map[uint64]int
	reports     []bool
	installed   []string
	// stepping, if set, is called in Step, and installing in InstallSnapshot.
	stepping   func(ctx context.Context) error
	installing func(file string) error
}

func (n *fakeNode) Step(ctx context.Context, m *raftpb.Message) error {
	if n.stepping != nil && m.GetType() == raftpb.MsgApp {
		if err := n.stepping(ctx); err != nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.received = append(n.received, m)
	return nil
}

func (n *fakeNode) ReportUnreachable(id uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unreachable[id]++
}

func (n *fakeNode) ReportSnapshot(_ uint64, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reports = append(n.reports, ok)
}

func (n *fakeNode) InstallSnapshot(_ *raftpb.Message, file string) error {
	n.mu.Lock()
	n.installed = append(n.installed, file)
	n.mu.Unlock()
	if n.installing != nil {
		return n.installing(file)
	}
	return nil
}

// take returns what was received since the last call, once everything has come to rest.
func (n *fakeNode) take() []*raftpb.Message {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	got := n.received
	n.received = nil
	return got
}

func (n *fakeNode) unreachableCount(id uint64) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.unreachable[id]
}

type testMember struct {
	*Transport
	node   *fakeNode
	disk   *vfs.Mem
	server *grpc.Server
	served sync.WaitGroup
	logs   *observer.ObservedLogs
}

func hostOf(id uint64) string { return fmt.Sprintf("m%d", id) }
func urlOf(id uint64) string  { return fmt.Sprintf("http://m%d:2380", id) }

// start runs a member on the network; change may alter its configuration.
func start(t *testing.T, network *memnet.Network, id uint64, change func(*Config)) *testMember {
	t.Helper()
	m := &testMember{node: &fakeNode{unreachable: make(map[uint64]int)}, disk: vfs.NewMem()}
	if err := m.disk.MkdirAll("snap", 0o700); err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.InfoLevel)
	m.logs = logs
	config := Config{
		ID: id, ClusterID: clusterID, FS: m.disk, SnapDir: "snap", SnapshotBytesPerSecond: -1,
		Logger: zap.New(core),
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return network.Host(hostOf(id)).Dial(ctx, address)
		},
	}
	if change != nil {
		change(&config)
	}
	var err error
	if m.Transport, err = New(config); err != nil {
		t.Fatal(err)
	}
	m.Attach(m.node, nil)
	m.serve(t, network)
	return m
}

func (m *testMember) serve(t *testing.T, network *memnet.Network) {
	listener, err := network.Host(hostOf(m.config.ID)).Listen(2380)
	if err != nil {
		t.Fatal(err)
	}
	m.server = m.NewServer()
	m.served.Go(func() { m.server.Serve(listener) })
}

func (m *testMember) stopServer() {
	m.server.Stop()
	m.served.Wait()
}

func (m *testMember) stop() {
	m.stopServer()
	m.Transport.Close()
}

// connect makes peers of all members and waits until every stream stands.
func connect(members ...*testMember) {
	for _, a := range members {
		for _, b := range members {
			a.AddPeer(b.config.ID, []string{urlOf(b.config.ID)})
		}
	}
	time.Sleep(time.Second)
}

func message(kind raftpb.MessageType, from, to, index uint64, data ...string) *raftpb.Message {
	m := &raftpb.Message{Type: kind.Enum(), From: &from, To: &to, Index: &index}
	for _, d := range data {
		m.Entries = append(m.Entries, &raftpb.Entry{Index: &index, Data: []byte(d)})
	}
	return m
}

// image is a database image from memory.
type image struct {
	data   []byte
	pieces int
	closed atomic.Bool
}

func (i *image) WriteTo(w io.Writer) (int64, error) {
	var written int64
	size := max(len(i.data)/max(i.pieces, 1), 1)
	for part := i.data; len(part) > 0; {
		n := min(size, len(part))
		k, err := w.Write(part[:n])
		written += int64(k)
		if err != nil {
			return written, err
		}
		part = part[n:]
	}
	return written, nil
}

func (i *image) Close() error {
	i.closed.Store(true)
	return nil
}

func snapshotOf(from, to, index uint64, data *image) (*raftpb.Message, raftnode.Snapshot) {
	m := message(raftpb.MsgSnap, from, to, 0)
	m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: new(uint64(3))}}
	return m, raftnode.Snapshot{Index: index, Term: 3, Size: int64(len(data.data)), Image: data}
}

// partsLeft lists what is in the snapshot directory beside finished files.
func (m *testMember) files(t *testing.T, suffix string) (names []string) {
	entries, err := m.disk.ReadDir("snap")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if ok, _ := filepath.Match("*"+suffix, e.Name()); ok {
			names = append(names, e.Name())
		}
	}
	return names
}
