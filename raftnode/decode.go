package raftnode

import (
	"encoding/json"
	"errors"
	"path"
	"strconv"

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

// decodeV2 reads an entry as etcd up to 3.5 wrote it to publish a member's attributes or the cluster version: a
// request to the v2 store, with method (2), path (3) and value (4). It returns the command of today that does the same,
// or nil if there is none.
func decodeV2(data []byte) (*pb.InternalRaftRequest, error) {
	var id uint64
	var text [5]string
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		data = data[n:]
		n = protowire.ConsumeFieldValue(num, typ, data)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		switch {
		case num == 1 && typ == protowire.VarintType:
			id, _ = protowire.ConsumeVarint(data)
		case num >= 2 && num <= 4 && typ == protowire.BytesType:
			v, _ := protowire.ConsumeBytes(data)
			text[num] = string(v)
		}
		data = data[n:]
	}
	method, key, value := text[2], text[3], text[4]
	if len(key) == 0 || key[0] != '/' {
		return nil, errors.New("neither a command nor a request to the v2 store")
	}
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
