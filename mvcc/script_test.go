package mvcc

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// TestScripts runs the scripts of testdata; -rewrite writes the answers anew.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		f := newFixture(t, Config{CompactionBatchLimit: 2, CompactionSleep: time.Microsecond})
		reads := map[string]*ReadTxn{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			f.t = t
			if err := f.run(d, reads, &out); err != nil {
				fmt.Fprintf(&out, "error: %v\n", err)
			}
			return out.String()
		})
	})
}

// run obeys one command:
//
//	txn          lines: put KEY VALUE [LEASE] | delete KEY [END] | get KEY [END]
//	get key= [end=] [rev=] [limit=] [count] [keys]
//	pin name=    read name= key= [end=] [rev=]    close name=
//	compact rev= [nowait]     stored     hashkv rev=     events from= [max=]
//	reopen       status
//
// END may be \0 for everything from KEY on.
func (f *fixture) run(d *datadriven.TestData, reads map[string]*ReadTxn, out *strings.Builder) error {
	switch d.Cmd {
	case "txn":
		return f.runTxn(d.Input, out)
	case "get":
		key, end, opt := f.rangeArgs(d)
		res, err := f.Range(context.Background(), key, end, opt)
		return report(out, res, err)
	case "pin":
		r, err := f.Read(0)
		if err == nil {
			reads[text(f.t, d, "name")] = r
			fmt.Fprintln(out, "pinned", r.Rev())
		}
		return err
	case "read":
		key, end, opt := f.rangeArgs(d)
		res, err := reads[text(f.t, d, "name")].Range(context.Background(), key, end, opt)
		return report(out, res, err)
	case "close":
		reads[text(f.t, d, "name")].Close()
	case "compact":
		if d.HasArg("nowait") {
			_, err := f.startCompaction(number(f.t, d, "rev", 0))
			return err
		}
		return f.compact(number(f.t, d, "rev", 0))
	case "stored":
		fmt.Fprintln(out, strings.Join(f.stored(), "\n"))
	case "hashkv":
		h, err := f.HashKV(context.Background(), number(f.t, d, "rev", 0))
		if err == nil {
			fmt.Fprintf(out, "%d at %d, compacted %d, current %d\n", h.Hash, h.HashRevision, h.CompactRevision, h.CurrentRevision)
		}
		return err
	case "events":
		next, err := f.Events(number(f.t, d, "from", 0), int(number(f.t, d, "max", 1000)), func(rev int64, events []*mvccpb.Event) error {
			fmt.Fprintf(out, "%d:\n", rev)
			for _, e := range events {
				fmt.Fprintf(out, "  %s %s\n", e.Type, describe(e.Kv))
			}
			return nil
		})
		fmt.Fprintln(out, "next", next)
		return err
	case "reopen":
		f.reopen()
		<-f.compactor.idle()
	case "status":
		scheduled, finished := f.marks()
		fmt.Fprintf(out, "revision %d, compact revision %d, scheduled %d, finished %d, keys %d\n",
			f.Revision(), f.CompactRevision(), scheduled, finished, f.Stats().Keys)
	default:
		d.Fatalf(f.t, "unknown command")
	}
	return nil
}

func (f *fixture) runTxn(lines string, out *strings.Builder) (err error) {
	f.apply(func(b *backend.Batch) {
		w := f.Begin(b)
		for line := range strings.Lines(lines) {
			words := append(strings.Fields(line), "", "", "")
			key, end := []byte(words[1]), []byte(strings.ReplaceAll(words[2], `\0`, "\x00"))
			switch words[0] {
			case "put":
				var lease int64
				fmt.Sscan(words[3], &lease)
				prev, rev := w.Put(key, []byte(words[2]), lease)
				fmt.Fprintf(out, "put at %d, lease before %d\n", rev, prev)
			case "delete":
				deleted, rev := w.DeleteRange(key, end)
				fmt.Fprintf(out, "deleted %d, revision %d\n", deleted, rev)
			case "get":
				var res *RangeResult
				res, err = w.Range(key, end, RangeOptions{})
				err = report(out, res, err)
			}
		}
		for _, c := range w.Changes() {
			fmt.Fprintf(out, "change: %s %s (lease before %d)\n", c.Type, describe(c.KV), c.PrevLease)
		}
		fmt.Fprintln(out, "ended at", w.End())
	})
	return err
}

func (f *fixture) rangeArgs(d *datadriven.TestData) (key, end []byte, opt RangeOptions) {
	key = []byte(text(f.t, d, "key"))
	if d.HasArg("end") {
		end = []byte(strings.ReplaceAll(text(f.t, d, "end"), `\0`, "\x00"))
	}
	opt = RangeOptions{
		Rev: number(f.t, d, "rev", 0), Limit: number(f.t, d, "limit", 0),
		CountOnly: d.HasArg("count"), KeysOnly: d.HasArg("keys"),
	}
	return key, end, opt
}

func report(out *strings.Builder, res *RangeResult, err error) error {
	if err != nil {
		return err
	}
	for _, kv := range res.KVs {
		fmt.Fprintln(out, describe(kv))
	}
	fmt.Fprintf(out, "count %d, revision %d\n", res.Count, res.Rev)
	return nil
}

func text(t testing.TB, d *datadriven.TestData, name string) (s string) {
	d.ScanArgs(t.(*testing.T), name, &s)
	return s
}

func number(t testing.TB, d *datadriven.TestData, name string, otherwise int64) int64 {
	if d.HasArg(name) {
		d.ScanArgs(t.(*testing.T), name, &otherwise)
	}
	return otherwise
}
