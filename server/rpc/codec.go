package rpc

import (
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// codec turns messages into bytes and back. It is given to one server (grpc.ForceServerCodecV2) and not registered for
// the process, so that a program's other clients and servers keep theirs.
//
// Who owns the bytes: gRPC frees a request's buffers as soon as Unmarshal returns, and a request lives on, in the log
// and in the store. So a request is copied once, out of gRPC's pooled buffers into memory that belongs to it alone, and
// its keys and values then point into that memory (UnmarshalVTUnsafe) instead of being copied a second time. That memory
// never goes back to a pool; it lives as long as the longest-lived key or value of the request.
// Answers are marshalled into a pooled buffer that gRPC gives back once it is written.
type codec struct {
	fallback encoding.CodecV2
	received func(bytes int) // may be nil
	sent     func(bytes int) // may be nil
}

func newCodec(o Observer) codec {
	return codec{fallback: encoding.GetCodecV2(protocodec.Name), received: o.ReceivedBytes, sent: o.SentBytes}
}

func (codec) Name() string { return protocodec.Name }

// vtMessage is what the vtproto generator adds to our messages.
type vtMessage interface {
	SizeVT() int
	MarshalToSizedBufferVT(buf []byte) (int, error)
}

// aliasing are the requests that carry keys or values and may be many or large.
type aliasing interface {
	UnmarshalVTUnsafe(data []byte) error
}

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(vtMessage)
	if !ok {
		out, err := c.fallback.Marshal(v)
		if err == nil && c.sent != nil {
			c.sent(out.Len())
		}
		return out, err
	}
	size := m.SizeVT()
	if c.sent != nil {
		c.sent(size)
	}
	if mem.IsBelowBufferPoolingThreshold(size) {
		buf := make([]byte, size)
		if _, err := m.MarshalToSizedBufferVT(buf); err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(buf)}, nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	if _, err := m.MarshalToSizedBufferVT(*buf); err != nil {
		pool.Put(buf)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if c.received != nil {
		c.received(data.Len())
	}
	switch v.(type) {
	case *pb.RangeRequest, *pb.PutRequest, *pb.DeleteRangeRequest, *pb.TxnRequest, *pb.WatchRequest:
		return v.(aliasing).UnmarshalVTUnsafe(data.Materialize())
	}
	// The rest is rare, or small and without bytes of its own; google's decoder also refuses text that is not UTF-8.
	m, ok := v.(proto.Message)
	if !ok {
		return c.fallback.Unmarshal(data, v)
	}
	// What it does not know goes no further. It takes a known field of the wrong wire type for an unknown one and would
	// keep it, and the decoder of the log refuses that: one such request in the log, and no member could apply it.
	return proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data.Materialize(), m)
}
