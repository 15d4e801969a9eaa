package differential

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// step is one thing that a client does. Steps hold nothing that depends on the servers, so that any selection of them can
// be played again.
type step struct {
	user   string
	member int // that it is sent to
	method string
	req    proto.Message
	raw    []byte // in place of req
	stream int    // that a WatchRequest goes to
}

func (s step) String() string {
	if s.raw != nil {
		return fmt.Sprintf("member %d, %q: %s %x", s.member+1, s.user, s.method, s.raw)
	}
	body := strings.Join(strings.Fields(prototext.Format(s.req)), " ")
	if len(body) > 1000 {
		body = fmt.Sprintf("%s … (%d bytes)", body[:1000], len(body))
	}
	return fmt.Sprintf("member %d, %q: %s%s{%s}", s.member+1, s.user, s.method, s.req.ProtoReflect().Descriptor().Name(), body)
}

// pair is both clusters.
type pair struct {
	ours, theirs *side
	rev          int64 // newest that etcd spoke of
	floor        int64 // what was compacted
	played       int
	outcomes     map[string]int
}

// quiet is a test whose members do not show their logs.
type quiet struct{ *testing.T }

func (quiet) Failed() bool { return false }

// setting is how the clusters of a test are started.
type setting struct {
	members int
	flags   []string
}

func startPair(t testing.TB, s setting) *pair {
	t.Helper()
	return &pair{
		ours:   startSide(t, "upkeep", proc.Build(t, "upkeep"), s.members, s.flags...),
		theirs: startSide(t, "etcd", proc.Peer(t, "etcd"), s.members, s.flags...),
		rev:    1, outcomes: map[string]int{},
	}
}

func (p *pair) stop() { p.ours.stop(); p.theirs.stop() }

// both runs f for both sides at once.
func (p *pair) both(f func(s *side)) {
	done := make(chan struct{})
	go func() { defer close(done); f(p.theirs) }()
	f(p.ours)
	<-done
}

// play does one step on both sides, and returns in what they differ.
func (p *pair) play(st step) error {
	p.played++
	if r, ok := st.req.(*pb.WatchRequest); ok {
		return p.watch(st, r)
	}
	if _, ok := st.req.(*pb.CompactionRequest); ok {
		if err := p.settle(); err != nil { // else it depends on the time whether a watcher still gets what is compacted
			return err
		}
	}
	if len(p.ours.members) > 1 {
		p.level(st.member)
	}
	answers, errs := map[*side][]proto.Message{}, map[*side]error{}
	lock := make(chan struct{}, 1)
	p.both(func(s *side) {
		got, err := s.do(st)
		lock <- struct{}{}
		answers[s], errs[s] = got, err
		<-lock
	})
	got, want := answers[p.ours], answers[p.theirs]
	gotErr, wantErr := errs[p.ours], errs[p.theirs]
	if !sameError(gotErr, wantErr) || !slices.EqualFunc(got, want, proto.Equal) {
		return fmt.Errorf("step %d: %v\nupkeep: %v, %v\netcd:   %v, %v", p.played, st, text(got), gotErr, text(want), wantErr)
	}
	if wantErr != nil {
		p.outcomes[wantErr.Error()]++
	} else if st.req != nil {
		if c, ok := st.req.(*pb.CompactionRequest); ok {
			p.floor = max(p.floor, c.Revision)
		}
		p.outcomes[string(st.req.ProtoReflect().Descriptor().Name())]++
	}
	for _, m := range want {
		if h := headerOf(m); h != nil {
			p.rev = max(p.rev, h.Revision)
		}
	}
	return nil
}

// level has a member apply what the others committed, for what it answers by itself.
func (p *pair) level(member int) {
	p.both(func(s *side) {
		_, _ = s.do(step{member: member, req: &pb.RangeRequest{Key: []byte("level"), CountOnly: true}})
	})
}

