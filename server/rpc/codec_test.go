package rpc

import (
	"bytes"
	"testing"

	etcdpb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// TestCodecBytes: what the codec writes is what google's encoder writes, for ours and for foreign messages.
func TestCodecBytes(t *testing.T) {
	c := newCodec(Observer{})
	for _, m := range []proto.Message{
		&pb.RangeResponse{},
		&pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 3}, Kvs: []*mvccpb.KeyValue{{Key: []byte("k")}}, Count: 1},
		&pb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Value: bytes.Repeat([]byte("v"), 100_000)}}},
		&etcdpb.PutRequest{Key: []byte("k")},
	} {
		data := must(c.Marshal(m))(t)
		want := must(proto.MarshalOptions{Deterministic: true}.Marshal(m))(t)
		if !bytes.Equal(data.Materialize(), want) {
			t.Errorf("%T: encoding differs", m)
		}
		data.Free()
	}
}

// TestCodecOwnership: a request must not change when gRPC's buffers are used again, whether they came in one piece or
// several.
func TestCodecOwnership(t *testing.T) {
	c := newCodec(Observer{})
	want := &pb.PutRequest{Key: []byte("key"), Value: bytes.Repeat([]byte("v"), 5000), Lease: 7}
	for _, pieces := range []int{1, 2, 5} {
		raw := must(want.MarshalVT())(t)
		var data mem.BufferSlice
		for i := range pieces {
			data = append(data, mem.SliceBuffer(raw[i*len(raw)/pieces:(i+1)*len(raw)/pieces]))
		}
		got := &pb.PutRequest{}
		if err := c.Unmarshal(data, got); err != nil {
			t.Fatal(err)
		}
		clear(raw)
		wantEqual(t, "request", got, want)
	}
}

func TestCodecRefusesGarbage(t *testing.T) {
	c := newCodec(Observer{})
	garbage := mem.BufferSlice{mem.SliceBuffer{0x0a, 0xff}}
	for _, m := range []any{&pb.PutRequest{}, &pb.LeaseGrantRequest{}} {
		if err := c.Unmarshal(garbage, m); err == nil {
			t.Errorf("%T: no error", m)
		}
	}
	notText := mem.BufferSlice{mem.SliceBuffer{0x0a, 0x01, 0xff}}
	if err := c.Unmarshal(notText, &pb.MemberAddRequest{}); err == nil {
		t.Error("a URL that is not UTF-8 was taken")
	}
}

func BenchmarkCodecPut(b *testing.B) {
	c := newCodec(Observer{})
	raw, err := (&pb.PutRequest{Key: []byte("some/key/of/a/kind"), Value: make([]byte, 256)}).MarshalVT()
	if err != nil {
		b.Fatal(err)
	}
	data := mem.BufferSlice{mem.SliceBuffer(raw)}
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Unmarshal(data, &pb.PutRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCodecRangeResponse(b *testing.B) {
	c := newCodec(Observer{})
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 3}, Count: 1,
		Kvs: []*mvccpb.KeyValue{{Key: []byte("some/key"), Value: make([]byte, 256)}}}
	b.ReportAllocs()
	for b.Loop() {
		data, err := c.Marshal(resp)
		if err != nil {
			b.Fatal(err)
		}
		data.Free()
	}
}

// TestCodecUnknownFieldsGoNoFurther: what google's decoder takes for an unknown field, among it a known field of the wrong
// wire type, must not get into the log, whose decoder refuses it.
func TestCodecUnknownFieldsGoNoFurther(t *testing.T) {
	c := newCodec(Observer{})
	got := &pb.CompactionRequest{}
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer{0x08, 1, 0x0a, 2, 0xff, 0xfe}}, got); err != nil {
		t.Fatal(err)
	}
	entry := must((&pb.InternalRaftRequest{Compaction: got}).MarshalVT())(t)
	if err := (&pb.InternalRaftRequest{}).UnmarshalVT(entry); err != nil {
		t.Errorf("the log's decoder: %v", err)
	}
}
