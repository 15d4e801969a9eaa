package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
)

// fakeDisk is the environment of a pipeline without bbolt: every transaction is
// a line, and the test decides when and how it ends.
type fakeDisk struct {
	p     *pipeline
	mu    sync.Mutex
	log   []string
	hold  chan error // if set, write waits for its result here
	fails error
	retry []time.Duration
}

func (f *fakeDisk) write(j *job) error {
	f.mu.Lock()
	hold := f.hold
	f.mu.Unlock()
	if hold != nil {
		if err := <-hold; err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fails != nil {
		return f.fails
	}
	var parts []string
	if j.batch != nil {
		run := j.batch.run.rows()
		for i := range j.batch.sealedRows {
			parts = append(parts, fmt.Sprint(run.at(i).main))
		}
		for _, o := range j.batch.ops[:j.batch.sealedOps] {
			parts = append(parts, string(o.Key))
		}
		parts = append(parts, fmt.Sprintf("applied=%d", j.batch.index))
	}
	for _, w := range j.background {
		for _, o := range w.ops {
			parts = append(parts, "background:"+string(o.Key))
		}
	}
	f.log = append(f.log, strings.Join(parts, " "))
	return nil
}

func newFake(interval time.Duration, maxOps int) *fakeDisk {
	f := &fakeDisk{}
	f.p = newPipeline(environment{
		write: f.write, frozen: func(_, _ *run) {}, committed: func() {}, finished: func(*job) {},
		failed: func(_ error, in time.Duration) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.retry = append(f.retry, in)
		},
	}, interval, maxOps, 1<<30)
	go f.p.run()
	return f
}

func (f *fakeDisk) set(hold chan error, fails error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hold, f.fails = hold, fails
}

// since returns what was committed after the first n transactions.
func (f *fakeDisk) since(n int) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log[n:])
}

func (f *fakeDisk) entry(index int, mains ...int) {
	t := f.p.begin()
	for _, m := range mains {
		t.Append(revKey(m), nil)
	}
	t.Commit(uint64(index), 1)
}

// TestPipeline runs the scripts in testdata/pipeline. Commands:
//
//	entry index=N revs=(a,b)   one whole entry
//	begin revs=(a,b)           an entry that is not sealed yet
//	seal index=N
//	background key=K           a background write; waits
//	sleep d=100ms              virtual time passes
//	flush                      waits until all sealed is durable
//	hold / release [error=..]  transactions wait / one goes on
//	close
//
// Each prints the transactions that were committed since the last command.
func TestPipeline(t *testing.T) {
	datadriven.Walk(t, "testdata/pipeline", func(t *testing.T, path string) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(100*time.Millisecond, 4)
			var entry *Batch
			seen, closed := 0, false
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				extra := f.command(t, d, &entry)
				closed = closed || d.Cmd == "close"
				synctest.Wait()
				lines := f.since(seen)
				seen += len(lines)
				out := extra + strings.Join(append(lines, ""), "\n")
				if out == "" {
					return "-\n"
				}
				return out
			})
			if !closed {
				must(t, f.p.close())
			}
		})
	})
}

func (f *fakeDisk) command(t *testing.T, d *datadriven.TestData, entry **Batch) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var index int
	var revs []int
	if d.HasArg("index") {
		d.ScanArgs(t, "index", &index)
	}
	for _, arg := range d.CmdArgs {
		if arg.Key != "revs" {
			continue
		}
		for i := range arg.Vals {
			revs = append(revs, 0)
			arg.Scan(t, i, &revs[i])
		}
	}
	var err error
	switch d.Cmd {
	case "entry":
		f.entry(index, revs...)
	case "begin":
		*entry = f.p.begin()
		for _, r := range revs {
			(*entry).Append(revKey(r), nil)
		}
	case "seal":
		(*entry).Commit(uint64(index), 1)
	case "background":
		var key string
		d.ScanArgs(t, "key", &key)
		err = f.p.writeBackground(ctx, []Op{{Bucket: Meta, Key: []byte(key)}})
	case "sleep":
		var length string
		d.ScanArgs(t, "d", &length)
		wait, perr := time.ParseDuration(length)
		must(t, perr)
		time.Sleep(wait) // virtual
	case "flush":
		err = f.p.flush(ctx)
	case "hold":
		f.set(make(chan error), nil)
	case "release":
		hold := f.hold
		if d.HasArg("error") {
			hold <- syscall.ENOSPC
		} else {
			hold <- nil
		}
	case "close":
		err = f.p.close()
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	if err != nil {
		return err.Error() + "\n"
	}
	return ""
}

