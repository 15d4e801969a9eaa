package raftnode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/walpb"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
)

// cluster is a number of nodes over memory disks and a network of messages, all in this process and in virtual time.
type cluster struct {
	t       *testing.T
	members map[uint64]*member
	change  func(*Config)

	mu sync.Mutex
	// Guarded by mu. drop decides which messages are lost, delay how long the others take.
	drop  func(m *raftpb.Message) bool
	delay time.Duration
	sent  map[raftpb.MessageType]int
}

type member struct {
	c     *cluster
	id    uint64
	disk  *vfs.Mem
	sm    *machine
	node  *Node
	inbox *mailbox[*raftpb.Message]
	stop  chan struct{}
	wg    sync.WaitGroup
}

const testCluster = 0xc1

func newCluster(t *testing.T, voters int, change func(*Config)) *cluster {
	c := &cluster{t: t, members: map[uint64]*member{}, change: change, sent: map[raftpb.MessageType]int{}, delay: time.Millisecond}
	var initial []wal.BootstrapMember
	for id := range uint64(voters) {
		initial = append(initial, wal.BootstrapMember{ID: id + 1, Context: fmt.Appendf(nil, `{"id":%d}`, id+1)})
	}
	for _, b := range initial {
		c.add(b.ID, initial)
	}
	for _, id := range c.ids() {
		c.start(id)
	}
	t.Cleanup(func() {
		for _, id := range c.ids() {
			c.halt(id)
		}
	})
	return c
}

func (c *cluster) ids() []uint64 { return slices.Sorted(maps.Keys(c.members)) }

func (c *cluster) add(id uint64, initial []wal.BootstrapMember) {
	m := &member{c: c, id: id, disk: vfs.NewMem(), inbox: newMailbox[*raftpb.Message](nil)}
	md := &walpb.Metadata{NodeID: new(id), ClusterID: new(uint64(testCluster))}
	c.must(wal.Bootstrap(m.disk, "data/wal", md, wal.BootstrapState{Members: initial}))
	c.members[id] = m
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) start(id uint64) *Node {
	c.t.Helper()
	m := c.members[id]
	w, rec, err := wal.Open(m.disk, "data/wal", wal.Options{SegmentBytes: 64 << 10})
	c.must(err)
	m.sm = openMachine(c.t, m.disk)
	m.stop = make(chan struct{})
	cfg := Config{
		ID: id, ClusterID: testCluster, WAL: w, Recovered: rec, Applied: m.sm.durable, ConfState: m.sm.saved.Conf,
		StateMachine: m.sm, Transport: m, TickInterval: 100 * time.Millisecond, ElectionTicks: 10, PreVote: true,
		InitialElectionTickAdvance: true, Coalesce: true, Logger: zap.NewNop(),
	}
	if testing.Verbose() {
		cfg.Logger = zaptest.NewLogger(c.t, zaptest.WrapOptions(zap.Fields(zap.Uint64("member", id))))
	}
	if c.change != nil {
		c.change(&cfg)
	}
	m.inbox.take(nil) // what came while it was down is lost
	node, err := Start(cfg)
	c.must(err)
	m.setNode(node)
	m.wg.Add(1)
	go m.deliver(node, m.stop)
	return node
}

// halt stops a member in an orderly way; a halted one stays as it is.
func (c *cluster) halt(id uint64) {
	m := c.members[id]
	if m.node == nil {
		return
	}
	m.node.Stop()
	close(m.stop)
	m.wg.Wait()
	m.setNode(nil)
}

// setNode is for the test's own goroutine, which may read node without the lock; others use running.
func (m *member) setNode(n *Node) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	m.node = n
}

func (m *member) running() *Node {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	return m.node
}

// crash cuts a member's power: what was not synced is lost or torn as the seed decides.
func (c *cluster) crash(id uint64, seed int64) {
	m := c.members[id]
	m.disk.Crash(seed)
	c.halt(id)
}

func (c *cluster) setDrop(fn func(m *raftpb.Message) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop = fn
}

// isolate cuts the given members off from all others, each.
func (c *cluster) isolate(ids ...uint64) {
	c.setDrop(func(m *raftpb.Message) bool {
		return slices.Contains(ids, m.GetFrom()) || slices.Contains(ids, m.GetTo())
	})
}

func (c *cluster) count(typ raftpb.MessageType) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent[typ]
}

// route passes a message on, through its encoding so that nothing is shared, or loses it.
func (c *cluster) route(m *raftpb.Message) {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	clone := &raftpb.Message{}
	if err := proto.Unmarshal(b, clone); err != nil {
		panic(err)
	}
	c.mu.Lock()
	c.sent[m.GetType()]++
	lost := c.drop != nil && c.drop(m)
	c.mu.Unlock()
	to := c.members[m.GetTo()]
	if lost || to == nil {
		return
	}
	to.inbox.put(clone)
}

