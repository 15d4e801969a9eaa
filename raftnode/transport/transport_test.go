package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/raftnode/memnet"
)

func TestMessagesArriveInOrderAndWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		a, b := start(t, network, 1, nil), start(t, network, 2, nil)
		connect(a, b)
		var sent []*raftpb.Message
		for i := range uint64(300) {
			sent = append(sent, message(raftpb.MsgApp, 1, 2, i, strings.Repeat("x", int(i)), "second"))
		}
		a.Send(sent[:1])
		a.Send(sent[1:])
		a.Send([]*raftpb.Message{message(raftpb.MsgHeartbeat, 1, 9, 0)}) // to nobody
		got := b.node.take()
		if len(got) != len(sent) {
			t.Fatalf("%d of %d messages", len(got), len(sent))
		}
		for i := range got {
			if !proto.Equal(got[i], sent[i]) {
				t.Fatalf("message %d: %v, sent %v", i, got[i], sent[i])
			}
		}
		if a.ActiveSince(2).IsZero() || !a.ActiveSince(3).IsZero() {
			t.Errorf("active since %v, unknown peer since %v", a.ActiveSince(2), a.ActiveSince(3))
		}
		a.stop()
		b.stop()
	})
}

// A follower that is slow to take entries holds back entries only: heartbeats pass, and when the bulk lane is full,
// raft is told and the rest dropped, so that memory is bounded.
func TestHeartbeatsPassWaitingEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		a, b := start(t, network, 1, nil), start(t, network, 2, nil)
		gate := make(chan struct{})
		b.node.stepping = func(ctx context.Context) error {
			select {
			case <-gate:
			case <-ctx.Done():
			}
			return nil
		}
		connect(a, b)
		before := a.node.unreachableCount(2)
		big := strings.Repeat("x", 1<<20)
		for i := range uint64(100) {
			a.Send([]*raftpb.Message{message(raftpb.MsgApp, 1, 2, i, big)})
			synctest.Wait() // else the stream may drain what it can between two drops, and a later one is kept
		}
		a.Send([]*raftpb.Message{message(raftpb.MsgHeartbeat, 1, 2, 0)})
		if got := b.node.take(); len(got) != 1 || got[0].GetType() != raftpb.MsgHeartbeat {
			t.Fatalf("received %d messages while the log waits", len(got))
		}
		close(gate)
		got := b.node.take()
		if len(got) < 60 || len(got) >= 100 {
			t.Errorf("%d of 100 entries kept; the queue holds 64 MiB", len(got))
		}
		for i, m := range got {
			if m.GetIndex() != uint64(i) {
				t.Fatalf("message %d has index %d: the newest must be dropped, not one in the middle", i, m.GetIndex())
			}
		}
		if a.node.unreachableCount(2) != before+1 {
			t.Errorf("reported unreachable %d times, want once", a.node.unreachableCount(2)-before)
		}
		a.stop()
		b.stop()
	})
}

func TestReconnectAfterRestartOfPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		a, b := start(t, network, 1, nil), start(t, network, 2, nil)
		connect(a, b)
		b.stopServer()
		synctest.Wait()
		if !a.ActiveSince(2).IsZero() || a.node.unreachableCount(2) == 0 {
			t.Error("broken stream was not noticed")
		}
		a.Send([]*raftpb.Message{message(raftpb.MsgHeartbeat, 1, 2, 7)}) // must not arrive late
		time.Sleep(time.Hour)
		b.serve(t, network)
		time.Sleep(2 * reconnectMax)
		if since := time.Since(a.ActiveSince(2)); since > 2*reconnectMax {
			t.Errorf("not active again, %v", since)
		}
		a.Send([]*raftpb.Message{message(raftpb.MsgHeartbeat, 1, 2, 8)})
		if got := b.node.take(); len(got) != 1 || got[0].GetIndex() != 8 {
			t.Errorf("received %v", got)
		}
		if lost := a.logs.FilterMessageSnippet("peer became inactive").Len(); lost != 1 {
			t.Errorf("loss was logged %d times", lost)
		}
		a.stop()
		b.stop()
	})
}

func TestPartitionAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		a, b := start(t, network, 1, nil), start(t, network, 2, nil)
		connect(a, b)
		network.Partition("m1", "m2")
		time.Sleep(2 * (keepaliveInterval + keepaliveTimeout))
		if !a.ActiveSince(2).IsZero() || !b.ActiveSince(1).IsZero() {
			t.Error("silent peer is still active")
		}
		network.Heal("m1", "m2")
		time.Sleep(connectTimeout + 2*reconnectMax)
		for i := range uint64(3) {
			a.Send([]*raftpb.Message{message(raftpb.MsgApp, 1, 2, i, "e")})
			b.Send([]*raftpb.Message{message(raftpb.MsgAppResp, 2, 1, i)})
		}
		if got, back := b.node.take(), a.node.take(); len(got) != 3 || len(back) != 3 {
			t.Errorf("after healing: %d there, %d back", len(got), len(back))
		}
		a.stop()
		b.stop()
	})
}

func TestHelloIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		var mu sync.Mutex
		refusals := map[uint64][]string{}
		note := func(from uint64, id uint64) func(*Config) {
			return func(c *Config) {
				if from == 1 {
					c.ClusterID++
				}
				c.Refused = func(_ uint64, err error) {
					mu.Lock()
					defer mu.Unlock()
					refusals[from] = append(refusals[from], err.Error())
				}
			}
		}
		b := start(t, network, 2, func(c *Config) {
			c.Admit = func(from uint64) error {
				if from == 4 {
					return errors.New("the member has been permanently removed from the cluster")
				}
				return nil
			}
		})
		stranger, wrongID, removed := start(t, network, 1, note(1, 2)), start(t, network, 3, note(3, 5)), start(t, network, 4, note(4, 2))
		stranger.AddPeer(2, []string{urlOf(2)})
		wrongID.AddPeer(5, []string{urlOf(2)})
		removed.AddPeer(2, []string{urlOf(2)})
		time.Sleep(time.Minute)
		stranger.Send([]*raftpb.Message{message(raftpb.MsgApp, 1, 2, 1, "x")})
		if got := b.node.take(); len(got) != 0 {
			t.Errorf("delivered %v", got)
		}
		mu.Lock()
		defer mu.Unlock()
		for id, want := range map[uint64]string{
			1: "etcdserver: cluster ID mismatch", 3: "etcdserver: member ID mismatch", 4: "permanently removed",
		} {
			if got := refusals[id]; len(got) != 1 || !strings.Contains(got[0], want) || !strings.Contains(got[0], "FailedPrecondition") {
				t.Errorf("member %d was told %q, want %q once", id, got, want)
			}
		}
		if logged := stranger.logs.FilterMessageSnippet("refuses").Len(); logged != 1 {
			t.Errorf("refusal was logged %d times", logged)
		}
		for _, m := range []*testMember{stranger, wrongID, removed, b} {
			m.stop()
		}
	})
}

// A member that is removed while its streams are open, and is told nothing, is refused as soon as it speaks.
func TestRemovedWhileConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		var removed atomic.Bool
		refusals := make(chan error, 10)
		a := start(t, network, 1, func(c *Config) { c.Refused = func(_ uint64, err error) { refusals <- err } })
		b := start(t, network, 2, func(c *Config) {
			c.Admit = func(uint64) error {
				if removed.Load() {
					return errors.New("removed")
				}
				return nil
			}
		})
		connect(a, b)
		a.Send([]*raftpb.Message{message(raftpb.MsgHeartbeatResp, 1, 2, 1, "")})
		time.Sleep(time.Second)
		if got := b.node.take(); len(got) != 1 || len(refusals) != 0 {
			t.Fatalf("delivered %v, %d refusals", got, len(refusals))
		}
		removed.Store(true)
		a.Send([]*raftpb.Message{message(raftpb.MsgPreVote, 1, 2, 2, "")})
		time.Sleep(time.Second)
		if got := b.node.take(); len(got) != 0 {
			t.Errorf("delivered %v", got)
		}
		select {
		case err := <-refusals:
			if !strings.Contains(err.Error(), "removed") {
				t.Error(err)
			}
		default:
			t.Error("the removed member was not told")
		}
		a.stop()
		b.stop()
	})
}

func TestPeersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New(1)
		known := map[uint64]bool{}
		a := start(t, network, 1, func(c *Config) {
			c.Observer.PeerKnown = func(id uint64, is bool) { known[id] = is }
		})
		b := start(t, network, 2, nil)
		a.AddPeer(1, []string{urlOf(1)})
		a.AddPeer(2, []string{"http://nowhere:1"})
		time.Sleep(time.Second)
		if !a.ActiveSince(2).IsZero() {
			t.Error("active at a wrong address")
		}
		a.UpdatePeer(2, []string{"http://nowhere:1", urlOf(2)})
		time.Sleep(time.Second)
		if a.ActiveSince(2).IsZero() {
			t.Error("second address was not tried")
		}
		if conn, err := a.Conn(2); err != nil || conn == nil {
			t.Error(err)
		}
		if _, err := a.Conn(3); !errors.Is(err, ErrUnknownPeer) {
			t.Error(err)
		}
		a.RemovePeer(2)
		a.Send([]*raftpb.Message{message(raftpb.MsgHeartbeat, 1, 2, 0)})
		if len(b.node.take()) != 0 || known[2] || !a.ActiveSince(2).IsZero() {
			t.Error("removed peer is still served")
		}
		if _, told := known[1]; told {
			t.Error("a member is its own peer")
		}
		a.stop()
		b.stop()
	})
}

// What the short way encodes must be what peerpb.RaftBatch says, in both directions.
func TestCodecIsRaftBatch(t *testing.T) {
	out := &outBatch{hello: &peerpb.Hello{ClusterId: 1, From: 2, To: 3, Version: "v"}}
	for i := range uint64(3) {
		out.messages = append(out.messages, message(raftpb.MsgApp, 1, 2, i, "data", fmt.Sprint(i)))
	}
	encoded, err := codec{}.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	plain := new(peerpb.RaftBatch)
	if err := proto.Unmarshal(encoded.Materialize(), plain); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(plain.Hello, out.hello) || len(plain.Messages) != 3 {
		t.Fatalf("decoded %v", plain)
	}
	again, err := proto.Marshal(plain)
	if err != nil || !bytes.Equal(again, encoded.Materialize()) {
		t.Error("encodings differ")
	}
	for name, decode := range map[string]func(*inBatch) error{
		"short": func(b *inBatch) error { return codec{}.Unmarshal(encoded, b) },
		"plain": func(b *inBatch) error { return errors.Join(proto.Unmarshal(again, b), b.unpack()) },
	} {
		in := new(inBatch)
		if err := decode(in); err != nil {
			t.Fatal(name, err)
		}
		if !proto.Equal(in.Hello, out.hello) || len(in.messages) != 3 || !proto.Equal(in.messages[2], out.messages[2]) {
			t.Errorf("%s: %v", name, in)
		}
	}
	for cut := range again {
		part := mem.BufferSlice{mem.SliceBuffer(again[:cut])}
		if err := (codec{}).Unmarshal(part, new(inBatch)); err == nil && proto.Unmarshal(again[:cut], new(peerpb.RaftBatch)) != nil {
			t.Errorf("truncation at %d of %d was not noticed", cut, len(again))
		}
	}
}

func BenchmarkSend(b *testing.B) {
	m := message(raftpb.MsgApp, 1, 2, 1, strings.Repeat("x", 512), strings.Repeat("y", 512))
	out := &outBatch{messages: []*raftpb.Message{m, m, m, m}}
	in := new(inBatch)
	b.ReportAllocs()
	for b.Loop() {
		encoded, err := codec{}.Marshal(out)
		if err == nil {
			err = codec{}.Unmarshal(encoded, in)
		}
		if err != nil {
			b.Fatal(err)
		}
		encoded.Free()
	}
}
