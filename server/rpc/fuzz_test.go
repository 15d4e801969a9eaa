package rpc

import (
	"testing"

	"google.golang.org/grpc/mem"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// FuzzRequests: whatever a client sends is refused, or can go through the log: what is written there is read again by the
// log's own decoder, or no member could go on.
func FuzzRequests(f *testing.F) {
	seed := func(kind byte, m vtMessage) {
		buf := make([]byte, m.SizeVT())
		if _, err := m.MarshalToSizedBufferVT(buf); err != nil {
			f.Fatal(err)
		}
		f.Add(kind, buf)
	}
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}}}
	txn := &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("k")}}, Success: []*pb.RequestOp{put, {}}}
	seed(0, txn)
	seed(0, &pb.TxnRequest{Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: txn}}}})
	seed(1, &pb.PutRequest{Key: []byte("k"), Lease: 7})
	seed(2, &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte{0}})
	seed(3, &pb.DeleteRangeRequest{Key: []byte("k")})
	f.Add(byte(4), []byte{0x08, 1, 0x0a, 2, 0xff, 0xfe})
	seed(5, &pb.LeaseGrantRequest{TTL: 5})
	seed(6, &pb.AuthRoleGrantPermissionRequest{Name: "r"})
	seed(7, &pb.AlarmRequest{MemberID: 1})
	seed(8, &pb.AuthUserAddRequest{Name: "u"})
	f.Add(byte(9), []byte{0x0a, 2, 0x0a, 0})
	c := newCodec(Observer{})
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		r := &pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: 1}}
		if !decodeInto(c, r, kind, data) {
			return
		}
		entry, err := r.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if err := (&pb.InternalRaftRequest{}).UnmarshalVT(entry); err != nil {
			t.Errorf("the log's decoder: %v", err)
		}
	})
}

// decodeInto puts a request that the checks let through into r.
func decodeInto(c codec, r *pb.InternalRaftRequest, kind byte, data []byte) bool {
	read := func(m any) bool { return c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, m) == nil }
	switch kind % 10 {
	case 0:
		r.Txn = &pb.TxnRequest{}
		return read(r.Txn) && checkTxn(r.Txn, 128) == nil
	case 1:
		r.Put = &pb.PutRequest{}
		return read(r.Put) && checkPut(r.Put) == nil
	case 2:
		r.Range = &pb.RangeRequest{}
		return read(r.Range) && checkRange(r.Range) == nil
	case 3:
		r.DeleteRange = &pb.DeleteRangeRequest{}
		return read(r.DeleteRange) && checkDeleteRange(r.DeleteRange) == nil
	case 4:
		r.Compaction = &pb.CompactionRequest{}
		return read(r.Compaction)
	case 5:
		r.LeaseGrant = &pb.LeaseGrantRequest{}
		return read(r.LeaseGrant)
	case 6:
		r.AuthRoleGrantPermission = &pb.AuthRoleGrantPermissionRequest{}
		return read(r.AuthRoleGrantPermission)
	case 7:
		r.Alarm = &pb.AlarmRequest{}
		return read(r.Alarm)
	case 8:
		r.AuthUserAdd = &pb.AuthUserAddRequest{}
		return read(r.AuthUserAdd)
	}
	return read(&pb.WatchRequest{})
}