func (p *pair) watch(st step, r *pb.WatchRequest) error {
	if r.GetCancelRequest() != nil || r.RequestUnion == nil {
		if err := p.settle(); err != nil { // what comes with the end may be lost
			return err
		}
	}
	if len(p.ours.members) > 1 {
		p.level(st.member)
	}
	start := r.GetCreateRequest().GetStartRevision()
	if r.RequestUnion != nil {
		if err := p.renew(st.stream); err != nil {
			return err
		}
	}
	errs := make(chan error, 2)
	p.both(func(s *side) {
		w, err := s.watch(st)
		if err == nil && r.RequestUnion == nil {
			w.close()
			delete(s.streams, st.stream)
		} else if err == nil {
			w.ahead(start > p.rev)
			err = w.request(r)
			if start > 0 && start < p.floor {
				w.until(patience, func() bool { return w.canceled > 0 && len(w.live) == 0 || w.mute })
			}
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", s.name, err)
		}
		errs <- err
	})
	for range 2 {
		if err := <-errs; err != nil {
			return fmt.Errorf("step %d: %v: %w", p.played, st, err)
		}
	}
	p.outcomes["WatchRequest"]++
	return p.compareWatches(false)
}

// renew closes a stream that does not say any more how far it is, so that the next request opens another.
func (p *pair) renew(n int) error {
	ours, theirs := p.ours.streams[n], p.theirs.streams[n]
	if ours == nil || !ours.isMute() && !theirs.isMute() {
		return nil
	}
	if err := p.settle(); err != nil {
		return err
	}
	for _, s := range []*side{p.ours, p.theirs} {
		s.streams[n].close()
		delete(s.streams, n)
	}
	return nil
}

// settle waits until all watchers heard all, and compares what they heard.
func (p *pair) settle() error {
	for n := range p.ours.streams {
		errs := make(chan error, 2)
		p.both(func(s *side) {
			err := s.streams[n].settle(p.rev)
			if err != nil {
				err = fmt.Errorf("step %d: %s: %w", p.played, s.name, err)
			}
			errs <- err
		})
		for range 2 {
			if err := <-errs; err != nil {
				return err
			}
		}
	}
	// Where a server does not say how far it is, equal must do.
	err := p.compareWatches(true)
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); err = p.compareWatches(true) {
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// compareWatches compares what the watchers heard so far. Before they have settled, one side may be ahead.
func (p *pair) compareWatches(settled bool) error {
	for n, w := range p.ours.streams {
		got, gotEnd := w.account()
		want, wantEnd := p.theirs.streams[n].account()
		if !settled {
			cut(got, want)
		} else if !sameError(gotEnd, wantEnd) {
			return fmt.Errorf("step %d: watch stream %d ended\nupkeep: %v\netcd:   %v", p.played, n, gotEnd, wantEnd)
		}
		if !reflect.DeepEqual(got, want) {
			for id := range want { // show only what differs
				if reflect.DeepEqual(got[id], want[id]) {
					delete(got, id)
					delete(want, id)
				}
			}
			return fmt.Errorf("step %d: watch stream %d\nupkeep: %s\netcd:   %s", p.played, n, lines(got), lines(want))
		}
	}
	return nil
}

// cut makes both as long as the shorter one.
func cut(a, b map[int64][]string) {
	for id := range a {
		n := min(len(a[id]), len(b[id]))
		a[id], b[id] = a[id][:n], b[id][:n]
	}
	for _, m := range []map[int64][]string{a, b} {
		for id := range m {
			if len(m[id]) == 0 {
				delete(m, id)
			}
		}
	}
}

func lines(heard map[int64][]string) string {
	var out strings.Builder
	for id, said := range heard {
		fmt.Fprintf(&out, "\n  watcher %d: %d lines, the last", id, len(said))
		for _, line := range said[max(0, len(said)-8):] {
			fmt.Fprintf(&out, "\n    %s", line)
		}
	}
	return out.String()
}

// finish compares what only the whole shows: what the watchers heard, and HashKV at every revision.
func (p *pair) finish(user string) error {
	if err := p.settle(); err != nil {
		return err
	}
	for _, alarm := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
		off := &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 1, Alarm: alarm}
		if err := p.play(step{user: user, req: off}); err != nil {
			return err
		}
	}
	for member := range p.ours.members {
		p.level(member)
		for rev := int64(1); rev <= p.rev; rev++ {
			if err := p.play(step{user: user, member: member, req: &pb.HashKVRequest{Revision: rev}}); err != nil {
				return err
			}
		}
	}
	return nil
}

func sameError(a, b error) bool {
	return status.Code(a) == status.Code(b) && status.Convert(a).Message() == status.Convert(b).Message()
}

func text(answers []proto.Message) string {
	if len(answers) == 0 {
		return "no answer"
	}
	var out []string
	for _, m := range answers {
		out = append(out, prototext.Format(m))
	}
	return strings.Join(out, "; ")
}
