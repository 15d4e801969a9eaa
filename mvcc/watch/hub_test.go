package watch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// drain returns all that is there, as strings.
func drain(t *testing.T, s *Stream) (all []Response) {
	t.Helper()
	for {
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
		r, err := s.Next(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
}

func mustCreate(t testing.TB, s *Stream, opt CreateOptions) int64 {
	t.Helper()
	id, _, err := s.Create(opt)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestNotifyWaitsForNobody: Notify returns whoever holds the hub and the streams.
func TestNotifyWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		hub := NewHub(store, Config{})
		defer hub.Close()
		s := hub.NewStream()
		mustCreate(t, s, CreateOptions{Key: []byte("a")})
		hub.mu.Lock()
		s.mu.Lock()
		for range 100_000 {
			rev, events := store.commit(op{key: "z"})
			if rev > 3 {
				break // the history of this store costs more than what is tested
			}
			hub.Notify(rev, events)
		}
		last, events := store.commit(op{key: "a"})
		for range 100_000 {
			hub.Notify(last, events) // far more than the feed takes
		}
		s.mu.Unlock()
		hub.mu.Unlock()
		got := drain(t, s)
		if n := len(got); n != 2 || len(got[1].Events) != 1 || got[1].Events[0].Kv.ModRevision != last {
			t.Errorf("got %d responses: %+v", n, got)
		}
	})
}

// TestSlowClients: of 2000 streams on one key, those that read are told of each revision at once, however many do not.
func TestSlowClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		hub := NewHub(store, Config{QueueEntries: 8})
		defer hub.Close()
		for range 1999 {
			mustCreate(t, hub.NewStream(), CreateOptions{Key: []byte("a")})
		}
		s := hub.NewStream()
		mustCreate(t, s, CreateOptions{Key: []byte("a")})
		drain(t, s)
		for i := range 50 {
			rev := store.write(hub, op{key: "a", value: fmt.Sprint(i)})
			got := drain(t, s)
			if len(got) != 1 || got[0].Rev != rev || len(got[0].Events) != 1 {
				t.Fatalf("revision %d: %+v", rev, got)
			}
		}
		if st := hub.Stats(); st.Slow != 1999 || st.Watchers != 2000 || st.Events != 50 {
			t.Errorf("%+v", st)
		}
		if err := hub.valid(); err != nil {
			t.Error(err)
		}
	})
}

// TestSharedEvents: watchers of the same keys share the same slice, live and from history, previous pairs included.
func TestSharedEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		hub := NewHub(store, Config{})
		defer hub.Close()
		write := func(v string) {
			store.write(hub, op{key: "a", value: v}, op{key: "x", value: v}, op{key: "c", value: v})
		}
		write("1")
		write("2")
		a, b := hub.NewStream(), hub.NewStream()
		for _, s := range []*Stream{a, b} {
			mustCreate(t, s, CreateOptions{Key: []byte("a"), End: []byte("d"), StartRev: 1, PrevKV: true})
		}
		synctest.Wait()
		write("3")
		fromA, fromB := drain(t, a), drain(t, b)
		if len(fromA) != 3 || len(fromB) != 3 || len(fromA[1].Events) != 4 || len(fromA[2].Events) != 2 {
			t.Fatalf("%+v\n%+v", fromA, fromB)
		}
		for i := 1; i < 3; i++ {
			if &fromA[i].Events[0] != &fromB[i].Events[0] {
				t.Errorf("response %d is not shared", i)
			}
			if ev := fromA[i].Events[len(fromA[i].Events)-1]; ev.PrevKv == nil {
				t.Errorf("%s has no previous pair", eventString(ev))
			}
		}
	})
}

// TestHistoryIsReadOnce: a thousand clients that come back at about the same place cost one pass over history.
func TestHistoryIsReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		hub := NewHub(store, Config{})
		defer hub.Close()
		const revs = 5000
		for i := range revs {
			store.commit(op{key: fmt.Sprint("k", i)}) // a new key each: cheap in this store
		}
		hub.mu.Lock() // all come at once
		streams := make([]*Stream, 1000)
		for i := range streams {
			s := &Stream{hub: hub, watchers: map[int64]*watcher{}, ready: make(chan struct{}, 1), tick: time.NewTimer(time.Hour)}
			hub.streams[s] = struct{}{}
			hub.seq++
			hub.admitLocked(&watcher{stream: s, seq: hub.seq, span: span{key: fmt.Sprint("k", i), end: "l", kind: keysTo}, startRev: int64(1 + i/2)})
			streams[i] = s
		}
		hub.mu.Unlock()
		synctest.Wait()
		if st := hub.Stats(); st.Slow != 0 || store.reads > 2*revs/hub.cfg.CatchUpRevisions {
			t.Errorf("%d reads of history, %+v", store.reads, st)
		}
		if err := hub.valid(); err != nil {
			t.Error(err)
		}
	})
}

