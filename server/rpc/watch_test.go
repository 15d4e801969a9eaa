package rpc

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// watching is one raw watch stream.
type watching struct {
	*harness
	stream grpc.BidiStreamingClient[pb.WatchRequest, pb.WatchResponse]
}

func watchOf(h *harness, ctx context.Context) *watching {
	h.t.Helper()
	return &watching{h, must(pb.NewWatchClient(h.conn).Watch(ctx))(h.t)}
}

func (w *watching) create(r *pb.WatchCreateRequest) {
	w.t.Helper()
	if err := w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watching) cancel(id int64) {
	w.t.Helper()
	if err := w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watching) progress() {
	w.t.Helper()
	if err := w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
		ProgressRequest: &pb.WatchProgressRequest{}}}); err != nil {
		w.t.Fatal(err)
	}
}

// next returns the next response in short: its header's revision and what is set.
func (w *watching) next() string {
	w.t.Helper()
	r := must(w.stream.Recv())(w.t)
	if r.Header.ClusterId != 1 || r.Header.MemberId != 2 || r.Header.RaftTerm != 3 {
		w.t.Errorf("header %v", r.Header)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "@%d watch=%d", r.Header.Revision, r.WatchId)
	if r.Created {
		out.WriteString(" created")
	}
	if r.Canceled {
		out.WriteString(" canceled")
	}
	if r.CompactRevision != 0 {
		fmt.Fprintf(&out, " compact=%d", r.CompactRevision)
	}
	if r.CancelReason != "" {
		fmt.Fprintf(&out, " reason=%q", r.CancelReason)
	}
	for _, ev := range r.Events {
		fmt.Fprintf(&out, " %v:%s@%d", ev.Type, ev.Kv.Key, ev.Kv.ModRevision)
		if ev.PrevKv != nil {
			fmt.Fprintf(&out, "(%s)", ev.PrevKv.Value)
		}
	}
	return out.String()
}

func (w *watching) want(lines ...string) {
	w.t.Helper()
	for _, line := range lines {
		if got := w.next(); got != line {
			w.t.Errorf("got %s\nwant %s", got, line)
		}
	}
}

func (h *harness) put(key, value string) {
	h.t.Helper()
	must(h.Propose(h.ctx, &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}))(h.t)
}

func (h *harness) del(key string) {
	h.t.Helper()
	must(h.Propose(h.ctx, &pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte(key)}}))(h.t)
}

func TestWatchLive(t *testing.T) {
	h := start(t, newFake(), Options{})
	w := watchOf(h, h.ctx)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("c"), PrevKv: true})
	w.want("@1 watch=0 created")
	h.put("a", "1")
	h.put("z", "1")
	h.put("a", "2")
	h.del("a")
	w.want("@2 watch=0 PUT:a@2", "@4 watch=0 PUT:a@4(1)", "@5 watch=0 DELETE:a@5(2)")

	// No key means all keys, and filters drop what they name.
	w.create(&pb.WatchCreateRequest{WatchId: 9, RangeEnd: []byte{0}, StartRevision: 2,
		Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}})
	w.want("@5 watch=9 created", "@5 watch=9 DELETE:a@5")
	w.cancel(0)
	w.want("@5 watch=0 canceled")
	w.cancel(77) // nobody: silence
	h.del("z")
	w.want("@6 watch=9 DELETE:z@6")
}

// TestWatchRefused: answers come in the order of the requests, whether a watcher came of them or not. Texts and numbers
// are those of a stock etcd.
func TestWatchRefused(t *testing.T) {
	h := start(t, newFake(), Options{})
	for range 3 {
		h.put("a", "v")
	}
	const refused = "@4 watch=-1 created canceled reason="
	compacted := refused + `"etcdserver: mvcc: required revision has been compacted"`
	w := watchOf(h, h.ctx)
	a, b := []byte("a"), []byte("b")
	w.create(&pb.WatchCreateRequest{Key: a})
	w.create(&pb.WatchCreateRequest{Key: a, WatchId: 7})
	w.create(&pb.WatchCreateRequest{Key: a, WatchId: 7})
	w.create(&pb.WatchCreateRequest{Key: a, WatchId: -9})
	w.create(&pb.WatchCreateRequest{Key: b, RangeEnd: a})
	w.create(&pb.WatchCreateRequest{Key: a, StartRevision: -1})
	w.create(&pb.WatchCreateRequest{Key: b, RangeEnd: a, StartRevision: -1, WatchId: 33})
	w.create(&pb.WatchCreateRequest{Key: a})
	w.want(
		"@4 watch=0 created",
		"@4 watch=7 created",
		refused+`"mvcc: duplicate watch ID provided on the WatchStream"`,
		"@4 watch=-9 created",
		refused+`"mvcc: watcher range is empty"`,
		compacted,
		compacted,
		"@4 watch=1 created",
	)
}

func TestWatchCompacted(t *testing.T) {
	h := start(t, newFake(), Options{})
	for range 5 {
		h.put("a", "v")
	}
	must(h.Propose(h.ctx, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: 4}}))(t)
	w := watchOf(h, h.ctx)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3})
	w.want("@6 watch=0 created", "@0 watch=0 canceled compact=4")
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 4})
	w.want("@6 watch=1 created", "@6 watch=1 PUT:a@4 PUT:a@5 PUT:a@6")
}

