package linearizability_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	lin "github.com/upkeep-kv/upkeep/tests/linearizability"
)

// good is a small history of two clients and two watchers that a correct store could have given. Each call makes a new
// one. Its revisions:
//
//	2 a=1   3 b=2 c=3 (one transaction)   4 delete a   5 a=4 (no answer)   6 c=5 with lease 7   7 c ends with its lease   8 b=6
func good() *lin.History {
	a1 := lin.KV{Key: "a", Value: "1", Create: 2, Mod: 2, Version: 1}
	b2 := lin.KV{Key: "b", Value: "2", Create: 3, Mod: 3, Version: 1}
	c3 := lin.KV{Key: "c", Value: "3", Create: 3, Mod: 3, Version: 1}
	a4 := lin.KV{Key: "a", Value: "4", Create: 5, Mod: 5, Version: 1}
	c5 := lin.KV{Key: "c", Value: "5", Create: 3, Mod: 6, Version: 2, Lease: 7}
	b6 := lin.KV{Key: "b", Value: "6", Create: 3, Mod: 8, Version: 2}
	put := func(kv lin.KV, prev *lin.KV) lin.Event { return lin.Event{KV: kv, Prev: prev} }
	gone := func(key string, rev int64, prev *lin.KV) lin.Event {
		return lin.Event{Delete: true, KV: lin.KV{Key: key, Mod: rev}, Prev: prev}
	}
	ops := []*lin.Op{
		{Client: 0, Kind: lin.Put, Writes: []lin.Write{{Key: "a", Value: "1"}}, Rev: 2, Call: 1, Return: 3},
		{Client: 1, Kind: lin.Get, Key: "a", Rev: 2, KVs: []lin.KV{a1}, Call: 4, Return: 5},
		{Client: 1, Kind: lin.Swap, Key: "b", Rev: 3, Succeeded: true, Call: 6, Return: 9,
			Writes: []lin.Write{{Key: "b", Value: "2"}, {Key: "c", Value: "3"}}},
		{Client: 0, Kind: lin.Swap, Key: "b", Expect: 2, Rev: 3, KVs: []lin.KV{b2}, Call: 10, Return: 11,
			Writes: []lin.Write{{Key: "b", Value: "never"}}},
		{Client: 0, Kind: lin.Delete, Key: "a", Deleted: 1, Rev: 4, Call: 12, Return: 14},
		{Client: 1, Kind: lin.Get, Rev: 4, KVs: []lin.KV{b2, c3}, Call: 15, Return: 16},
		{Client: 0, Kind: lin.Put, Writes: []lin.Write{{Key: "a", Value: "4"}}, Outcome: lin.Unknown, Call: 17, Return: 20},
		{Client: 1, Kind: lin.Past, Key: "a", AtRev: 3, Rev: 5, KVs: []lin.KV{a1}, Call: 21, Return: 22},
		{Client: 1, Kind: lin.Grant, Lease: 7, TTL: 2, Call: 23, Return: 24, CallTime: time.Second},
		{Client: 1, Kind: lin.Put, Writes: []lin.Write{{Key: "c", Value: "5", Lease: 7}}, Rev: 6, Call: 25, Return: 27},
		{Client: 0, Kind: lin.Delete, Key: "c", Rev: 7, Call: 29, Return: 30},
		{Client: 0, Kind: lin.Put, Writes: []lin.Write{{Key: "b", Value: "6"}}, Rev: 8, Call: 31, Return: 33},
		{Client: 1, Kind: lin.Serial, Key: "b", Rev: 7, KVs: []lin.KV{b2}, Call: 34, Return: 35},
		{Client: 1, Kind: lin.Put, Writes: []lin.Write{{Key: "b", Value: "7"}}, Outcome: lin.Refused, Call: 36, Return: 37},
	}
	for _, op := range ops {
		if op.Outcome == "" {
			op.Outcome = lin.Done
		}
	}
	return &lin.History{Final: 8, Ops: ops, Watches: []*lin.Watch{
		{Watcher: "all", Start: 2, Created: 1, PrevKV: true, Batches: []lin.Batch{
			{Seq: 2, Rev: 2, Events: []lin.Event{put(a1, nil)}},
			{Seq: 8, Rev: 3, Events: []lin.Event{put(b2, nil), put(c3, nil)}},
			{Seq: 13, Rev: 4, Events: []lin.Event{gone("a", 4, &a1)}},
		}},
		{ID: 1, Watcher: "all, resumed", Start: 5, Created: 5, PrevKV: true, Batches: []lin.Batch{
			{Seq: 19, Rev: 5, Events: []lin.Event{put(a4, nil)}},
			{Seq: 26, Rev: 6, Events: []lin.Event{put(c5, &c3)}},
			{Seq: 28, At: 3 * time.Second, Rev: 7, Events: []lin.Event{gone("c", 7, &c5)}},
			{Seq: 32, Rev: 8, Events: []lin.Event{put(b6, &b2)}},
		}},
		{ID: 2, Watcher: "b", Key: "b", Start: 0, Created: 2, Batches: []lin.Batch{
			{Seq: 38, Rev: 3, Events: []lin.Event{put(b2, nil)}},
			{Seq: 39, Rev: 7, Progress: true},
			{Seq: 40, Rev: 8, Events: []lin.Event{put(b6, nil)}},
			{Seq: 41, Rev: 8, Progress: true},
		}},
	}}
}

