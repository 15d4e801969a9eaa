package maintenance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// watcher is one stream with one watcher, without etcd's client in between: inside a bubble that keeps time from passing.
type watcher struct {
	stream pb.Watch_WatchClient
	cancel context.CancelFunc
	// pending are events that came with others that were asked for.
	pending []string
}

func (s *script) watch(a args) (string, error) {
	rev, err := strconv.ParseInt(a.or("rev", "0"), 10, 64)
	if err != nil {
		return "", err
	}
	request := &pb.WatchCreateRequest{Key: []byte(a.word(1)), StartRevision: rev, PrevKv: a.has("prev")}
	if a.has("prefix") {
		request.RangeEnd = []byte(clientv3.GetPrefixRangeEnd(a.word(1)))
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.t.Cleanup(cancel)
	stream, err := pb.NewWatchClient(s.client(a).ActiveConnection()).Watch(ctx)
	if err != nil {
		return "", err
	}
	w := &watcher{stream: stream, cancel: cancel}
	s.watchers[a.word(0)] = w
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}}); err != nil {
		return "", err
	}
	resp, err := w.next()
	if err != nil {
		return "", err
	}
	if !resp.Created {
		return "", fmt.Errorf("the first response is %v", resp)
	}
	return "watching", nil
}

func (w *watcher) next() (*pb.WatchResponse, error) {
	timer := time.AfterFunc(patience, w.cancel)
	resp, err := w.stream.Recv()
	if !timer.Stop() && err != nil {
		return nil, fmt.Errorf("nothing came within %v", patience)
	}
	return resp, err
}

// events shows the next COUNT events, or why there are no more.
func (s *script) events(a args) (string, error) {
	w := s.watchers[a.word(0)]
	count, err := strconv.Atoi(a.word(1))
	if w == nil || err != nil {
		return "", errors.New("expected are the name of a watcher and a number of events")
	}
	for len(w.pending) < count {
		resp, err := w.next()
		if err != nil {
			return strings.Join(w.pending, "\n"), err
		}
		for _, ev := range resp.Events {
			w.pending = append(w.pending, eventText(ev))
		}
		if resp.Canceled {
			said := "canceled: " + resp.CancelReason
			if resp.CompactRevision > 0 {
				said = fmt.Sprintf("canceled: compacted at revision %d", resp.CompactRevision)
			}
			return strings.Join(append(w.pending, said), "\n"), nil
		}
	}
	shown := w.pending[:count]
	w.pending = w.pending[count:]
	return strings.Join(shown, "\n"), nil
}

func eventText(ev *mvccpb.Event) string {
	text := fmt.Sprintf("%s %s", strings.ToLower(ev.Type.String()), ev.Kv.Key)
	if len(ev.Kv.Value) > 0 {
		text += fmt.Sprintf(" = %s", ev.Kv.Value)
	}
	text += fmt.Sprintf(", revision %d", ev.Kv.ModRevision)
	if ev.PrevKv != nil {
		text += fmt.Sprintf(", was %s", ev.PrevKv.Value)
	}
	return text
}

// progress asks how far the watcher is.
func (s *script) progress(a args) (string, error) {
	w := s.watchers[a.word(0)]
	if w == nil {
		return "", errors.New("expected is the name of a watcher")
	}
	err := w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
	if err != nil {
		return "", err
	}
	resp, err := w.next()
	if err != nil {
		return "", err
	}
	if len(resp.Events) > 0 || resp.Canceled {
		return "", fmt.Errorf("not progress but %v", resp)
	}
	return fmt.Sprintf("progress up to revision %d", resp.Header.Revision), nil
}
