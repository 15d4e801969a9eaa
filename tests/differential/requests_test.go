package differential

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// anything returns a step of any kind but those that turn authentication on.
func (g *generator) anything(o *officer) step {
	st := step{member: g.IntN(g.members)}
	switch n := g.IntN(1000); {
	case n < 680:
		st.req = g.request()
	case n < 720:
		st.req, st.method = g.ranged(), rangeStream
	case n < 770:
		return g.watch("", 4)
	case n < 860:
		st.req = g.operation()
	case n < 910:
		if st.req = o.order(); proto.Equal(st.req, &pb.AuthEnableRequest{}) {
			st.req = o.question()
		}
	case n < 930:
		st.req = &pb.AuthenticateRequest{Name: o.user(), Password: o.password()}
	case n < 940:
		st.req = g.huge()
	case n < 970:
		st.req = g.wrong()
	default:
		st.method, st.raw = g.malformed()
	}
	if g.members > 1 {
		linearize(st.req)
	}
	return st
}

// linearize has a range read what every member agrees on.
func linearize(req proto.Message) {
	if r, ok := req.(*pb.RangeRequest); ok {
		r.Serializable = false
	}
}

// watch is a request on one of a few streams of the user's.
func (g *generator) watch(user string, streams int) step {
	n := g.IntN(streams)
	st := step{user: user, stream: n}
	for _, c := range user { // each user's are their own
		st.stream = st.stream*256 + int(c)
	}
	st.member = n % g.members
	r := &pb.WatchRequest{}
	switch n := g.IntN(20); {
	case n < 12:
		r.RequestUnion = &pb.WatchRequest_CreateRequest{CreateRequest: g.watcher()}
	case n < 18:
		r.RequestUnion = &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: int64(g.IntN(6))}}
	case n < 19:
		r.RequestUnion = &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}
	} // else the stream is closed
	st.req = r
	return st
}

func (g *generator) watcher() *pb.WatchCreateRequest {
	r := &pb.WatchCreateRequest{
		Key: g.key(), RangeEnd: g.end(), PrevKv: g.one(2), Fragment: g.one(3), ProgressNotify: g.one(8),
		StartRevision: g.revision(),
	}
	if g.one(8) {
		r.WatchId = int64(g.IntN(6))
	}
	if g.one(20) {
		r.StartRevision = -1
	}
	r.RangeEnd = straight(r.Key, r.RangeEnd)
	for g.one(4) {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_FilterType(g.IntN(3)))
	}
	return r
}

// name is a member as requests call it, or one that there is not.
func (g *generator) name() uint64 {
	return []uint64{1, addedMember, 4711, 0}[g.IntN(4)]
}

// url is one that a member may have, and hardly ever twice: whether a second member of that URL would have the ID of the
// first depends on the second in which it is added. An update to something that is no URL ends etcd.
func (g *generator) url() []string {
	return []string{fmt.Sprintf("http://127.0.0.1:1/%d", g.Uint32())}
}

