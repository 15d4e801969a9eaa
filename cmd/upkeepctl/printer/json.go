package printer

import (
	"encoding/json"
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// jsonPrinter writes one line of JSON per response: the Go form of the
// protobuf struct, so bytes are base64 and 64-bit integers are numbers.
type jsonPrinter struct {
	out io.Writer
	hex bool
}

func (p *jsonPrinter) Print(response any) error {
	switch r := response.(type) {
	case Get:
		response = r.Response
	case *clientv3.TxnResponse:
		response = txnLine(r)
	case Answer:
		response = r.Response
	case Role:
		response = r.Response
	case RoleList:
		response = r.Response
	case LeaseRevoked:
		response = r.Response
	case LeaseTTL:
		response = r.Response
	case LeaderMoved:
		response = r.Response
	case MemberAdded:
		return p.members(r.Response, r.Response.Header, r.Response.Member, r.Response.Members)
	case MemberRemoved:
		return p.members(r.Response, r.Response.Header, nil, r.Response.Members)
	case MemberUpdated:
		return p.members(r.Response, r.Response.Header, nil, r.Response.Members)
	case MemberPromoted:
		return p.members(r.Response, r.Response.Header, nil, r.Response.Members)
	case *clientv3.MemberListResponse:
		return p.members(r, r.Header, nil, r.Members)
	}
	return p.line(response)
}

func (p *jsonPrinter) line(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.out, string(line))
	return err
}

// members writes a membership response, with IDs as hexadecimal strings under --hex.
func (p *jsonPrinter) members(plain any, header *pb.ResponseHeader, member *pb.Member, members []*pb.Member) error {
	if !p.hex {
		return p.line(plain)
	}
	type hexHeader struct {
		ClusterID string `json:"cluster_id"`
		MemberID  string `json:"member_id"`
		Revision  int64  `json:"revision,omitempty"`
		RaftTerm  uint64 `json:"raft_term,omitempty"`
	}
	type hexMember struct {
		ID         string   `json:"ID"`
		Name       string   `json:"name,omitempty"`
		PeerURLs   []string `json:"peerURLs,omitempty"`
		ClientURLs []string `json:"clientURLs,omitempty"`
		IsLearner  bool     `json:"isLearner,omitempty"`
	}
	convert := func(m *pb.Member) *hexMember {
		return &hexMember{fmt.Sprintf("%x", m.ID), m.Name, m.PeerURLs, m.ClientURLs, m.IsLearner}
	}
	var line struct {
		Header  hexHeader    `json:"header"`
		Member  *hexMember   `json:"member,omitempty"`
		Members []*hexMember `json:"members"`
	}
	line.Header = hexHeader{
		fmt.Sprintf("%x", header.GetClusterId()), fmt.Sprintf("%x", header.GetMemberId()),
		header.GetRevision(), header.GetRaftTerm(),
	}
	if member != nil {
		line.Member = convert(member)
	}
	for _, m := range members {
		line.Members = append(line.Members, convert(m))
	}
	return p.line(line)
}

// txnLine gives the operations of a transaction the names they have in the
// protobuf definition; Go's own would be ResponsePut and so on.
func txnLine(r *clientv3.TxnResponse) any {
	type operation struct {
		Response map[string]any
	}
	line := struct {
		Header    *pb.ResponseHeader `json:"header,omitempty"`
		Succeeded bool               `json:"succeeded,omitempty"`
		Responses []operation        `json:"responses,omitempty"`
	}{Header: r.Header, Succeeded: r.Succeeded}
	for _, op := range r.Responses {
		var named map[string]any
		switch op := op.Response.(type) {
		case *pb.ResponseOp_ResponsePut:
			named = map[string]any{"response_put": op.ResponsePut}
		case *pb.ResponseOp_ResponseRange:
			named = map[string]any{"response_range": op.ResponseRange}
		case *pb.ResponseOp_ResponseDeleteRange:
			named = map[string]any{"response_delete_range": op.ResponseDeleteRange}
		}
		line.Responses = append(line.Responses, operation{named})
	}
	return line
}
