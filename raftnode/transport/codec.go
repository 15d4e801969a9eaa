package transport

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	protobuf "google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/proto/peerpb"
)

// maxMessageBytes bounds one gRPC message. A batch ends behind the message that passes batchBytes, and that message
// may hold one request of the largest allowed size.
const maxMessageBytes = 1<<31 - 1

// codec is gRPC's protobuf codec with a short way for raft batches: outBatch is encoded straight from raft's messages
// into a pooled buffer, and inBatch is decoded straight from the received buffer, so that an entry's bytes are copied
// once at each end. On the wire it is peerpb.RaftBatch, and anything else goes the usual way.
type codec struct{}

// outBatch is a RaftBatch to be sent.
type outBatch struct {
	hello    *peerpb.Hello
	messages []*raftpb.Message
	// bytes is set by encoding.
	bytes int
}

// inBatch is a RaftBatch being received. A server without this codec fills the embedded message instead, which
// unpack then decodes.
type inBatch struct {
	peerpb.RaftBatch
	messages []*raftpb.Message
	bytes    int
}

// Numbers of the fields of peerpb.RaftBatch.
const (
	helloField    = 1
	messagesField = 2
)

func (codec) Name() string { return proto.Name }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	batch, ok := v.(*outBatch)
	if !ok {
		return encoding.GetCodecV2(proto.Name).Marshal(v)
	}
	// Size walks a message once and leaves sizes behind in it, which MarshalAppend then uses.
	total := 0
	sizes := make([]int, len(batch.messages))
	for i, m := range batch.messages {
		sizes[i] = protobuf.Size(m)
		total += protowire.SizeTag(messagesField) + protowire.SizeBytes(sizes[i])
	}
	if batch.hello != nil {
		total += protowire.SizeTag(helloField) + protowire.SizeBytes(batch.hello.SizeVT())
	}
	batch.bytes = total
	pool := mem.DefaultBufferPool()
	buffer := pool.Get(total)
	encoded, err := batch.appendTo((*buffer)[:0], sizes)
	if err != nil {
		pool.Put(buffer)
		return nil, err
	}
	*buffer = encoded
	return mem.BufferSlice{mem.NewBuffer(buffer, pool)}, nil
}

func (b *outBatch) appendTo(to []byte, sizes []int) ([]byte, error) {
	if b.hello != nil {
		hello, err := b.hello.MarshalVT()
		if err != nil {
			return nil, err
		}
		to = protowire.AppendTag(to, helloField, protowire.BytesType)
		to = protowire.AppendBytes(to, hello)
	}
	for i, m := range b.messages {
		to = protowire.AppendTag(to, messagesField, protowire.BytesType)
		to = protowire.AppendVarint(to, uint64(sizes[i]))
		start := len(to)
		var err error
		if to, err = (protobuf.MarshalOptions{UseCachedSize: true}).MarshalAppend(to, m); err != nil {
			return nil, err
		}
		if len(to)-start != sizes[i] {
			return nil, fmt.Errorf("transport: message of %d bytes was measured as %d", len(to)-start, sizes[i])
		}
	}
	return to, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	batch, ok := v.(*inBatch)
	if !ok {
		return encoding.GetCodecV2(proto.Name).Unmarshal(data, v)
	}
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	return batch.decode(buffer.ReadOnlyData())
}

// decode leaves nothing in b that points into data.
func (b *inBatch) decode(data []byte) error {
	b.bytes = len(data)
	b.Hello, b.Messages, b.messages = nil, nil, b.messages[:0]
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
				return protowire.ParseError(n)
			}
			data = data[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		switch number {
		case helloField:
			b.Hello = new(peerpb.Hello)
			if err := b.Hello.UnmarshalVT(value); err != nil {
				return err
			}
		case messagesField:
			if err := b.add(value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *inBatch) add(encoded []byte) error {
	m := new(raftpb.Message)
	if err := protobuf.Unmarshal(encoded, m); err != nil {
		return err
	}
	b.messages = append(b.messages, m)
	return nil
}

// unpack decodes what another codec left in the embedded message.
func (b *inBatch) unpack() error {
	for _, encoded := range b.Messages {
		b.bytes += len(encoded)
		if err := b.add(encoded); err != nil {
			return err
		}
	}
	b.Messages = nil
	return nil
}