func (m *member) deliver(node *Node, stop <-chan struct{}) {
	defer m.wg.Done()
	var batch []*raftpb.Message
	for {
		batch = m.inbox.take(batch)
		if len(batch) > 0 {
			time.Sleep(m.c.delay)
		}
		for _, msg := range batch {
			node.Step(context.Background(), msg)
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-m.inbox.wake:
		case <-stop:
			return
		}
	}
}

// member is its node's transport.
func (m *member) Send(messages []*raftpb.Message) {
	for _, msg := range messages {
		m.c.route(msg)
	}
}

func (m *member) SendSnapshot(msg *raftpb.Message, s Snapshot) {
	defer s.Close()
	var image bytes.Buffer
	if _, err := s.WriteTo(&image); err != nil {
		panic(err)
	}
	m.c.mu.Lock()
	m.c.sent[raftpb.MsgSnap]++
	lost := m.c.drop != nil && m.c.drop(msg)
	m.c.mu.Unlock()
	to := m.c.members[msg.GetTo()]
	from := m.running()
	if lost || to == nil || to.running() == nil {
		from.ReportSnapshot(msg.GetTo(), false)
		return
	}
	target := to.running()
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		time.Sleep(10 * time.Millisecond)
		file := fmt.Sprintf("data/%016x.snap.db", msg.GetSnapshot().GetMetadata().GetIndex())
		writeFile(to.disk, file, image.Bytes())
		err := target.InstallSnapshot(msg, file)
		from.ReportSnapshot(msg.GetTo(), err == nil || errors.Is(err, ErrSnapshotIgnored))
	}()
}

func (m *member) AddPeer(uint64, []string)     {}
func (m *member) UpdatePeer(uint64, []string)  {}
func (m *member) RemovePeer(uint64)            {}
func (m *member) ActiveSince(uint64) time.Time { return time.Unix(1, 0) }
func (m *member) Close()                       {}

// machine is a state machine that notes every command, and is durable when told.
type machine struct {
	t    *testing.T
	disk *vfs.Mem

	mu sync.Mutex
	// Guarded by mu.
	state   machineState
	durable uint64
	saved   machineState // what is on the disk
	hold    chan struct{}
	entries [][]string
}

type machineState struct {
	Index, Term uint64
	Conf        *raftpb.ConfState
	Log         []string
}

func openMachine(t *testing.T, disk *vfs.Mem) *machine {
	sm := &machine{t: t, disk: disk}
	if b, err := vfs.ReadFile(disk, "data/db"); err == nil {
		if err := json.Unmarshal(b, &sm.saved); err != nil {
			t.Fatal(err)
		}
	}
	sm.state = sm.saved
	sm.state.Log = slices.Clone(sm.saved.Log)
	sm.durable = sm.saved.Index
	return sm
}

func (sm *machine) Apply(e Entry) []Result {
	sm.mu.Lock()
	defer sm.mu.Unlock()
	if hold := sm.hold; hold != nil {
		sm.mu.Unlock()
		<-hold
		sm.mu.Lock()
	}
	if e.Index != sm.state.Index+1 {
		sm.t.Errorf("entry %d applied after %d", e.Index, sm.state.Index)
	}
	var results []Result
	var keys []string
	for _, c := range e.Commands {
		key := string(c.GetPut().GetKey())
		sm.state.Log = append(sm.state.Log, key)
		keys = append(keys, key)
		results = append(results, Result{Value: fmt.Sprintf("%s@%d", key, e.Index)})
	}
	sm.entries = append(sm.entries, keys)
	sm.state.Index, sm.state.Term = e.Index, e.Term
	return results
}

func (sm *machine) ApplyConfChange(index, term uint64, cc *raftpb.ConfChange, install func(bool) *raftpb.ConfState) Result {
	refused := strings.Contains(string(cc.GetContext()), "refuse")
	conf := install(!refused)
	sm.mu.Lock()
	defer sm.mu.Unlock()
	sm.state.Conf, sm.state.Index, sm.state.Term = conf, index, term
	if refused {
		return Result{Err: errors.New("refused")}
	}
	return Result{Value: cc.GetNodeId()}
}

type testImage struct{ data []byte }

func (i testImage) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(i.data)
	return int64(n), err
}
func (testImage) Close() error { return nil }

func (sm *machine) Snapshot(context.Context) (Snapshot, error) {
	sm.mu.Lock()
	defer sm.mu.Unlock()
	b, err := json.Marshal(sm.state)
	return Snapshot{Index: sm.state.Index, Term: sm.state.Term, ConfState: sm.state.Conf, Size: int64(len(b)), Image: testImage{b}}, err
}