// TestBeginWaitsOnlyWhenBothAreFull is the promise that apply does not wait for
// commits, and its bound.
func TestBeginWaitsOnlyWhenBothAreFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(time.Hour, 4)
		f.set(make(chan error), nil)
		applied := 0
		go func() {
			for i := 1; i <= 9; i++ {
				f.entry(i, i)
				applied = i
			}
		}()
		synctest.Wait()
		if applied != 8 {
			t.Fatalf("applied %d entries while a commit hangs, want two batches of 4", applied)
		}
		f.hold <- nil
		synctest.Wait()
		if applied != 9 {
			t.Fatalf("applied %d after a batch became durable", applied)
		}
		close(f.hold)
		must(t, f.p.close())
		if got := strings.Join(f.log, "|"); got != "1 2 3 4 applied=4|5 6 7 8 applied=8|9 applied=9" {
			t.Error(got)
		}
	})
}

// TestUnbind: an apply goroutine that waits for a full disk can be joined, and what it applied meanwhile is neither lost
// nor torn apart if the disk has room again before the end.
func TestUnbind(t *testing.T) {
	for _, room := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(time.Second, 4)
			f.set(nil, syscall.ENOSPC)
			applied := 0
			go func() {
				for i := 1; i <= 12; i++ {
					f.entry(i, i)
					applied = i
				}
			}()
			synctest.Wait()
			if applied != 8 {
				t.Fatalf("applied %d entries while commits fail", applied)
			}
			f.p.unbind()
			synctest.Wait()
			if applied != 12 {
				t.Fatalf("applied %d entries after unbind", applied)
			}
			if !room {
				if err := f.p.close(); !errors.Is(err, syscall.ENOSPC) || len(f.log) != 0 {
					t.Fatalf("close: %v, %q", err, f.log)
				}
				return
			}
			f.set(nil, nil)
			must(t, f.p.close())
			if got := strings.Join(f.log, "|"); got != "1 2 3 4 applied=4|5 6 7 8 9 10 11 12 applied=12" {
				t.Error(got)
			}
		})
	}
}

// TestRetries: a full disk is waited out with growing pauses, waiters stay, and
// nothing is lost or written twice.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(100*time.Millisecond, 4)
		f.set(nil, syscall.ENOSPC)
		f.entry(1, 1, 2)
		time.Sleep(10 * time.Second)
		f.mu.Lock()
		if len(f.log) != 0 || len(f.retry) < 5 || f.retry[0] != minBackoff || f.retry[len(f.retry)-1] > maxBackoff {
			t.Errorf("log %q, pauses %v", f.log, f.retry)
		}
		f.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := f.p.flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("flush on a full disk: %v", err)
		}
		f.set(nil, nil)
		must(t, f.p.flush(context.Background()))
		must(t, f.p.close())
		if got := strings.Join(f.log, "|"); got != "1 2 applied=1" {
			t.Error(got)
		}
	})
}

func TestPermanentFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(100*time.Millisecond, 4)
		f.set(nil, corruptf("broken"))
		f.entry(1, 1)
		if err := f.p.flush(context.Background()); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("flush: %v", err)
		}
		<-f.p.failed
		if err := f.p.writeBackground(context.Background(), nil); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("background: %v", err)
		}
		done := make(chan struct{})
		go func() { // fills both, then must be let go by close
			defer close(done)
			for i := 2; i < 20; i++ {
				f.entry(i, i)
			}
		}()
		synctest.Wait()
		if err := f.p.close(); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("close: %v", err)
		}
		<-done
	})
}

// TestCloseOnFullDisk must end, with the error.
func TestCloseOnFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(100*time.Millisecond, 4)
		f.set(nil, syscall.ENOSPC)
		f.entry(1, 1)
		time.Sleep(time.Second)
		if err := f.p.close(); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("close: %v", err)
		}
	})
}

// TestExclusive: calls run between transactions, also while one keeps failing,
// and a call not yet begun can be given up.
func TestExclusive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(100*time.Millisecond, 4)
		f.set(nil, syscall.ENOSPC)
		f.entry(1, 1)
		time.Sleep(time.Second)
		must(t, f.p.exclusively(context.Background(), func() error { f.set(nil, nil); return nil }))
		must(t, f.p.flush(context.Background()))

		f.set(make(chan error), nil)
		f.entry(2, 2)
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := f.p.exclusively(ctx, func() error { t.Error("ran during a transaction"); return nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("exclusively: %v", err)
		}
		close(f.hold)
		must(t, f.p.close())
	})
}
