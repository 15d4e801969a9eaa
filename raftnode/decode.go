package raftnode

import (
	"encoding/json"
	"errors"
	"path"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// decodeCommands appends the commands of an entry to dst. The commands own their bytes.
func decodeCommands(data []byte, dst []*pb.InternalRaftRequest) ([]*pb.InternalRaftRequest, error) {
	if len(data) == 0 {
		return dst, nil
	}
	req := &pb.InternalRaftRequest{}
	if err := req.UnmarshalVT(data); err != nil {
		old, legacyErr := decodeV2(data)
		if legacyErr != nil {
			return nil, errors.Join(err, legacyErr)
		}
		if old == nil {
			return dst, nil
		}
		return append(dst, old), nil
	}
	if len(req.Batch) > 0 {
		return append(dst, req.Batch...), nil
	}
	return append(dst, req), nil
}

// v2Request is a request to the v2 store of etcd up to 3.5.
type v2Request struct {
	id                 uint64
	method, key, value string
}

var errNotCommand = errors.New("neither a command nor a request to the v2 store")

// parseV2 reads the fields that count: an ID (1), method (2), path (3) and value (4).
func parseV2(data []byte) (v2Request, error) {
	var r v2Request
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return r, protowire.ParseError(n)
		}
		data = data[n:]
		n = protowire.ConsumeFieldValue(num, typ, data)
		if n < 0 {
			return r, protowire.ParseError(n)
		}
		switch {
		case num == 1 && typ == protowire.VarintType:
			r.id, _ = protowire.ConsumeVarint(data)
		case num >= 2 && num <= 4 && typ == protowire.BytesType:
			v, _ := protowire.ConsumeBytes(data)
			*[]*string{&r.method, &r.key, &r.value}[num-2] = string(v)
		}
		data = data[n:]
	}
	if r.method != "SYNC" && (r.key == "" || r.key[0] != '/') {
		return r, errNotCommand
	}
	return r, nil
}

// changesKeys tells whether the request is a client's, and not of the server's own about members and versions.
func (r v2Request) changesKeys() bool {
	return strings.HasPrefix(r.key, "/1/") && r.method != "GET" && r.method != "QGET"
}

// decodeV2 reads an entry as etcd up to 3.5 wrote it to publish a member's attributes or the cluster version. It returns
// the command of today that does the same, or nil if there is none.
func decodeV2(data []byte) (*pb.InternalRaftRequest, error) {
	r, err := parseV2(data)
	if err != nil {
		return nil, err
	}
	id, method, key, value := r.id, r.method, r.key, r.value
	req := &pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: id}}
	dir, last := path.Split(key)
	switch {
	case method != "PUT":
		return nil, nil
	case key == "/0/version":
		req.ClusterVersionSet = &pb.ClusterVersionSetRequest{Ver: value}
		return req, nil
	case last == "attributes" && path.Dir(path.Clean(dir)) == "/0/members":
		member, err := strconv.ParseUint(path.Base(dir), 16, 64)
		if err != nil {
			return nil, err
		}
		var attributes struct {
			Name       string   `json:"name"`
			ClientURLs []string `json:"clientURLs"`
		}
		if err := json.Unmarshal([]byte(value), &attributes); err != nil {
			return nil, err
		}
		req.ClusterMemberAttrSet = &pb.ClusterMemberAttrSetRequest{
			Member_ID:        member,
			MemberAttributes: &pb.Attributes{Name: attributes.Name, ClientUrls: attributes.ClientURLs},
		}
		return req, nil
	}
	return nil, nil
}