// operation is what operators do. With several members, who leads and who is a member stays:
// who leads differs, and whether a member may be added depends on the time.
func (g *generator) operation() proto.Message {
	all := []func() proto.Message{
		func() proto.Message { return &pb.StatusRequest{} },
		func() proto.Message { return &pb.HashRequest{} },
		func() proto.Message { return &pb.MemberListRequest{Linearizable: true} },
		func() proto.Message { return &pb.LeaseLeasesRequest{} },
		func() proto.Message { return &pb.LeaseKeepAliveRequest{ID: 1000 + int64(g.IntN(7))} },
		func() proto.Message { return g.alarm(pb.AlarmRequest_GET) },
		func() proto.Message { return g.alarm(pb.AlarmRequest_ACTIVATE) },
		func() proto.Message { return g.alarm(pb.AlarmRequest_DEACTIVATE) },
		func() proto.Message { return g.alarm(pb.AlarmRequest_DEACTIVATE) },
		func() proto.Message { return g.alarm(pb.AlarmRequest_DEACTIVATE) },
		func() proto.Message {
			return &pb.MemberUpdateRequest{ID: 4711, PeerURLs: []string{"http://127.0.0.1:1"}}
		},
		func() proto.Message { return &pb.MemberPromoteRequest{ID: 4711} },
		func() proto.Message { return &pb.DefragmentRequest{} },
	}
	if g.members == 1 {
		all = append(all,
			func() proto.Message { return &pb.SnapshotRequest{} },
			func() proto.Message { return &pb.MoveLeaderRequest{TargetID: g.name()} },
			func() proto.Message { return &pb.MemberAddRequest{PeerURLs: g.url(), IsLearner: true} },
			func() proto.Message {
				return &pb.MemberAddRequest{PeerURLs: [][]string{nil, {""}, {"127.0.0.1:1"}}[g.IntN(3)]}
			},
			func() proto.Message { return &pb.MemberRemoveRequest{ID: []uint64{addedMember, 4711, 0}[g.IntN(3)]} },
			func() proto.Message { return &pb.MemberUpdateRequest{ID: addedMember, PeerURLs: g.url()} },
			func() proto.Message { return &pb.MemberPromoteRequest{ID: g.name()} },
		)
	}
	return all[g.IntN(len(all))]()
}

// alarm is mostly about the first member, and seldom raises one, since little goes then.
func (g *generator) alarm(action pb.AlarmRequest_AlarmAction) proto.Message {
	r := &pb.AlarmRequest{Action: action, MemberID: 1, Alarm: pb.AlarmType(1 + g.IntN(2))}
	if action == pb.AlarmRequest_ACTIVATE && !g.one(4) {
		r.Alarm = pb.AlarmType_NONE
	}
	if g.one(5) {
		r.Alarm = pb.AlarmType(g.IntN(5))
	}
	if action != pb.AlarmRequest_ACTIVATE && g.one(5) {
		r.MemberID = g.name()
	}
	return r
}

// huge is near or over a limit of size.
func (g *generator) huge() proto.Message {
	large := bytes.Repeat([]byte("x"), []int{100_000, 1_500_000, 1_572_850, 1_572_900, 2_097_100, 2_200_000}[g.IntN(6)])
	switch g.IntN(4) {
	case 0:
		return &pb.PutRequest{Key: large, Value: []byte("v")}
	case 1:
		return &pb.PutRequest{Key: []byte("k01"), Value: large}
	case 2:
		op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k02"), Value: large}}}
		return &pb.TxnRequest{Success: []*pb.RequestOp{op}}
	}
	r := &pb.TxnRequest{}
	for range 126 + g.IntN(5) {
		op := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("k03")}}}
		r.Failure = append(r.Failure, op)
	}
	return r
}

