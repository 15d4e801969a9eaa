package printer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/server/maintenance"
)

// Maintenance writes answers of the service upkeep.v1.Upkeep, for people or as one line of JSON each.
type Maintenance struct {
	out  io.Writer
	json bool
	// names of the members by ID, as far as they are known.
	names map[uint64]string
}

// NewMaintenance returns a writer of a format: simple or json.
func NewMaintenance(format string, out io.Writer) (*Maintenance, error) {
	if format != "simple" && format != "json" {
		return nil, notSupported(format)
	}
	return &Maintenance{out: out, json: format == "json", names: map[uint64]string{}}, nil
}

// Learn remembers how members are called.
func (m *Maintenance) Learn(members []*schedulepb.Figures) {
	for _, f := range members {
		m.names[f.Member] = f.Name
	}
}

// name of a member; a dash for the whole cluster.
func (m *Maintenance) name(id uint64) string {
	switch {
	case id == 0:
		return "-"
	case m.names[id] != "":
		return m.names[id]
	}
	return fmt.Sprintf("%x", id)
}

// asJSON writes one message as one line, and tells whether that was asked for.
func (m *Maintenance) asJSON(message proto.Message) (bool, error) {
	if !m.json {
		return false, nil
	}
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		return true, err
	}
	var line bytes.Buffer // protojson puts in blanks at random
	if err := json.Compact(&line, data); err != nil {
		return true, err
	}
	line.WriteByte('\n')
	_, err = m.out.Write(line.Bytes())
	return true, err
}

// width is how wide a terminal is taken to be.
const width = 80