func TestWatchProgress(t *testing.T) {
	h := start(t, newFake(), Options{})
	h.put("a", "v")
	w := watchOf(h, h.ctx)
	w.progress() // no watcher yet: silence
	w.create(&pb.WatchCreateRequest{Key: []byte("a")})
	w.want("@2 watch=0 created")
	h.put("b", "v")
	w.progress()
	w.want("@3 watch=-1")
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 5, ProgressNotify: true})
	// The harness's interval is the shortest that there is.
	w.want("@3 watch=5 created", "@3 watch=5")
}

// TestWatchHalfClosed: a client that has nothing more to ask still gets its events.
func TestWatchHalfClosed(t *testing.T) {
	h := start(t, newFake(), Options{})
	w := watchOf(h, h.ctx)
	w.create(&pb.WatchCreateRequest{Key: []byte("a")})
	if err := w.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	w.want("@1 watch=0 created")
	h.put("a", "v")
	w.want("@2 watch=0 PUT:a@2")
}

func TestWatchFragments(t *testing.T) {
	const limit = 1 << 10
	h := start(t, newFake(), Options{MaxRequestBytes: limit})
	bound := limit + grpcOverheadBytes
	value := strings.Repeat("v", bound/4)
	for i := range 7 {
		h.put(fmt.Sprint("k", i), value)
	}
	h.put("k7", strings.Repeat("v", bound+1))

	// One response per catch-up read of at most 1 MiB. Collect until all events are there.
	collect := func(fragment bool) (sizes []int, flags []bool, keys string) {
		ctx, cancel := context.WithCancel(h.ctx)
		defer cancel()
		w := watchOf(h, ctx)
		w.create(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: 2, Fragment: fragment})
		for len(keys) < 16 {
			r := must(w.stream.Recv())(t)
			if r.Created {
				continue
			}
			sizes, flags = append(sizes, proto.Size(r)), append(flags, r.Fragment)
			for _, ev := range r.Events {
				keys += string(ev.Kv.Key)
			}
		}
		return sizes, flags, keys
	}
	wholeSizes, wholeFlags, keys := collect(false)
	if keys != "k0k1k2k3k4k5k6k7" {
		t.Errorf("keys %s", keys)
	}
	for i := range wholeSizes {
		if wholeFlags[i] {
			t.Errorf("a fragment for a watcher that did not ask for any")
		}
	}
	sizes, flags, keys := collect(true)
	if keys != "k0k1k2k3k4k5k6k7" {
		t.Errorf("keys of fragments %s", keys)
	}
	flagged := 0
	for i, size := range sizes {
		if flags[i] {
			flagged++
		}
		if size >= bound && i != len(sizes)-1 { // the last holds one event that is too large
			t.Errorf("fragment %d of %d bytes, bound is %d", i, size, bound)
		}
	}
	if flagged == 0 || flags[len(flags)-1] {
		t.Errorf("flags %v: want some, and not the last", flags)
	}
	if len(sizes)-flagged != len(wholeSizes) {
		t.Errorf("%d fragments, %d of them flagged, make up %d responses", len(sizes), flagged, len(wholeSizes))
	}
}

// TestFitting: sizes are exact, so that no fragment reaches the bound by a byte.
func TestFitting(t *testing.T) {
	var events []*mvccpb.Event
	for i := range 40 {
		events = append(events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: bytes.Repeat([]byte("k"), i*9), ModRevision: 3}})
	}
	for limit := 1; limit < 2000; limit += 7 {
		n := fitting(events, limit)
		if size := (&pb.WatchResponse{Events: events[:n]}).SizeVT(); size >= limit && n > 1 {
			t.Errorf("limit %d: %d events take %d bytes", limit, n, size)
		}
		if n == len(events) {
			continue
		}
		if size := (&pb.WatchResponse{Events: events[:n+1]}).SizeVT(); size < limit {
			t.Errorf("limit %d: %d events would take %d bytes", limit, n+1, size)
		}
	}
}

// TestClientWatch is the same seen by etcd's client, which resumes, merges fragments and hides what is created.
func TestClientWatch(t *testing.T) {
	h := start(t, newFake(), Options{})
	c := h.client()
	h.put("a", "1")
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(h.ctx))
	defer cancel()
	events := c.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(2), clientv3.WithPrevKV(), clientv3.WithFragment(),
		clientv3.WithCreatedNotify())
	if r := <-events; !r.Created {
		t.Errorf("first response %+v", r)
	}
	if r := <-events; len(r.Events) != 1 || !r.Events[0].IsCreate() {
		t.Errorf("history %+v", r)
	}
	must(c.Txn(h.ctx).Then(clientv3.OpPut("a", "2"), clientv3.OpPut("b", "2")).Commit())(t)
	r := <-events
	if len(r.Events) != 2 || r.Header.Revision != 3 || !r.Events[0].IsModify() || string(r.Events[0].PrevKv.Value) != "1" {
		t.Errorf("events of one revision %+v", r)
	}
	if err := c.RequestProgress(ctx); err != nil {
		t.Fatal(err)
	}
	if r := <-events; !r.IsProgressNotify() || r.Header.Revision != 3 {
		t.Errorf("progress %+v", r)
	}
	compacted := c.Watch(h.ctx, "a", clientv3.WithRev(1<<40))
	must(c.Compact(h.ctx, 3))(t)
	old := c.Watch(h.ctx, "a", clientv3.WithRev(1))
	if r := <-old; r.CompactRevision != 3 || r.Err() == nil {
		t.Errorf("watch of what is compacted %+v", r)
	}
	cancel()
	for range events { //nolint:revive // drains until the client closes it
	}
	select {
	case r := <-compacted:
		t.Errorf("watch of the future: %+v", r)
	case <-time.After(10 * time.Millisecond):
	}
}
