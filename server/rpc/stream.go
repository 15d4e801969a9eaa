package rpc

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// received is one message of a client stream, or the error that ended it.
type received[T any] struct {
	message T
	err     error
}

// receive reads a client stream on a goroutine of its own, because Recv cannot be interrupted, while its handler has to be
// able to return when ctx ends for another reason than the client's. The goroutine ends when ctx is done or, once the
// handler has returned, with the stream.
func receive[T any](ctx context.Context, recv func() (T, error)) <-chan received[T] {
	out := make(chan received[T])
	go func() {
		for {
			message, err := recv()
			select {
			case out <- received[T]{message, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return out
}

// failed tells the observer of a stream that broke, but not of one that its client gave up.
func (s *service) failed(kind, api string, err error) {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded:
		return
	}
	if s.Observer.StreamFailed != nil {
		s.Observer.StreamFailed(kind, api)
	}
}
