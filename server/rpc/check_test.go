package rpc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/server/apply"
)

func TestCheckSingle(t *testing.T) {
	key := []byte("k")
	for _, test := range []struct {
		name string
		got  error
		want error
	}{
		{"range", checkRange(&pb.RangeRequest{Key: key, SortOrder: 2, SortTarget: 4}), nil},
		{"range without key", checkRange(&pb.RangeRequest{SortOrder: 9}), ErrEmptyKey},
		{"range nil", checkRange(nil), ErrEmptyKey},
		{"range order", checkRange(&pb.RangeRequest{Key: key, SortOrder: 3}), ErrInvalidSortOption},
		{"range negative order", checkRange(&pb.RangeRequest{Key: key, SortOrder: -1}), ErrInvalidSortOption},
		{"range target", checkRange(&pb.RangeRequest{Key: key, SortTarget: 5}), ErrInvalidSortOption},
		{"put", checkPut(&pb.PutRequest{Key: key, Value: key, Lease: 3}), nil},
		{"put without key", checkPut(&pb.PutRequest{IgnoreValue: true, Value: key}), ErrEmptyKey},
		{"put keeps value", checkPut(&pb.PutRequest{Key: key, IgnoreValue: true, Lease: 1}), nil},
		{"put value twice", checkPut(&pb.PutRequest{Key: key, IgnoreValue: true, Value: key}), apply.ErrValueProvided},
		{"put lease twice", checkPut(&pb.PutRequest{Key: key, IgnoreLease: true, Lease: 1}), apply.ErrLeaseProvided},
		{"put both twice", checkPut(&pb.PutRequest{Key: key, IgnoreLease: true, Lease: 1, IgnoreValue: true, Value: key}),
			apply.ErrValueProvided},
		{"delete", checkDeleteRange(&pb.DeleteRangeRequest{Key: key, RangeEnd: []byte("a")}), nil},
		{"delete without key", checkDeleteRange(&pb.DeleteRangeRequest{RangeEnd: key}), ErrEmptyKey},
		{"stream", checkStreamable(&pb.RangeRequest{SortTarget: pb.RangeRequest_VALUE}), nil},
		{"stream ascending", checkStreamable(&pb.RangeRequest{SortOrder: pb.RangeRequest_ASCEND}), nil},
		{"stream descending", checkStreamable(&pb.RangeRequest{SortOrder: pb.RangeRequest_DESCEND, MinModRevision: 1}),
			ErrStreamSort},
		{"stream by value", checkStreamable(&pb.RangeRequest{SortOrder: 1, SortTarget: 4}), ErrStreamSort},
		{"stream filter", checkStreamable(&pb.RangeRequest{MaxCreateRevision: 1}), ErrStreamRevisionFilter},
	} {
		if !errors.Is(test.got, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, test.got, test.want)
		}
	}
}

// TestCheckTxn runs the scripts of testdata/txn. A transaction is written as
//
//	(if a b) (then (put a) (del a z) (get a z) (txn (then ...))) (else ...)
//
// where del and get take a key and an optional range end, and (none) is an operation with nothing in it. Words are Go
// string literals where they need to be.
func TestCheckTxn(t *testing.T) {
	datadriven.Walk(t, "testdata/txn", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			maxOps := defaultMaxTxnOps
			if d.HasArg("max-ops") {
				d.ScanArgs(t, "max-ops", &maxOps)
			}
			txn, err := parseTxn(d.Input)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			if err := checkTxn(txn, maxOps); err != nil {
				return err.Error() + "\n"
			}
			switch {
			case readOnly(txn) && serializable(txn):
				return "ok: local read\n"
			case readOnly(txn):
				return "ok: linearizable read\n"
			}
			return "ok\n"
		})
	})
}

// node is a word or a list of the script language.
type node struct {
	word string
	list []node
}

func parseTxn(text string) (*pb.TxnRequest, error) {
	tokens := strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(text))
	var parse func() ([]node, error)
	parse = func() ([]node, error) {
		var out []node
		for len(tokens) > 0 {
			token := tokens[0]
			tokens = tokens[1:]
			switch {
			case token == ")":
				return out, nil
			case token == "(":
				list, err := parse()
				if err != nil {
					return nil, err
				}
				out = append(out, node{list: list})
			case strings.HasPrefix(token, `"`):
				word, err := strconv.Unquote(token)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", token, err)
				}
				out = append(out, node{word: word})
			default:
				out = append(out, node{word: token})
			}
		}
		return out, nil
	}
	nodes, err := parse()
	if err != nil {
		return nil, err
	}
	return buildTxn(nodes)
}

func buildTxn(branches []node) (*pb.TxnRequest, error) {
	txn := &pb.TxnRequest{}
	for _, branch := range branches {
		if len(branch.list) == 0 {
			return nil, fmt.Errorf("want (if ...), (then ...) or (else ...), got %q", branch.word)
		}
		head, rest := branch.list[0].word, branch.list[1:]
		for _, item := range rest {
			if head == "if" {
				txn.Compare = append(txn.Compare, &pb.Compare{Key: []byte(item.word)})
				continue
			}
			op, err := buildOp(item.list)
			if err != nil {
				return nil, err
			}
			if head == "then" {
				txn.Success = append(txn.Success, op)
			} else {
				txn.Failure = append(txn.Failure, op)
			}
		}
	}
	return txn, nil
}

func buildOp(list []node) (*pb.RequestOp, error) {
	word := func(i int) []byte {
		if i < len(list) {
			return []byte(list[i].word)
		}
		return nil
	}
	switch string(word(0)) {
	case "put":
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: word(1)}}}, nil
	case "put-keep-value":
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: word(1), Value: word(2), IgnoreValue: true}}}, nil
	case "del":
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
			RequestDeleteRange: &pb.DeleteRangeRequest{Key: word(1), RangeEnd: word(2)}}}, nil
	case "get":
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
			RequestRange: &pb.RangeRequest{Key: word(1), RangeEnd: word(2)}}}, nil
	case "get-local":
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
			RequestRange: &pb.RangeRequest{Key: word(1), RangeEnd: word(2), Serializable: true}}}, nil
	case "get-badly-sorted":
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
			RequestRange: &pb.RangeRequest{Key: word(1), SortOrder: 7}}}, nil
	case "none":
		return &pb.RequestOp{}, nil
	case "txn":
		nested, err := buildTxn(list[1:])
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: nested}}, err
	}
	return nil, fmt.Errorf("unknown operation %q", word(0))
}
