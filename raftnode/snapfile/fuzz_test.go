package snapfile

import (
	"hash/crc32"
	"testing"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/proto/snappb"
)

// FuzzDecode: a snap file is read or refused, be it damaged in its envelope or, its checksum right, in what that holds.
func FuzzDecode(f *testing.F) {
	whole, err := encode(&Snapshot{Term: 2, Index: 9, ConfState: &raftpb.ConfState{Voters: []uint64{1}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, []byte(`{"Root":{"Nodes":{}}}`))
	f.Add([]byte{}, []byte(`{}`))
	f.Add([]byte{0x08, 1}, []byte(`{"Root":{"Path":"/","Children":{"0":null}}}`))
	f.Fuzz(func(t *testing.T, content, store []byte) {
		_, _ = decode(content)
		data, err := proto.Marshal(&raftpb.Snapshot{Data: store, Metadata: &raftpb.SnapshotMetadata{}})
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range [][]byte{data, content} {
			sum := crc32.Checksum(data, castagnoli)
			sealed, err := (&snappb.Snapshot{Crc: &sum, Data: data}).MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			s, err := decode(sealed)
			if err != nil {
				continue
			}
			again, err := encode(s)
			if err != nil {
				t.Fatalf("what was read cannot be written: %v", err)
			}
			if _, err := decode(again); err != nil {
				t.Errorf("what was written cannot be read: %v", err)
			}
		}
	})
}