// wrong is a well-formed message that says what cannot be. Not an action of alarms that there is not: it ends etcd.
func (g *generator) wrong() proto.Message {
	enum := int32([]int{-1, 9, 1 << 30}[g.IntN(3)])
	all := []proto.Message{
		&pb.RangeRequest{Key: []byte("k01"), SortOrder: pb.RangeRequest_SortOrder(enum)},
		&pb.RangeRequest{Key: []byte("k01"), SortTarget: pb.RangeRequest_SortTarget(enum)},
		&pb.RangeRequest{Key: []byte("k01"), Limit: -3, Revision: -7},
		&pb.RangeRequest{},
		&pb.PutRequest{}, &pb.PutRequest{Key: []byte("k01"), Value: []byte("v"), IgnoreValue: true},
		&pb.PutRequest{Key: []byte("k01"), Lease: 1000, IgnoreLease: true}, &pb.PutRequest{Key: []byte("k01"), Lease: -1},
		&pb.DeleteRangeRequest{RangeEnd: []byte{0}},
		&pb.TxnRequest{Success: []*pb.RequestOp{{}}},
		&pb.TxnRequest{Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{}}}},
		&pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{}}}},
		&pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{}}}},
		&pb.TxnRequest{Compare: []*pb.Compare{{}}},
		&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("k01"), Result: pb.Compare_CompareResult(enum)}}},
		&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("k01"), Target: pb.Compare_CompareTarget(enum)}}},
		&pb.CompactionRequest{Revision: -1}, &pb.CompactionRequest{Revision: 1 << 62},
		&pb.HashKVRequest{Revision: -1}, &pb.HashKVRequest{Revision: 1 << 62},
		&pb.LeaseGrantRequest{ID: 1000, TTL: 9_000_000_001}, &pb.LeaseGrantRequest{ID: 1000, TTL: 1 << 62},
		&pb.LeaseRevokeRequest{}, &pb.LeaseRevokeRequest{ID: -1}, &pb.LeaseTimeToLiveRequest{ID: -1},
		&pb.LeaseKeepAliveRequest{}, &pb.LeaseKeepAliveRequest{ID: -5},
		&pb.AlarmRequest{Alarm: pb.AlarmType(enum)},
		&pb.DowngradeRequest{Action: pb.DowngradeRequest_DowngradeAction(enum)},
		&pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: []string{"", "3.6", "3.5.0", "3.6.0", "3.7.0", "x", "4.0.0"}[g.IntN(7)]},
		&pb.DowngradeRequest{Action: pb.DowngradeRequest_ENABLE, Version: []string{"", "3.5.0", "3.7.0", "x", "4.0.0"}[g.IntN(5)]},
		&pb.AuthUserAddRequest{}, &pb.AuthUserGetRequest{}, &pb.AuthRoleGetRequest{}, &pb.AuthRoleGrantPermissionRequest{},
		&pb.AuthUserGrantRoleRequest{}, &pb.AuthUserAddRequest{Name: "u9", HashedPassword: "no base64"},
	}
	return all[g.IntN(len(all))]
}

// malformed returns bytes that are cut off, have something behind them, or are of another message.
func (g *generator) malformed() (method string, body []byte) {
	requests := []struct {
		method string
		req    proto.Message
	}{
		{"/etcdserverpb.KV/Put", g.put()}, {"/etcdserverpb.KV/Range", g.ranged()},
		{"/etcdserverpb.KV/DeleteRange", g.deleted()}, {"/etcdserverpb.KV/Txn", g.txn(1)},
		{"/etcdserverpb.KV/Compact", &pb.CompactionRequest{Revision: 1}},
		{"/etcdserverpb.Lease/LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: 1000}},
		{"/etcdserverpb.Maintenance/Alarm", &pb.AlarmRequest{MemberID: 1}},
		{"/etcdserverpb.Auth/UserGet", &pb.AuthUserGetRequest{Name: "u0"}},
		{"/etcdserverpb.Cluster/MemberUpdate", &pb.MemberUpdateRequest{ID: 4711, PeerURLs: []string{"http://a"}}},
	}
	r := requests[g.IntN(len(requests))]
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.req)
	if err != nil {
		panic(err)
	}
	switch g.IntN(6) {
	case 0:
		if !strings.HasSuffix(r.method, "Compact") { // at 0: see request
			body = body[:g.IntN(len(body)+1)]
		}
	case 1: // a field of length 5 with one byte
		body = append(slices.Clip(body), 0x0a, 5, 'x')
	case 2: // a group that nothing ends
		body = append(slices.Clip(body), 0x0b)
	case 3: // a field of number 0
		body = append(slices.Clip(body), 0x02, 0)
	case 4: // text that is not UTF-8, or a key that need not be
		body = append(slices.Clip(body), 0x0a, 2, 0xff, 0xfe)
	case 5:
		r.method += "s"
	}
	return r.method, body
}
