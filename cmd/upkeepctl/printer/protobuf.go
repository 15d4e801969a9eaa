package printer

import (
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// protobufPrinter writes the bytes of the response message.
type protobufPrinter struct{ out io.Writer }

func (p *protobufPrinter) Print(response any) error {
	var message proto.Message
	switch r := response.(type) {
	case *clientv3.PutResponse:
		message = (*pb.PutResponse)(r)
	case Get:
		message = (*pb.RangeResponse)(r.Response)
	case *clientv3.DeleteResponse:
		message = (*pb.DeleteRangeResponse)(r)
	case *clientv3.TxnResponse:
		message = (*pb.TxnResponse)(r)
	case *clientv3.WatchResponse:
		message = watchMessage(r)
	case *clientv3.AlarmResponse:
		message = (*pb.AlarmResponse)(r)
	case *clientv3.MemberListResponse:
		message = (*pb.MemberListResponse)(r)
	case MemberAdded:
		message = (*pb.MemberAddResponse)(r.Response)
	case MemberRemoved:
		message = (*pb.MemberRemoveResponse)(r.Response)
	case MemberUpdated:
		message = (*pb.MemberUpdateResponse)(r.Response)
	case MemberPromoted:
		message = (*pb.MemberPromoteResponse)(r.Response)
	case LeaderMoved:
		message = (*pb.MoveLeaderResponse)(r.Response)
	case Answer:
		message = r.Response
	case Role:
		message = (*pb.AuthRoleGetResponse)(r.Response)
	case RoleList:
		message = (*pb.AuthRoleListResponse)(r.Response)
	case LeaseTTL:
		message = r.Response
	case LeaseRevoked:
		return &unsupported{fmt.Sprintf("marshal unsupported for type %T (%v)", r.Response, r.Response)}
	case proto.Message:
		// The client's lease types embed the response header, so that is what etcdctl writes for them.
		message = r
	default:
		return notSupported("protobuf")
	}
	bytes, err := proto.Marshal(message)
	if err != nil {
		return err
	}
	_, err = p.out.Write(bytes)
	return err
}

func watchMessage(r *clientv3.WatchResponse) *pb.WatchResponse {
	message := &pb.WatchResponse{
		Header:          r.Header,
		CompactRevision: r.CompactRevision,
		Canceled:        r.Canceled,
		Created:         r.Created,
	}
	for _, event := range r.Events {
		message.Events = append(message.Events, (*mvccpb.Event)(event))
	}
	return message
}
