package transport

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/mem"
)

// FuzzBatch: what a peer sends is messages or an error, and nothing of it is kept that points into gRPC's buffer.
func FuzzBatch(f *testing.F) {
	term := uint64(3)
	out := &outBatch{messages: []*raftpb.Message{{Term: &term, Entries: []*raftpb.Entry{{Data: []byte("entry")}}}, {}}}
	data, err := codec{}.Marshal(out)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data.Materialize())
	f.Add([]byte{0x0a, 0})
	f.Add([]byte{0x0a, 0x7f, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		in := &inBatch{}
		if err := (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, in); err != nil {
			return
		}
		before := len(in.messages)
		clear(data)
		if _, err := (codec{}).Marshal(&outBatch{messages: in.messages}); err != nil {
			t.Errorf("%d messages that were read cannot be written: %v", before, err)
		}
	})
}