// wrap writes a first column of so many characters and text beside it, over several lines if need be.
func (m *Maintenance) wrap(head string, indent int, text string) {
	line := fmt.Sprintf("%-*s", indent, head)
	if len(line) > indent && !strings.HasSuffix(line, " ") {
		line += " "
	}
	empty := true
	for _, word := range strings.Fields(text) {
		if !empty && len(line)+1+len(word) > width {
			fmt.Fprintln(m.out, strings.TrimRight(line, " "))
			line, empty = strings.Repeat(" ", indent), true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	fmt.Fprintln(m.out, strings.TrimRight(line, " "))
}

func sizeOf(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

func at(nanos int64) string { return time.Unix(0, nanos).UTC().Format("2006-01-02 15:04:05") }

func lasted(nanos int64) string {
	d := time.Duration(nanos)
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// Status answers what is going on.
func (m *Maintenance) Status(r *upkeeppb.StatusResponse) error {
	if done, err := m.asJSON(r); done {
		return err
	}
	m.Learn(r.Members)
	switch {
	case r.Open != nil:
		m.wrap("Now", 10, m.taskText(r.Open, r.Time))
		m.wrap("", 10, r.Open.Reason)
	case r.Paused != nil:
		text := "paused since " + at(r.Paused.Since)
		if r.Paused.Reason != "" {
			text += ": " + r.Paused.Reason
		}
		m.wrap("Now", 10, text)
	default:
		m.wrap("Now", 10, "nothing is under maintenance")
	}
	m.wrap("Policy", 10, policyText(r.Policy)+" ("+sourceText(r.PolicySource)+")")
	fmt.Fprintln(m.out)
	m.members(r)
	if len(r.Waiting) > 0 {
		fmt.Fprintln(m.out, "\nWaiting")
		for _, w := range r.Waiting {
			m.wrap(fmt.Sprintf("  %s %s", maintenance.KindName(w.Kind), m.name(w.Member)), 22,
				w.Reason+"; since "+at(w.Since))
		}
	}
	m.runs(r.Runs)
	return nil
}

// maxEndedRuns are shown beside the open ones.
const maxEndedRuns = 3

func (m *Maintenance) runs(all []*schedulepb.Run) {
	var shown []*schedulepb.Run
	ended := 0
	for _, run := range all {
		if run.State != schedulepb.Run_OPEN {
			ended++
		}
	}
	for _, run := range all {
		if run.State != schedulepb.Run_OPEN {
			if ended--; ended >= maxEndedRuns {
				continue
			}
		}
		shown = append(shown, run)
	}
	if len(shown) > 0 {
		fmt.Fprintln(m.out, "\nOn demand")
	}
	for _, run := range shown {
		m.wrap(fmt.Sprintf("  run %d", run.Id), 22, maintenance.KindName(run.Kind)+" "+runText(run))
	}
}

func runText(run *schedulepb.Run) string {
	done := 0
	for _, o := range run.Outcomes {
		if o.Result == schedulepb.Outcome_DONE {
			done++
		}
	}
	switch run.State {
	case schedulepb.Run_SUCCEEDED:
		return fmt.Sprintf("has succeeded at %s (%d tasks)", at(run.Ended), done)
	case schedulepb.Run_FAILED:
		return fmt.Sprintf("has failed at %s: %s", at(run.Ended), run.Message)
	}
	return fmt.Sprintf("is open since %s, %d tasks done", at(run.Requested), done)
}

func (m *Maintenance) taskText(t *schedulepb.Task, now int64) string {
	text := fmt.Sprintf("task %d: %s of %s", t.Sequence, maintenance.KindName(t.Kind), m.name(t.Member))
	if t.Phase != "" {
		text += ", " + t.Phase
	}
	if t.Total > 0 {
		text += fmt.Sprintf(" %d %%", 100*t.Done/t.Total)
	}
	if now > t.Begun {
		text += ", for " + lasted(now-t.Begun)
	}
	return text
}

func sourceText(source string) string {
	if source == "set" {
		return "set with `maintenance policy set`"
	}
	return "from the flags"
}

// members is a table of how they are.
func (m *Maintenance) members(r *upkeeppb.StatusResponse) {
	const row = "%-14s %-8s %9s %9s %5s %5s  %s\n"
	fmt.Fprintf(m.out, row, "MEMBER", "ROLE", "FILE", "IN USE", "FREE", "QUOTA", "LAST DEFRAG")
	for _, f := range r.Members {
		role := "follower"
		switch {
		case f.IsLeader:
			role = "leader"
		case f.IsLearner:
			role = "learner"
		}
		if f.Unhealthy != "" && f.File == 0 {
			text := f.Unhealthy
			if f.NotStarted {
				text += "; maintenance goes on without it"
			}
			m.wrap(fmt.Sprintf("%-14s %-8s", m.name(f.Member), role), 24, text)
			continue
		}
		free, quota := "0 %", "-"
		if f.File > 0 {
			free = fmt.Sprintf("%d %%", 100*(f.File-f.InUse)/f.File)
		}
		if f.Quota > 0 {
			quota = fmt.Sprintf("%d %%", 100*f.File/f.Quota)
		}
		fmt.Fprintf(m.out, row, m.name(f.Member), role, sizeOf(f.File), sizeOf(f.InUse), free, quota, lastDefrag(r, f.Member))
		for _, remark := range remarks(f) {
			m.wrap("", 24, remark)
		}
	}
}

func remarks(f *schedulepb.Figures) []string {
	var out []string
	if f.NoSpace {
		out = append(out, "has raised NOSPACE")
	}
	if f.Corrupt {
		out = append(out, "has raised CORRUPT")
	}
	if f.Unhealthy != "" {
		out = append(out, f.Unhealthy)
	}
	if f.Busy != "" && len(f.Jobs) == 0 {
		out = append(out, "is busy: "+f.Busy)
	}
	for _, job := range f.Jobs {
		out = append(out, jobText(job))
	}
	return out
}

func jobText(job *schedulepb.Job) string {
	text := job.Job
	if job.Phase != "" {
		text += ": " + job.Phase
	}
	if job.Total > 0 {
		text += fmt.Sprintf(" %d %%", 100*job.Done/job.Total)
	}
	return text
}

func lastDefrag(r *upkeeppb.StatusResponse, member uint64) string {
	for _, o := range r.Outcomes {
		if o.Kind == schedulepb.Kind_DEFRAG && o.Member == member {
			return at(o.Ended)[5:16] + " " + maintenance.ResultName(o.Result)
		}
	}
	return "never"
}

// Plan answers what would be done.
func (m *Maintenance) Plan(r *upkeeppb.PlanResponse) error {
	if done, err := m.asJSON(r); done {
		return err
	}
	m.Learn(r.Members)
	if len(r.Steps) == 0 {
		fmt.Fprintln(m.out, "Nothing is due.")
		return nil
	}
	for i, step := range r.Steps {
		m.wrap(fmt.Sprintf("%2d  %s %s", i+1, maintenance.KindName(step.Kind), m.name(step.Member)), 26, step.Reason)
		if step.Blocked != "" {
			text := "not now: " + step.Blocked
			if step.NextAt != 0 {
				text += "; again at " + at(step.NextAt)
			}
			m.wrap("", 26, text)
		}
	}
	return nil
}

// History answers what has happened.
func (m *Maintenance) History(r *upkeeppb.HistoryResponse) error {
	for _, e := range r.Events {
		if err := m.Event(e); err != nil {
			return err
		}
	}
	return nil
}

// Event writes one event.
func (m *Maintenance) Event(e *schedulepb.Event) error {
	if done, err := m.asJSON(e); done {
		return err
	}
	what := strings.ToLower(strings.ReplaceAll(e.Type.String(), "_", " "))
	if e.Kind != schedulepb.Kind_ANY {
		what += " " + maintenance.KindName(e.Kind)
	}
	if e.Member != 0 {
		what += " " + m.name(e.Member)
	}
	text := e.Reason
	if e.Outcome != nil {
		text = outcomeText(e.Outcome)
	}
	if strings.HasPrefix(e.Type.String(), "RUN_") {
		text = strings.TrimSuffix(fmt.Sprintf("run %d: %s", e.Run, text), ": ")
	}
	m.wrap(at(e.Time)+"  "+what, 42, text)
	return nil
}

func outcomeText(o *schedulepb.Outcome) string {
	text := maintenance.ResultName(o.Result)
	if o.SizeBefore > 0 {
		text += fmt.Sprintf(", %s -> %s", sizeOf(o.SizeBefore), sizeOf(o.SizeAfter))
	}
	if o.Duration > 0 {
		text += " in " + lasted(o.Duration)
	}
	if o.LongestPause > 0 {
		text += ", longest pause " + time.Duration(o.LongestPause).Round(10*time.Microsecond).String()
	}
	if o.Message != "" {
		text += ": " + o.Message
	}
	return text
}

// Follow writes one step of a run.
func (m *Maintenance) Follow(r *upkeeppb.FollowResponse) error {
	if done, err := m.asJSON(r); done {
		return err
	}
	switch {
	case r.Event != nil:
		return m.Event(r.Event)
	case r.Open != nil && r.Open.Total > 0:
		m.wrap(at(r.Open.Reported)+"  "+maintenance.KindName(r.Open.Kind)+" "+m.name(r.Open.Member), 42,
			fmt.Sprintf("%s %d %%", r.Open.Phase, 100*r.Open.Done/r.Open.Total))
	case r.Run != nil:
		m.wrap(fmt.Sprintf("Run %d", r.Run.Id), 8, runText(r.Run))
	}
	return nil
}

// Opened says that a run is under way.
func (m *Maintenance) Opened(r *upkeeppb.RunResponse) error {
	if done, err := m.asJSON(r); done {
		return err
	}
	_, err := fmt.Fprintf(m.out, "Run %d is open; `upkeepctl maintenance status` shows how it goes.\n", r.Run)
	return err
}

// Done says that something was done that has no answer.
func (m *Maintenance) Done(message proto.Message, text string) error {
	if done, err := m.asJSON(message); done {
		return err
	}
	_, err := fmt.Fprintln(m.out, text)
	return err
}
