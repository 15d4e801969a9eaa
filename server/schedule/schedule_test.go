package schedule

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
)

// store is a schedule and the database that it is kept in.
type store struct {
	*State
	t     *testing.T
	path  string
	db    *backend.Backend
	index uint64
}

func open(t *testing.T) *store {
	s := &store{t: t, path: filepath.Join(t.TempDir(), "db")}
	s.reopen()
	t.Cleanup(func() { s.db.Close() })
	return s
}

// reopen is a restart of the member.
func (s *store) reopen() {
	s.t.Helper()
	if s.db != nil {
		if err := s.db.Close(); err != nil {
			s.t.Fatal(err)
		}
	}
	var err error
	if s.db, err = backend.Open(backend.Config{Path: s.path, NoSync: true}); err != nil {
		s.t.Fatal(err)
	}
	s.State = New()
	view := s.db.View()
	defer view.Close()
	if err := s.Load(view); err != nil {
		s.t.Fatal(err)
	}
}

func (s *store) apply(c *schedulepb.Command) error {
	s.t.Helper()
	s.index++
	batch := s.db.Begin()
	_, err := s.Apply(batch, c)
	batch.Commit(s.index, 1)
	if problem := s.valid(); problem != "" {
		s.t.Fatalf("after %v: %s", c, problem)
	}
	return err
}

// valid names a broken invariant of the schedule.
func (s *State) valid() string {
	now, events := s.Now(), s.Events(0)
	if now.Open != nil && now.Open.Sequence != now.TaskSequence {
		return fmt.Sprintf("task %d is open, the newest is %d", now.Open.Sequence, now.TaskSequence)
	}
	if len(events) > maxEvents {
		return fmt.Sprintf("%d events are kept", len(events))
	}
	for i, e := range events {
		if want := now.EventSequence - uint64(len(events)-1-i); e.Sequence != want {
			return fmt.Sprintf("event %d stands where %d should", e.Sequence, want)
		}
	}
	running := uint64(0)
	for _, e := range events {
		switch e.Type {
		case schedulepb.Event_BEGUN:
			if running != 0 {
				return fmt.Sprintf("task %d began while %d was open", e.Task, running)
			}
			running = e.Task
		case schedulepb.Event_ENDED:
			running = 0
		}
	}
	if len(events) < maxEvents && running != now.Open.GetSequence() {
		return fmt.Sprintf("by the events task %d is open, by the schedule %d", running, now.Open.GetSequence())
	}
	openRuns, ended := 0, 0
	for _, r := range now.Runs {
		if r.State == schedulepb.Run_OPEN {
			openRuns++
			if now.Paused != nil {
				return fmt.Sprintf("run %d is open during a pause", r.Id)
			}
		} else {
			ended++
		}
	}
	if openRuns > maxOpenRuns || ended > maxEndedRuns || len(now.Outcomes) > maxOutcomes {
		return fmt.Sprintf("%d open and %d ended runs, %d outcomes", openRuns, ended, len(now.Outcomes))
	}
	for i, o := range now.Outcomes {
		if slices.ContainsFunc(now.Outcomes[:i], func(p *schedulepb.Outcome) bool { return p.Kind == o.Kind && p.Member == o.Member }) {
			return fmt.Sprintf("two outcomes of %v on %d", o.Kind, o.Member)
		}
	}
	return ""
}

// TestScripts: each line of `apply` is one command in text form, answered by its refusal or ok; `state` shows the schedule,
// `events` the events after a number, and `restart` opens the database again.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := open(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			var out strings.Builder
			switch d.Cmd {
			case "apply":
				for line := range strings.Lines(d.Input) {
					c := &schedulepb.Command{}
					if err := prototext.Unmarshal([]byte(line), c); err != nil {
						d.Fatalf(t, "%q: %v", line, err)
					}
					if err := s.apply(c); err != nil {
						fmt.Fprintln(&out, "refused:", err)
					} else {
						fmt.Fprintln(&out, "ok")
					}
				}
			case "restart":
				before := s.Now()
				s.reopen()
				if !proto.Equal(before, s.Now()) {
					d.Fatalf(t, "before the restart:\n%v\nafter it:\n%v", before, s.Now())
				}
			case "state":
				return text(s.Now())
			case "events":
				var after uint64
				if d.HasArg("after") {
					d.ScanArgs(t, "after", &after)
				}
				for _, e := range s.Events(after) {
					out.WriteString(text(e))
				}
			default:
				d.Fatalf(t, "unknown command %q, expected apply, restart, state or events", d.Cmd)
			}
			return out.String()
		})
	})
}

