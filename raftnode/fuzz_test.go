package raftnode

import (
	"testing"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// FuzzDecodeCommands: the data of an entry are commands that can be written again, or an error.
func FuzzDecodeCommands(f *testing.F) {
	batch := &pb.InternalRaftRequest{Batch: []*pb.InternalRaftRequest{
		{Header: &pb.RequestHeader{ID: 1}, Put: &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}},
		{Header: &pb.RequestHeader{ID: 2}, Compaction: &pb.CompactionRequest{Revision: 3}},
	}}
	for _, req := range append(batch.Batch, batch) {
		data, err := req.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("\x08\x01\x12\x03PUT\x1a\x08/0/membe"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		commands, err := decodeCommands(data, nil)
		if err != nil {
			return
		}
		for _, c := range commands {
			if c == nil {
				t.Fatal("no command")
			}
			again, err := c.MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			if err := (&pb.InternalRaftRequest{}).UnmarshalVT(again); err != nil {
				t.Errorf("what was written cannot be read: %v", err)
			}
		}
	})
}