func (sm *machine) Restore(file string, index, term uint64) error {
	b, err := vfs.ReadFile(sm.disk, file)
	if err != nil {
		return err
	}
	var st machineState
	if err := json.Unmarshal(b, &st); err != nil {
		return err
	}
	if st.Index != index || st.Term != term {
		return fmt.Errorf("the file holds %d/%d, not %d/%d", st.Index, st.Term, index, term)
	}
	if err := sm.disk.Rename(file, "data/db"); err != nil {
		return err
	}
	sm.mu.Lock()
	defer sm.mu.Unlock()
	sm.state, sm.saved, sm.durable = st, st, index
	return sm.disk.SyncDir("data")
}

func (sm *machine) Rebuild(file string, index uint64, again func() error) error {
	b, err := vfs.ReadFile(sm.disk, file)
	if err != nil {
		return err
	}
	var st machineState
	if err := json.Unmarshal(b, &st); err != nil {
		return err
	}
	if err := sm.Restore(file, index, st.Term); err != nil {
		return err
	}
	if err := again(); err != nil {
		return &FatalError{err}
	}
	return nil
}

func (sm *machine) Durable() uint64 {
	sm.mu.Lock()
	defer sm.mu.Unlock()
	return sm.durable
}

// persist makes everything applied durable.
func (sm *machine) persist() {
	sm.mu.Lock()
	defer sm.mu.Unlock()
	b, err := json.Marshal(sm.state)
	if err != nil {
		panic(err)
	}
	writeFile(sm.disk, "data/db", b)
	sm.durable = sm.state.Index
}

func (sm *machine) log() []string {
	sm.mu.Lock()
	defer sm.mu.Unlock()
	return slices.Clone(sm.state.Log)
}

// setHold makes Apply wait until the returned function is called.
func (sm *machine) setHold() (release func()) {
	sm.mu.Lock()
	defer sm.mu.Unlock()
	hold := make(chan struct{})
	sm.hold = hold
	return func() {
		sm.mu.Lock()
		sm.hold = nil
		sm.mu.Unlock()
		close(hold)
	}
}

func writeFile(disk vfs.FS, name string, data []byte) {
	f, err := disk.OpenFile(name+".part", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		panic(err)
	}
	if _, err := f.Write(data); err != nil {
		panic(err)
	}
	if err := errors.Join(f.Sync(), f.Close(), disk.Rename(name+".part", name), disk.SyncDir("data")); err != nil {
		panic(err)
	}
}

// segments counts the files of a member's log.
func (m *member) segments() (n int) {
	files, err := m.disk.ReadDir("data/wal")
	m.c.must(err)
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".wal") {
			n++
		}
	}
	return n
}

// leader waits for one among the given members, or all that run.
func (c *cluster) leader(among ...uint64) *member {
	c.t.Helper()
	for range 300 {
		for _, id := range c.ids() {
			m := c.members[id]
			if m.node == nil || len(among) > 0 && !slices.Contains(among, id) {
				continue
			}
			if m.node.IsLeader() {
				return m
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.t.Fatal("no leader within 30 s")
	return nil
}

// follower is a running member that is not the leader.
func (c *cluster) follower() *member {
	lead := c.leader()
	for _, id := range c.ids() {
		if m := c.members[id]; m.node != nil && m != lead {
			return m
		}
	}
	c.t.Fatal("no follower")
	return nil
}

func put(key string) *pb.InternalRaftRequest {
	return &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte(key), Value: []byte("v")}}
}

func (m *member) put(key string) (Result, error) {
	return m.node.Propose(context.Background(), put(key))
}

func (m *member) mustPut(keys ...string) {
	m.c.t.Helper()
	for _, key := range keys {
		res, err := m.put(key)
		if err != nil {
			m.c.t.Fatalf("put %s on %d: %v", key, m.id, err)
		}
		if v, _ := res.Value.(string); !strings.HasPrefix(v, key+"@") {
			m.c.t.Fatalf("put %s on %d got the result %v", key, m.id, res)
		}
	}
}

// eventually waits in virtual time.
func (c *cluster) eventually(what string, fn func() bool) {
	c.t.Helper()
	for range 600 {
		if fn() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, id := range c.ids() {
		if m := c.members[id]; m.node != nil {
			c.t.Logf("member %d: %+v log %v", id, m.node.Status(), m.sm.log())
		}
	}
	c.t.Fatalf("not within 30 s: %s", what)
}

// converge waits until all running members have applied the same, and checks it against what must be in it.
func (c *cluster) converge(want ...string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("all members hold %v", want), func() bool {
		var first []string
		for i, id := range c.ids() {
			m := c.members[id]
			if m.node == nil {
				continue
			}
			log := m.sm.log()
			if first == nil {
				first = log
			}
			if !slices.Equal(log, first) {
				_ = i
				return false
			}
			for _, key := range want {
				if !slices.Contains(log, key) {
					return false
				}
			}
		}
		return true
	})
}