// TestFarBehindHoldsNobodyUp: a watcher that is nearly there does not wait for one that starts at the beginning.
func TestFarBehindHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		hub := NewHub(store, Config{CatchUpRevisions: 10})
		defer hub.Close()
		for i := range 5000 {
			store.commit(op{key: fmt.Sprint("k", i)})
		}
		highestBefore, seen := int64(0), false
		store.onRead = func(rev int64) {
			seen = seen || rev >= 4900
			if !seen {
				highestBefore = rev
			}
		}
		s := hub.NewStream()
		hub.mu.Lock()
		for _, start := range []int64{1, 4900} {
			hub.seq++
			hub.admitLocked(&watcher{id: start, stream: s, seq: hub.seq, span: span{key: "k", end: "l", kind: keysTo}, startRev: start})
		}
		hub.mu.Unlock()
		synctest.Wait()
		if !seen || highestBefore > 20 {
			t.Errorf("history up to %d was read before the near watcher's turn (%v)", highestBefore, seen)
		}
		told := map[int64]int{}
		for _, r := range drain(t, s) {
			told[r.WatchID] += len(r.Events)
		}
		if told[1] != 5000 || told[4900] != 102 {
			t.Errorf("told %v", told)
		}
	})
}

// TestStoreFails: history that cannot be read now is read later.
func TestStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		hub := NewHub(store, Config{})
		defer hub.Close()
		store.write(hub, op{key: "a"})
		store.fail = errors.New("disk on fire")
		s := hub.NewStream()
		mustCreate(t, s, CreateOptions{Key: []byte("a"), StartRev: 1})
		time.Sleep(time.Second)
		synctest.Wait()
		if n := store.reads; n < 5 || n > 12 {
			t.Errorf("%d reads in a second", n)
		}
		store.mu.Lock()
		store.fail = nil
		store.mu.Unlock()
		time.Sleep(time.Second)
		if got := drain(t, s); len(got) != 2 || len(got[1].Events) != 1 {
			t.Errorf("%+v", got)
		}
	})
}

// TestAskingWithoutReading: a client that asks and asks and reads nothing is held back, until it reads or leaves.
func TestAskingWithoutReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		hub := NewHub(store, Config{})
		defer hub.Close()
		s := hub.NewStream()
		asked := 0
		done := make(chan error)
		go func() {
			for {
				if _, _, err := s.Create(CreateOptions{Key: []byte("a")}); err != nil {
					done <- err
					return
				}
				asked++
			}
		}()
		synctest.Wait()
		if asked != maxControls {
			t.Errorf("%d watchers created, want %d", asked, maxControls)
		}
		if _, err := s.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if asked != maxControls+1 {
			t.Errorf("%d watchers created after a response was read", asked)
		}
		// The rest of the hub is not held up.
		other := hub.NewStream()
		mustCreate(t, other, CreateOptions{Key: []byte("a")})
		store.write(hub, op{key: "a"})
		if got := drain(t, other); len(got) != 2 {
			t.Errorf("%+v", got)
		}
		s.Close()
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

// TestProgressOfOne: what a service's own ticker asks for.
func TestProgressOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		hub := NewHub(store, Config{})
		defer hub.Close()
		s := hub.NewStream()
		a := mustCreate(t, s, CreateOptions{Key: []byte("a")})
		mustCreate(t, s, CreateOptions{Key: []byte("z"), StartRev: 100})
		ask := func() string {
			s.RequestProgressOf(a)
			s.RequestProgressOf(1) // starts in the future
			s.RequestProgressOf(7) // unknown
			var b strings.Builder
			for _, r := range drain(t, s) {
				b.WriteString(responseString(&r))
			}
			return b.String()
		}
		drain(t, s)
		if got, want := ask(), "watcher 0 rev 1: progress\n"; got != want {
			t.Errorf("idle: %q", got)
		}
		store.write(hub, op{key: "a", value: "1"})
		synctest.Wait()
		if got, want := ask(), "watcher 0 rev 2: put a=1 @2\n"; got != want {
			t.Errorf("after an event: %q", got)
		}
		if got, want := ask(), "watcher 0 rev 2: progress\n"; got != want {
			t.Errorf("idle again: %q", got)
		}
	})
}

// TestCloseUnderLoad: Close joins everything while all is busy, and what comes later is harmless.
func TestCloseUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		hub := NewHub(store, Config{QueueEntries: 4, FeedCommits: 4})
		ended := make(chan error, 50)
		for range 50 {
			s := hub.NewStream()
			mustCreate(t, s, CreateOptions{Key: []byte("a"), StartRev: 1})
			go func() {
				for {
					if _, err := s.Next(context.Background()); err != nil {
						ended <- err
						return
					}
				}
			}()
		}
		for i := range 200 {
			store.write(hub, op{key: "a", value: fmt.Sprint(i)})
		}
		hub.Close()
		hub.Close()
		for range 50 {
			if err := <-ended; !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		}
		store.write(hub, op{key: "a"})
		hub.Reset()
		s := hub.NewStream()
		if _, _, err := s.Create(CreateOptions{Key: []byte("a")}); !errors.Is(err, ErrClosed) {
			t.Errorf("Create: %v", err)
		}
		if s.Cancel(0) {
			t.Error("cancelled something")
		}
		s.RequestProgress()
		if _, err := s.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Next: %v", err)
		}
	})
}
