package quota

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/upkeep-kv/upkeep/backend"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

func putOp(key, value string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

func txnOp(t *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
}

func TestCost(t *testing.T) {
	for _, test := range []struct {
		name string
		r    *pb.InternalRaftRequest
		want int64
	}{
		{"put", &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("abc"), Value: []byte("12345")}}, 256 + 8},
		{"grant", &pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{}}, 64},
		{"delete", &pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte("a")}}, 0},
		{"compaction", &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{}}, 0},
		{"the dearer branch", &pb.InternalRaftRequest{Txn: &pb.TxnRequest{
			Success: []*pb.RequestOp{putOp("a", "1")},
			Failure: []*pb.RequestOp{putOp("a", "1"), putOp("b", "22")},
		}}, 2*256 + 5},
		{"nested", &pb.InternalRaftRequest{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{
			putOp("a", ""), txnOp(&pb.TxnRequest{Failure: []*pb.RequestOp{putOp("bb", "")}}),
		}}}, 2*256 + 3},
		{"reads alone", &pb.InternalRaftRequest{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a")}}},
		}}}, 0},
	} {
		if got := Cost(test.r); got != test.want {
			t.Errorf("%s costs %d, want %d", test.name, got, test.want)
		}
	}
}

func TestAdmission(t *testing.T) {
	put := &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("k")}} // costs 257
	free := &pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte("k")}}
	for _, test := range []struct {
		limit, size int64
		want        error
	}{
		{1000, 742, nil},
		{1000, 743, ErrNoSpace}, // 743 + 257 is not below 1000
		{1000, 5000, ErrNoSpace},
		{0, DefaultBytes - 257, ErrNoSpace}, // 0 is the default
		{0, DefaultBytes - 258, nil},
		{-1, 1 << 60, nil}, // no limit
	} {
		l := Limit{MaxBytes: test.limit, Size: func() int64 { return test.size }}
		if err := l.Admit(put); !errors.Is(err, test.want) {
			t.Errorf("limit %d, size %d: %v, want %v", test.limit, test.size, err, test.want)
		}
		if err := l.Admit(free); err != nil {
			t.Errorf("limit %d, size %d: a delete is refused: %v", test.limit, test.size, err)
		}
	}
}

// Alarms are what the bucket says, through raising, lowering and reloading.
func TestAlarmsPersist(t *testing.T) {
	b, err := backend.Open(backend.Config{Path: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a := &Alarms{}
	noSpace, corrupt := Alarm{Member: 2, Type: pb.AlarmType_NOSPACE}, Alarm{Member: 1, Type: pb.AlarmType_CORRUPT}
	batch := b.Begin()
	a.Activate(batch, noSpace)
	a.Activate(batch, corrupt)
	a.Activate(batch, noSpace)
	if !a.Deactivate(batch, corrupt) || a.Deactivate(batch, corrupt) {
		t.Error("an alarm is lowered once")
	}
	batch.Commit(1, 1)
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	view := b.View()
	defer view.Close()
	loaded, err := Load(view)
	if err != nil {
		t.Fatal(err)
	}
	if got := loaded.List(pb.AlarmType_NONE); len(got) != 1 || got[0] != noSpace {
		t.Errorf("loaded %v, want %v", got, noSpace)
	}
	if got := loaded.List(pb.AlarmType_CORRUPT); len(got) != 0 {
		t.Errorf("loaded %v of type CORRUPT", got)
	}
}