func TestGoodHistory(t *testing.T) {
	report := lin.Check(good())
	for _, v := range report.Violations {
		t.Error(v)
	}
	if report.Ops != 12 || report.Unknown != 1 || report.Happened != 1 || report.Expired != 1 || report.Events != 10 {
		t.Errorf("counted %v", report)
	}
}

// Each line spoils the good history in one way, and names the rule that must notice.
func TestBadHistories(t *testing.T) {
	tests := []struct {
		name, rule string
		spoil      func(*lin.History)
	}{
		{"a read returns the value before an acknowledged write", "wrong read", func(h *lin.History) { h.Ops[1].KVs = nil }},
		{"a read is of an older revision than an answer before it", "stale", func(h *lin.History) {
			h.Ops[5].Rev, h.Ops[5].KVs = 3, []lin.KV{h.Ops[1].KVs[0], h.Ops[5].KVs[0], h.Ops[5].KVs[1]}
		}},
		{"a read is older than what a watcher had seen", "stale", func(h *lin.History) {
			h.Ops[1].Call, h.Ops[1].Return = 42, 43
		}},
		{"porcupine alone finds a stale read", "not linearizable", func(h *lin.History) {
			h.Ops[1].Call, h.Ops[1].Return = 42, 43
		}},
		{"a read sees half of a transaction", "wrong read", func(h *lin.History) { h.Ops[5].KVs = h.Ops[5].KVs[:1] }},
		{"an acknowledged write is not there", "lost write", func(h *lin.History) {
			h.Watches[0].Batches[0].Events[0].KV.Value = "other"
		}},
		{"two writes were given one revision", "revision given twice", func(h *lin.History) { h.Ops[11].Rev = 6 }},
		{"a write was made by nobody", "write out of nowhere", func(h *lin.History) { h.Ops = slices.Delete(h.Ops, 6, 7) }},
		{"a write without an answer happened twice", "write happened twice", func(h *lin.History) {
			h.Ops[11].Outcome, h.Ops[11].Writes[0] = lin.Unknown, lin.Write{Key: "b", Value: "x"}
			h.Watches[1].Batches[3].Events[0].KV = lin.KV{Key: "a", Value: "4", Create: 5, Mod: 8, Version: 2}
		}},
		{"a refused write happened", "refused write happened", func(h *lin.History) { h.Ops[6].Outcome = lin.Refused }},
		{"a write was seen before it was asked for", "seen before it was asked for", func(h *lin.History) {
			h.Watches[1].Batches[0].Seq = 17
			h.Ops[6].Call = 18
		}},
		{"a later write has a smaller revision", "stale", func(h *lin.History) { h.Ops[4].Call, h.Ops[4].Return = 50, 51 }},
		{"a swap went through against its condition", "wrong comparison", func(h *lin.History) { h.Ops[2].Expect = 9 }},
		{"a swap was refused against its condition", "wrong comparison", func(h *lin.History) { h.Ops[3].Expect = 3 }},
		{"a delete missed a key", "stale read", func(h *lin.History) { h.Ops[4].Deleted, h.Ops[4].Rev = 0, 3 }},
		{"a read of the past changed", "wrong read", func(h *lin.History) { h.Ops[7].KVs = nil }},
		{"history is gone that nobody compacted", "history lost", func(h *lin.History) {
			h.Ops[7].Outcome, h.Ops[7].Compacted = lin.Refused, true
		}},
		{"a read fails for no good reason", "unexpected error", func(h *lin.History) {
			h.Ops[1].Outcome, h.Ops[1].Code = lin.Refused, "DataLoss"
		}},
		{"a member shows what it cannot have", "wrong read", func(h *lin.History) { h.Ops[12].Rev = 8 }},
		{"a key lost a version", "wrong pair", func(h *lin.History) { h.Watches[1].Batches[3].Events[0].KV.Version = 3 }},
		{"a lease ended early", "lease ended early", func(h *lin.History) {
			h.Watches[1].Batches[2].At = 2900 * time.Millisecond
		}},
		{"a key went without a lease", "delete out of nowhere", func(h *lin.History) {
			h.Ops[9].Writes[0].Lease = 0
			h.Watches[1].Batches[1].Events[0].KV.Lease = 0
		}},

		{"no watcher saw a revision", "hole in the log", func(h *lin.History) {
			h.Watches[1].Batches = slices.Delete(h.Watches[1].Batches, 1, 2)
		}},
		{"one watcher missed an event", "lost event", func(h *lin.History) {
			h.Watches[2].Batches = slices.Delete(h.Watches[2].Batches, 0, 2)
		}},
		{"a bookmark passes over an event", "lost event", func(h *lin.History) {
			h.Watches[2].Batches = slices.Delete(h.Watches[2].Batches, 2, 3)
		}},
		{"a resumed watch missed an event", "lost event", func(h *lin.History) { h.Watches[1].Start = 4 }},
		{"events came in the wrong order", "lost event", func(h *lin.History) {
			b := h.Watches[2].Batches
			b[0].Events, b[2].Events = b[2].Events, b[0].Events
		}},
		{"an event came twice", "torn revision", func(h *lin.History) {
			b := h.Watches[2].Batches
			h.Watches[2].Batches = append(b, b[2])
		}},
		{"an older event came again", "repeated or reordered event", func(h *lin.History) {
			b := h.Watches[2].Batches
			h.Watches[2].Batches = append(b, b[0])
		}},
		{"an event came behind its bookmark", "lost event", func(h *lin.History) {
			b := h.Watches[2].Batches
			b[1].Rev = 8
		}},
		{"a revision came in two responses", "torn revision", func(h *lin.History) {
			b := h.Watches[0].Batches
			first, second := b[1], b[1]
			first.Events, second.Events = first.Events[:1], second.Events[1:]
			h.Watches[0].Batches = []lin.Batch{b[0], first, second, b[2]}
			h.Watches = append(h.Watches, &lin.Watch{ID: 3, Start: 3, Created: 3, Batches: b[1:2]}) // another one saw it whole
		}},
		{"a watcher saw half of a transaction", "lost event", func(h *lin.History) {
			whole := h.Watches[0].Batches[1]
			h.Watches = append(h.Watches, &lin.Watch{ID: 3, Start: 3, Created: 3, Batches: []lin.Batch{whole}})
			h.Watches[0].Batches[1].Events = slices.Clone(whole.Events[:1])
		}},
		{"two watchers saw different values", "watchers differ", func(h *lin.History) {
			h.Watches[2].Batches[0].Events[0].KV.Value = "other"
		}},
		{"the previous pair is another one", "wrong previous pair", func(h *lin.History) {
			h.Watches[1].Batches[3].Events[0].Prev = &lin.KV{Key: "b"}
		}},
		{"the previous pair is missing", "lost previous pair", func(h *lin.History) {
			h.Watches[1].Batches[3].Events[0].Prev = nil
		}},
		{"a watch was ended by a compaction that was not", "watch ended for no reason", func(h *lin.History) {
			h.Watches[2].Batches = append(h.Watches[2].Batches, lin.Batch{Seq: 42, Rev: 8, Compacted: 4})
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := good()
			test.spoil(h)
			report := lin.Check(h)
			if !slices.ContainsFunc(report.Violations, func(v lin.Violation) bool { return v.Rule == test.rule }) {
				t.Errorf("%q was not found, but %v", test.rule, report.Violations)
			}
		})
	}
}

// What a failure leaves can be read back, and shows the same.
func TestSavedHistory(t *testing.T) {
	h := good()
	h.Seed, h.Ops[1].KVs = 42, nil
	report := lin.Check(h)
	dir := filepath.Join(t.TempDir(), "failure")
	if err := report.SaveTo(dir, h); err != nil {
		t.Fatal(err)
	}
	again, err := lin.ReadHistory(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := lin.Check(again); !slices.Equal(got.Violations, report.Violations) || again.Seed != 42 {
		t.Errorf("seed %d: %v, was %v", again.Seed, got.Violations, report.Violations)
	}
	picture, err := os.ReadFile(filepath.Join(dir, "history.html"))
	if err != nil || !strings.Contains(string(picture), "swap b if mod is 2") {
		t.Errorf("no picture of the operations: %v", err)
	}
}
