package differential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// side is one of the two clusters, with what its clients remember.
type side struct {
	name    string
	members []*proc.Member
	conns   []*grpc.ClientConn
	ids     map[uint64]uint64 // what a member is called in requests and masked answers, to its ID here
	tokens  map[string]string // by user; one may have ended since
	streams map[int]*watching
}

func startSide(t testing.TB, name, program string, members int, flags ...string) *side {
	t.Helper()
	flags = append([]string{"--unsafe-no-fsync", "--bcrypt-cost=4"}, flags...)
	s := &side{
		name: name, members: proc.Start(t, program, members, flags...).Members,
		ids: map[uint64]uint64{}, tokens: map[string]string{}, streams: map[int]*watching{},
	}
	for i, m := range s.members {
		conn, err := grpc.NewClient(m.ClientURL[len("http://"):], grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		s.conns = append(s.conns, conn)
		resp, err := pb.NewMaintenanceClient(conn).Status(t.Context(), &pb.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		s.ids[uint64(i+1)] = resp.Header.MemberId
	}
	return s
}

// stop ends the members, before the end of the test.
func (s *side) stop() {
	for _, w := range s.streams {
		w.close()
	}
	for i, m := range s.members {
		s.conns[i].Close()
		m.Kill()
		_ = os.RemoveAll(m.DataDir) // not only with the test: there may be hundreds
	}
}

// methods are the full names of the calls, by the full names of their requests, from etcd's own description.
func methods() map[protoreflect.FullName]protoreflect.MethodDescriptor {
	out := map[protoreflect.FullName]protoreflect.MethodDescriptor{}
	services := pb.File_rpc_proto.Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			m := services.Get(i).Methods().Get(j)
			if m.Name() != "RangeStream" {
				out[m.Input().FullName()] = m
			}
		}
	}
	return out
}

func fullName(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

// patience bounds a call, and the wait for events of a watch.
const patience = 20 * time.Second

// do sends what the step says and returns the answer with everything masked that differs from cluster to cluster.
func (s *side) do(st step) ([]proto.Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if token := s.tokens[st.user]; token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "token", token)
	}
	conn := s.conns[st.member]
	if st.raw != nil {
		return nil, s.sendRaw(ctx, conn, st)
	}
	req := proto.Clone(st.req)
	s.name2id(req)
	resps, err := send(ctx, conn, st.method, req)
	if err != nil {
		return nil, s.refusal(err)
	}
	if r, ok := resps[0].(*pb.AuthenticateResponse); ok {
		s.tokens[req.(*pb.AuthenticateRequest).Name] = r.Token
	}
	if r, ok := resps[0].(*pb.MemberAddResponse); ok {
		s.ids[addedMember] = r.Member.GetID()
	}
	for _, r := range resps {
		s.mask(r)
	}
	if _, ok := resps[0].(*pb.SnapshotResponse); ok {
		resps = resps[:1] // its size, and so the number of pieces, differs
	}
	return resps, nil
}

// send makes one call of any shape, with at most one request.
func send(ctx context.Context, conn *grpc.ClientConn, name string, req proto.Message) ([]proto.Message, error) {
	m := methods()[req.ProtoReflect().Descriptor().FullName()]
	if name == rangeStream {
		stream, err := pb.NewKVClient(conn).RangeStream(ctx, req.(*pb.RangeRequest))
		if err != nil {
			return nil, err
		}
		return joinPieces(stream)
	}
	fresh := func() proto.Message {
		t, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
		if err != nil {
			panic(err)
		}
		return t.New().Interface()
	}
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		resp := fresh()
		err := conn.Invoke(ctx, fullName(m), req, resp)
		return []proto.Message{resp}, err
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, fullName(m))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(stream.SendMsg(req), stream.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var resps []proto.Message
	for {
		resp := fresh()
		err := stream.RecvMsg(resp)
		if errors.Is(err, io.EOF) && len(resps) > 0 {
			return resps, nil
		}
		if err != nil {
			return nil, err
		}
		resps = append(resps, resp)
	}
}

// joinPieces makes one answer of those of a RangeStream: where they are cut is up to the server.
func joinPieces(stream grpc.ServerStreamingClient[pb.RangeStreamResponse]) ([]proto.Message, error) {
	all := &pb.RangeResponse{}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return []proto.Message{all}, nil
		}
		if err != nil {
			return nil, err
		}
		proto.Merge(all, resp.RangeResponse)
	}
}

// rawBytes is a codec that sends and keeps what it is given.
type rawBytes struct{}

func (rawBytes) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (rawBytes) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (rawBytes) Name() string                       { return "proto" }

