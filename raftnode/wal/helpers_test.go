package wal

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func decodeConfChange(t *testing.T, e *raftpb.Entry) *raftpb.ConfChange {
	t.Helper()
	cc := &raftpb.ConfChange{}
	if err := proto.Unmarshal(e.GetData(), cc); err != nil {
		t.Fatal(err)
	}
	return cc
}
