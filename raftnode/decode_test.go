package raftnode

import (
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// v2Entry is a request to the v2 store as etcd 3.5 wrote it into its log.
func v2Entry(method, path, value string) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 77)
	for i, s := range []string{method, path, value} {
		b = protowire.AppendString(protowire.AppendTag(b, protowire.Number(i+2), protowire.BytesType), s)
	}
	return protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.VarintType), 0)
}

func TestDecodeCommands(t *testing.T) {
	encode := func(r *pb.InternalRaftRequest) []byte {
		b, err := r.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one, two := put("one"), put("two")
	one.Header, two.Header = &pb.RequestHeader{ID: 1}, &pb.RequestHeader{ID: 2}
	group := []*proposal{{data: encode(one)}, {data: encode(two)}}
	attributes := &pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: 77}, ClusterMemberAttrSet: &pb.ClusterMemberAttrSetRequest{
		Member_ID: 0xabc, MemberAttributes: &pb.Attributes{Name: "n", ClientUrls: []string{"http://c"}},
	}}
	version := &pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: 77}, ClusterVersionSet: &pb.ClusterVersionSetRequest{Ver: "3.5.0"}}
	for _, test := range []struct {
		name string
		data []byte
		want []*pb.InternalRaftRequest
		bad  bool
	}{
		{name: "empty entry of a new leader"},
		{name: "one", data: encode(one), want: []*pb.InternalRaftRequest{one}},
		{name: "lone in a group", data: encodeGroup(group[:1], 0), want: []*pb.InternalRaftRequest{one}},
		{name: "group", data: encodeGroup(group, 100), want: []*pb.InternalRaftRequest{one, two}},
		{name: "group as protobuf has it", data: encode(&pb.InternalRaftRequest{Batch: []*pb.InternalRaftRequest{one, two}}),
			want: []*pb.InternalRaftRequest{one, two}},
		{name: "attributes of etcd 3.5", data: v2Entry("PUT", "/0/members/abc/attributes", `{"name":"n","clientURLs":["http://c"]}`),
			want: []*pb.InternalRaftRequest{attributes}},
		{name: "version of etcd 3.4", data: v2Entry("PUT", "/0/version", "3.5.0"), want: []*pb.InternalRaftRequest{version}},
		{name: "other v2 request", data: v2Entry("SYNC", "/", ""), want: nil},
		{name: "clock of the v2 store", data: v2Entry("SYNC", "", ""), want: nil},
		{name: "rubbish", data: []byte{0xff, 0xff, 0xff}, bad: true},
	} {
		got, err := decodeCommands(test.data, nil)
		if (err != nil) != test.bad || len(got) != len(test.want) {
			t.Errorf("%s: %v %v", test.name, got, err)
			continue
		}
		for i := range got {
			if !proto.Equal(got[i], test.want[i]) {
				t.Errorf("%s: got %v, want %v", test.name, got[i], test.want[i])
			}
		}
	}
}

func TestIDs(t *testing.T) {
	at := time.UnixMilli(0x123456789a)
	g := NewIDs(0xfedcba9876543210, at)
	if got := g.Next(); got != 0x3210123456789a01 {
		t.Errorf("first ID %x", got)
	}
	seen := map[uint64]bool{}
	for range 100000 {
		id := g.Next()
		if seen[id] || id>>48 != 0x3210 {
			t.Fatalf("ID %x", id)
		}
		seen[id] = true
	}
	// A restart a second later starts ahead of what 100,000 IDs used.
	if next := NewIDs(0x3210, at.Add(time.Second)).Next(); seen[next] {
		t.Errorf("ID %x came back after a restart", next)
	}
}