// text is a message in text form, a top-level field a line; the library varies its blanks from build to build.
func text(m proto.Message) string {
	var out strings.Builder
	depth := 0
	for line := range strings.Lines(prototext.MarshalOptions{Multiline: true, Indent: " "}.Format(m)) {
		line = strings.Join(strings.Fields(line), " ")
		if strings.HasSuffix(line, "}") {
			depth--
		}
		out.WriteString(line)
		if strings.HasSuffix(line, "{") {
			depth++
		}
		if depth == 0 {
			out.WriteByte('\n')
		} else {
			out.WriteByte(' ')
		}
	}
	return out.String()
}

// TestRandomCommands: whatever is proposed, in whatever order, the invariants hold, and a second member that applies the same
// and a restarted one end with the same schedule.
func TestRandomCommands(t *testing.T) {
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, 0))
		s := open(t)
		for i := range 4000 {
			_ = s.apply(random(rng, s.Now(), int64(i)))
			if rng.IntN(300) == 0 {
				before, events := s.Now(), s.Events(0)
				s.reopen()
				if !proto.Equal(before, s.Now()) || len(events) != len(s.Events(0)) {
					t.Fatalf("seed %d: a restart after command %d changed the schedule", seed, i)
				}
			}
		}
		if s.Now().TaskSequence < 100 || s.Now().EventSequence <= maxEvents {
			t.Errorf("seed %d: %d tasks and %d events: the test does not test much", seed, s.Now().TaskSequence, s.Now().EventSequence)
		}
	}
}

func random(rng *rand.Rand, now *schedulepb.State, time int64) *schedulepb.Command {
	near := func(n uint64) uint64 { return n + uint64(rng.IntN(3)) - min(n, 1) }
	c := &schedulepb.Command{Time: time}
	switch rng.IntN(9) {
	case 0, 1, 2:
		c.Action = &schedulepb.Command_Begin{Begin: &schedulepb.Begin{
			Task: &schedulepb.Task{
				Kind: schedulepb.Kind(rng.IntN(4)), Member: uint64(rng.IntN(4)), Call: uint64(rng.IntN(2)),
				Run: uint64(rng.IntN(2)) * near(now.RunSequence),
			},
			AfterTask: uint64(rng.IntN(2)) * (now.TaskSequence + uint64(rng.IntN(2))),
		}}
	case 3:
		c.Action = &schedulepb.Command_Progress{Progress: &schedulepb.Progress{
			Task: near(now.TaskSequence), Incarnation: 1 + uint64(rng.IntN(2)), Phase: "copying",
		}}
	case 4, 5:
		c.Action = &schedulepb.Command_Finish{Finish: &schedulepb.Finish{
			Task: near(now.TaskSequence), Outcome: &schedulepb.Outcome{Result: schedulepb.Outcome_Result(rng.IntN(6))},
		}}
	case 6:
		c.Action = &schedulepb.Command_OpenRun{OpenRun: &schedulepb.OpenRun{Run: &schedulepb.Run{Kind: schedulepb.Kind_DEFRAG}}}
		if rng.IntN(2) == 0 {
			c.Action = &schedulepb.Command_EndRun{EndRun: &schedulepb.EndRun{
				Run: near(now.RunSequence), State: schedulepb.Run_State(rng.IntN(3)),
			}}
		}
	case 7:
		c.Action = &schedulepb.Command_Note{Note: &schedulepb.Note{Event: &schedulepb.Event{
			Type: []schedulepb.Event_Type{schedulepb.Event_NOTE, schedulepb.Event_WAITING, schedulepb.Event_IDLE}[rng.IntN(3)],
			Kind: schedulepb.Kind_DEFRAG, Member: uint64(rng.IntN(4)),
		}}}
	default:
		c.Action = &schedulepb.Command_SetPause{SetPause: &schedulepb.SetPause{Paused: rng.IntN(3) == 0}}
	}
	return c
}
