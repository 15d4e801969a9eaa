package watch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/zap/zaptest"
)

// script runs the commands of testdata scripts against one hub:
//
//	hub [queue=N] [feed=N] [progress=duration] [catchup=N]   a new store and hub
//	write            one revision per line: put k v; delete k; several separated by ";" are one revision
//	compact rev=N
//	stream s=name
//	create s=name key=k [end=e] [start=N] [id=N] [prev] [noput] [nodelete] [notify]
//	cancel s=name id=N
//	progress s=name
//	sleep d=duration
//	next s=name [n=N]  all (or N) responses that are there
//	stats
//	reset
type script struct {
	store   *fakeStore
	hub     *Hub
	streams map[string]*Stream
}

func TestScripts(t *testing.T) {
	for _, file := range []string{"lifecycle", "catchup", "progress", "filters"} {
		t.Run(file, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sc := &script{}
				defer func() { sc.hub.Close() }()
				datadriven.RunTest(t, "testdata/"+file, sc.run)
			})
		})
	}
}

func (sc *script) run(t *testing.T, d *datadriven.TestData) string {
	out := sc.command(t, d)
	synctest.Wait()
	if err := sc.hub.valid(); err != nil {
		d.Fatalf(t, "%v", err)
	}
	return out
}

func (sc *script) command(t *testing.T, d *datadriven.TestData) string {
	var name string
	var n int64
	optional(t, d, "s", &name)
	s := sc.streams[name]
	switch d.Cmd {
	case "hub":
		sc.open(t, d)
	case "write":
		return sc.write(t, d)
	case "compact":
		d.ScanArgs(t, "rev", &n)
		sc.store.Compact(n)
	case "stream":
		sc.streams[name] = sc.hub.NewStream()
	case "create":
		return create(t, d, s)
	case "cancel":
		d.ScanArgs(t, "id", &n)
		return fmt.Sprintf("%v\n", s.Cancel(n))
	case "progress":
		s.RequestProgress()
	case "close":
		s.Close()
	case "reset":
		sc.hub.Reset()
	case "sleep":
		var text string
		d.ScanArgs(t, "d", &text)
		wait, err := time.ParseDuration(text)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		time.Sleep(wait)
	case "next":
		n = 1 << 20
		optional(t, d, "n", &n)
		return next(t, s, n)
	case "stats":
		return fmt.Sprintf("%+v\n", sc.hub.Stats())
	default:
		d.Fatalf(t, "unknown command")
	}
	return ""
}

func (sc *script) open(t *testing.T, d *datadriven.TestData) {
	if sc.hub != nil {
		sc.hub.Close()
	}
	cfg := Config{Logger: zaptest.NewLogger(t)}
	optional(t, d, "queue", &cfg.QueueEntries)
	optional(t, d, "feed", &cfg.FeedCommits)
	optional(t, d, "catchup", &cfg.CatchUpRevisions)
	var progress string
	if optional(t, d, "progress", &progress); progress != "" {
		cfg.ProgressInterval, _ = time.ParseDuration(progress)
	}
	sc.store = newFakeStore()
	sc.hub = NewHub(sc.store, cfg)
	sc.streams = map[string]*Stream{}
}

func (sc *script) write(t *testing.T, d *datadriven.TestData) string {
	var rev int64
	for line := range strings.Lines(d.Input) {
		var ops []op
		for part := range strings.SplitSeq(line, ";") {
			f := strings.Fields(part)
			switch {
			case f[0] == "put" && len(f) == 3:
				ops = append(ops, op{key: f[1], value: f[2]})
			case f[0] == "delete" && len(f) == 2:
				ops = append(ops, op{key: f[1], del: true})
			default:
				d.Fatalf(t, "bad write %q", line)
			}
		}
		rev = sc.store.write(sc.hub, ops...)
	}
	return fmt.Sprintf("revision %d\n", rev)
}

func create(t *testing.T, d *datadriven.TestData, s *Stream) string {
	var key, end string
	opt := CreateOptions{
		PrevKV: d.HasArg("prev"), NoPut: d.HasArg("noput"), NoDelete: d.HasArg("nodelete"), ProgressNotify: d.HasArg("notify"),
	}
	optional(t, d, "key", &key)
	optional(t, d, "end", &end)
	optional(t, d, "start", &opt.StartRev)
	optional(t, d, "id", &opt.ID)
	if end == "∞" {
		end = "\x00"
	}
	opt.Key, opt.End = []byte(key), []byte(end)
	id, rev, err := s.Create(opt)
	if err != nil {
		return err.Error() + "\n"
	}
	return fmt.Sprintf("id %d at revision %d\n", id, rev)
}

// next reads up to n answers. Watchers that a compaction ends at the same time are told in no particular order; here it is
// that of their ids.
func next(t *testing.T, s *Stream, n int64) string {
	var lines []string
	for ; n > 0; n-- {
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
		r, err := s.Next(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			lines = append(lines, err.Error()+"\n")
			break
		}
		lines = append(lines, responseString(&r))
	}
	slices.SortStableFunc(lines, func(a, b string) int {
		if strings.Contains(a, "canceled, compacted") && strings.Contains(b, "canceled, compacted") {
			return strings.Compare(a, b)
		}
		return 0
	})
	return strings.Join(lines, "")
}

func responseString(r *Response) string {
	var b strings.Builder
	fmt.Fprintf(&b, "watcher %d rev %d:", r.WatchID, r.Rev)
	switch {
	case r.Created:
		b.WriteString(" created")
	case r.Canceled && r.CompactRev != 0:
		fmt.Fprintf(&b, " canceled, compacted %d", r.CompactRev)
	case r.Canceled:
		b.WriteString(" canceled")
	case r.Progress():
		b.WriteString(" progress")
	}
	for i, ev := range r.Events {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString(" " + eventString(ev))
	}
	return b.String() + "\n"
}

// optional scans an argument that need not be there.
func optional(t *testing.T, d *datadriven.TestData, key string, dest any) {
	if d.HasArg(key) {
		d.ScanArgs(t, key, dest)
	}
}
