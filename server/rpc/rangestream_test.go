package rpc

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// TestRangeStream holds the pieces of 35 keys against those of a stock etcd.
func TestRangeStream(t *testing.T) {
	h := start(t, newFake(), Options{})
	for i := range 35 {
		h.put(fmt.Sprintf("k%02d", i), "v")
	}
	k, l := []byte("k"), []byte("l")
	for _, test := range []struct {
		name    string
		request *pb.RangeRequest
		want    string
	}{
		{"all", &pb.RangeRequest{Key: k, RangeEnd: l}, "10 20 5(count 35)"},
		{"by value without order", &pb.RangeRequest{Key: k, RangeEnd: l, SortTarget: 4}, "10 20 5(count 35)"},
		{"limit inside", &pb.RangeRequest{Key: k, RangeEnd: l, Limit: 12}, "10 2(more count 35)"},
		{"limit at a border", &pb.RangeRequest{Key: k, RangeEnd: l, Limit: 10}, "10(more count 35)"},
		{"small limit", &pb.RangeRequest{Key: k, RangeEnd: l, Limit: 5}, "5(more count 35)"},
		{"limit of all", &pb.RangeRequest{Key: k, RangeEnd: l, Limit: 35}, "10 20 5(count 35)"},
		{"count", &pb.RangeRequest{Key: k, RangeEnd: l, CountOnly: true, Limit: 3}, "0(count 35)"},
		{"exactly one piece", &pb.RangeRequest{Key: k, RangeEnd: []byte("k10")}, "10(count 10)"},
		{"one key", &pb.RangeRequest{Key: []byte("k07")}, "1(count 1)"},
		{"nothing", &pb.RangeRequest{Key: []byte("x")}, "0(count 0)"},
		{"inverted", &pb.RangeRequest{Key: l, RangeEnd: k}, "0(count 0)"},
		{"old revision", &pb.RangeRequest{Key: k, RangeEnd: l, Revision: 5}, "4(count 4)"},
		{"future", &pb.RangeRequest{Key: k, Revision: 500}, "etcdserver: mvcc: required revision is a future revision"},
		{"descending", &pb.RangeRequest{Key: k, SortOrder: 2}, "RangeStream does not support custom sort orders"},
		{"filter", &pb.RangeRequest{Key: k, MinModRevision: 4}, "RangeStream does not support revision filters"},
		{"no key", &pb.RangeRequest{MinModRevision: 4}, "etcdserver: key is not provided"},
	} {
		if got := pieces(h, test.request); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
	request := &pb.RangeRequest{Key: k, RangeEnd: l, KeysOnly: true, Serializable: true}
	stream := must(pb.NewKVClient(h.conn).RangeStream(h.ctx, request))(t)
	next := 0
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		for _, kv := range must(m, err)(t).RangeResponse.Kvs {
			if string(kv.Key) != fmt.Sprintf("k%02d", next) || kv.Value != nil {
				t.Errorf("key %d is %v", next, kv)
			}
			next++
		}
	}
	if next != 35 {
		t.Errorf("%d keys", next)
	}
}

// TestRangeStreamSizes: pieces grow with small values and shrink with large ones.
func TestRangeStreamSizes(t *testing.T) {
	h := start(t, newFake(), Options{MaxRequestBytes: 1000})
	for i := range 200 {
		value := "small"
		if i >= 30 {
			value = strings.Repeat("large", 100)
		}
		h.put(fmt.Sprintf("k%03d", i), value)
	}
	got := pieces(h, &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	// The small ones stay below 500 bytes even by twenty. Then pieces above 2000 bytes shrink, until two large pairs make
	// one of about 1000.
	if want := "10 20 40 20 10 5" + strings.Repeat(" 2", 47) + " 1(count 200)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// pieces renders a stream: the number of pairs in each message, and what the last one adds.
func pieces(h *harness, r *pb.RangeRequest) string {
	h.t.Helper()
	stream := must(pb.NewKVClient(h.conn).RangeStream(h.ctx, r))(h.t)
	var out []string
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return strings.Join(out, " ")
		}
		if err != nil {
			return message(err)
		}
		piece := fmt.Sprint(len(m.RangeResponse.Kvs))
		if header := m.RangeResponse.Header; header != nil {
			if header.MemberId != 2 || header.Revision != h.Revision() {
				h.t.Errorf("header %v", header)
			}
			more := ""
			if m.RangeResponse.More {
				more = "more "
			}
			piece += fmt.Sprintf("(%scount %d)", more, m.RangeResponse.Count)
		} else if m.RangeResponse.More || m.RangeResponse.Count != 0 {
			h.t.Errorf("a piece that is not the last says more than its pairs: %v", m)
		}
		out = append(out, piece)
	}
}
