package rpc

import (
	"context"

	"google.golang.org/grpc"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// firstChunkKeys is how many keys the first message of a RangeStream holds. Later ones double while they stay below half
// of the request limit and halve when they exceed twice the limit, so that a message's size follows that of the values.
const firstChunkKeys = 10

// RangeStream answers a range in pieces, all read at the revision that was current (or asked for) at the start. Only the
// last piece says how many keys there are, whether the limit cut the answer, and has a header.
func (s *kvService) RangeStream(r *pb.RangeRequest, stream grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
	if err := checkRange(r); err != nil {
		return err
	}
	if err := checkStreamable(r); err != nil {
		return err
	}
	ctx := stream.Context()
	if !r.Serializable {
		if err := s.KV.LinearizableRead(ctx); err != nil {
			return err
		}
	}
	allowed, err := s.access(ctx)
	if err != nil {
		return err
	}
	if err := allowed.read(r.Key, r.RangeEnd); err != nil {
		return err
	}
	reader, err := s.KV.Pin(ctx, r.Revision)
	if err != nil {
		return err
	}
	defer reader.Close()
	// What is pinned does not change any more, and may be given out for as long as it takes.
	if err := allowed.fresh(); err != nil {
		return err
	}
	chunks := chunker{reader: reader, key: r.Key, end: r.RangeEnd, keysOnly: r.KeysOnly, keys: firstChunkKeys,
		limit: max(r.Limit, 0)}
	for {
		piece, last, err := s.nextPiece(ctx, r, &chunks)
		if err != nil {
			return err
		}
		if last {
			piece.Header = s.header(&pb.ResponseHeader{Revision: reader.StoreRevision()})
		}
		chunks.adapt(piece.SizeVT(), s.opts.MaxRequestBytes)
		if err := stream.Send(&pb.RangeStreamResponse{RangeResponse: piece}); err != nil {
			return err
		}
		if last {
			return nil
		}
	}
}

func (s *kvService) nextPiece(ctx context.Context, r *pb.RangeRequest, c *chunker) (*pb.RangeResponse, bool, error) {
	if !r.CountOnly {
		return c.next(ctx)
	}
	count, err := c.reader.Count(ctx, r.Key, r.RangeEnd)
	return &pb.RangeResponse{Count: count}, true, err
}

// checkStreamable refuses what needs the whole result before the first pair can be sent. An order is custom only when
// one is asked for: with no order, etcd streams by key whatever the target.
func checkStreamable(r *pb.RangeRequest) error {
	byKey := r.SortTarget == pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_ASCEND
	if r.SortOrder != pb.RangeRequest_NONE && !byKey {
		return ErrStreamSort
	}
	if r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0 {
		return ErrStreamRevisionFilter
	}
	return nil
}

// chunker walks a range piece by piece.
type chunker struct {
	reader   PinnedReader
	key, end []byte // what is left of the range
	keysOnly bool
	keys     int64 // size of the next piece
	limit    int64 // of the whole answer; 0: none
	sent     int64
}

// next returns the next piece, and whether it is the last one: then it has Count and More.
func (c *chunker) next(ctx context.Context) (*pb.RangeResponse, bool, error) {
	want := c.keys
	if c.limit > 0 {
		want = min(want, c.limit-c.sent)
	}
	kvs, more, err := c.reader.Page(ctx, c.key, c.end, want, c.keysOnly)
	if err != nil {
		return nil, false, err
	}
	c.sent += int64(len(kvs))
	piece := &pb.RangeResponse{Kvs: kvs}
	if !more {
		piece.Count = c.sent
		return piece, true, nil
	}
	// The smallest key behind the last one. The old key stays untouched: it is the request's.
	last := kvs[len(kvs)-1].Key
	c.key = append(make([]byte, 0, len(last)+1), last...)
	c.key = append(c.key, 0)
	if c.limit == 0 || c.sent < c.limit {
		return piece, false, nil
	}
	rest, err := c.reader.Count(ctx, c.key, c.end)
	if err != nil {
		return nil, false, err
	}
	piece.More, piece.Count = true, c.sent+rest
	return piece, true, nil
}

// adapt sizes the next piece after one of sizeBytes.
func (c *chunker) adapt(sizeBytes, maxRequestBytes int) {
	switch {
	case sizeBytes < maxRequestBytes/2:
		c.keys *= 2
	case sizeBytes > 2*maxRequestBytes:
		c.keys = max(c.keys/2, 1)
	}
}