// sendRaw sends bytes that are no request, or one only by chance: whether and how it is refused is what counts.
func (s *side) sendRaw(ctx context.Context, conn *grpc.ClientConn, st step) error {
	var out []byte
	err := conn.Invoke(ctx, st.method, st.raw, &out, grpc.ForceCodec(rawBytes{}))
	if before, _, found := strings.Cut(status.Convert(err).Message(), "error unmarshalling request"); found {
		return status.Error(status.Code(err), before+"error unmarshalling request") // why, says each decoder in its way
	}
	return err
}

// refusal masks what is the member's own in an error.
func (s *side) refusal(err error) error {
	text := status.Convert(err).Message()
	for _, name := range slices.Sorted(maps.Keys(s.ids)) {
		text = strings.ReplaceAll(text, fmt.Sprintf("%x", s.ids[name]), fmt.Sprint("member", name))
	}
	if status.Code(err) == codes.ResourceExhausted {
		text, _, _ = strings.Cut(text, " than max (") // the size counts what each side's own IDs take
	}
	return status.Error(status.Code(err), text)
}

const (
	// addedMember stands in requests and masked answers for the member that was added last; 1 to 3 for the first ones.
	addedMember = 9
	rangeStream = "/etcdserverpb.KV/RangeStream"
)

// name2id puts the IDs of this cluster in the place of the members' names.
func (s *side) name2id(req proto.Message) {
	id := func(p *uint64) {
		if real, ok := s.ids[*p]; ok {
			*p = real
		}
	}
	switch r := req.(type) {
	case *pb.AlarmRequest:
		id(&r.MemberID)
	case *pb.MemberRemoveRequest:
		id(&r.ID)
	case *pb.MemberUpdateRequest:
		id(&r.ID)
	case *pb.MemberPromoteRequest:
		id(&r.ID)
	case *pb.MoveLeaderRequest:
		id(&r.TargetID)
	}
}

func (s *side) id2name(id uint64) uint64 {
	for name, real := range s.ids {
		if real == id {
			return name
		}
	}
	return id
}

func (s *side) mask(resp proto.Message) {
	forget(resp.ProtoReflect())
	if h := headerOf(resp); h != nil {
		h.ClusterId, h.MemberId, h.RaftTerm = 0, 0, 0
	}
	switch r := resp.(type) {
	case *pb.LeaseTimeToLiveResponse:
		r.TTL = min(r.TTL, 1) // a second may pass between the two
		slices.SortFunc(r.Keys, slices.Compare)
	case *pb.LeaseLeasesResponse:
		slices.SortFunc(r.Leases, func(a, b *pb.LeaseStatus) int { return int(a.ID - b.ID) })
	case *pb.AuthenticateResponse:
		r.Token = ""
	case *pb.AlarmResponse:
		for _, a := range r.Alarms {
			a.MemberID = s.id2name(a.MemberID)
		}
		slices.SortFunc(r.Alarms, func(a, b *pb.AlarmMember) int { return strings.Compare(a.String(), b.String()) })
	case *pb.StatusResponse:
		r.Version, _, _ = strings.Cut(r.Version, ".")
		r.DbSize, r.DbSizeInUse, r.Leader, r.RaftIndex, r.RaftTerm, r.RaftAppliedIndex = 0, 0, 0, 0, 0, 0
		for i := range r.Errors { // "memberID:8372... alarm:NOSPACE", in the order of a map
			r.Errors[i] = r.Errors[i][strings.LastIndex(r.Errors[i], " ")+1:]
		}
		slices.Sort(r.Errors)
	case *pb.HashResponse:
		r.Hash = 0
	case *pb.SnapshotResponse:
		r.Blob, r.RemainingBytes, r.Version = nil, 0, ""
	case *pb.MemberAddResponse:
		s.maskMembers(append(slices.Clone(r.Members), r.Member))
		slices.SortFunc(r.Members, byName)
	case *pb.MemberListResponse:
		s.maskMembers(r.Members)
		slices.SortFunc(r.Members, byName)
	case *pb.MemberRemoveResponse:
		s.maskMembers(r.Members)
		slices.SortFunc(r.Members, byName)
	case *pb.MemberUpdateResponse:
		s.maskMembers(r.Members)
		slices.SortFunc(r.Members, byName)
	}
}

func byName(a, b *pb.Member) int { return int(a.ID) - int(b.ID) }

func (s *side) maskMembers(members []*pb.Member) {
	for _, m := range members {
		if m.ID = s.id2name(m.ID); m.ID <= uint64(len(s.members)) {
			m.PeerURLs, m.ClientURLs = nil, nil
		}
	}
}

// forget drops fields that etcd's messages do not have, in m and all that it holds.
func forget(m protoreflect.Message) {
	m.SetUnknown(nil)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				forget(v.List().Get(i).Message())
			}
		default:
			forget(v.Message())
		}
		return true
	})
}

func headerOf(m proto.Message) *pb.ResponseHeader {
	if h, ok := m.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		return h.GetHeader()
	}
	return nil
}
