package maintenance

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
)

// TestBackupPlanner runs testdata/backup. `plan` takes full=, incremental=, window=, to= of the policy, and for a run
// on demand run= with the kind and of= with the member; a line describes a member or an outcome:
//
//	m2 applied=990 learner busy=defragmentation
//	outcome m2 failed 11:50 failures=2 backup-at=11:40 full-at=11:00
func TestBackupPlanner(t *testing.T) {
	datadriven.RunTest(t, "testdata/backup", func(t *testing.T, d *datadriven.TestData) string {
		in := PlanInput{State: &schedulepb.State{}, Policy: &schedulepb.Policy{Backup: &schedulepb.BackupPolicy{
			Enabled: true, Destination: "/backups", FullInterval: int64(time.Hour), IncrementalInterval: int64(5 * time.Minute),
			Compress: true, KeepCount: 3,
		}}, Now: backupClock(t, "12:00")}
		policy := in.Policy.Backup
		for _, arg := range d.CmdArgs {
			switch value := arg.Vals[0]; arg.Key {
			case "full":
				policy.FullInterval = int64(backupSpan(t, value))
			case "incremental":
				policy.IncrementalInterval = int64(backupSpan(t, value))
			case "to":
				policy.Destination = value
			case "elsewhere":
				in.Run.Parameters = append(in.Run.Parameters, &schedulepb.Parameter{Name: ParamDestination, Value: value})
			case "window":
				policy.Window = strings.ReplaceAll(value, "_", " ")
			case "now":
				in.Now = backupClock(t, value)
			case "enabled":
				policy.Enabled = value == "true"
			case "run":
				in.Run = &schedulepb.Run{Id: 7, Kind: schedulepb.Kind_BACKUP}
				if value != "any" {
					in.Run.Parameters = []*schedulepb.Parameter{{Name: ParamBackup, Value: value}}
				}
			case "of":
				in.Run.Members = append(in.Run.Members, backupID(t, value))
			default:
				d.Fatalf(t, "unknown argument %s", arg.Key)
			}
		}
		for line := range strings.Lines(d.Input) {
			words := strings.Fields(line)
			if words[0] == "outcome" {
				o := backupOutcome(t, words[1:])
				if in.Run != nil {
					in.Run.Outcomes = append(in.Run.Outcomes, o)
				}
				in.State.Outcomes = append(in.State.Outcomes, o)
				continue
			}
			in.Members = append(in.Members, backupFigures(t, words))
		}
		var out strings.Builder
		for _, p := range (BackupPlanner{}).Plan(in) {
			showBackup(&out, p)
		}
		if out.Len() == 0 {
			return "nothing\n"
		}
		return out.String()
	})
}

func showBackup(out *strings.Builder, p Proposal) {
	if p.Fail != "" {
		fmt.Fprintf(out, "fails: %s\n", p.Fail)
		return
	}
	var params []string
	for _, q := range p.Parameters {
		params = append(params, q.Name+"="+q.Value)
	}
	fmt.Fprintf(out, "m%d: %s\n  %s\n", p.Member, p.Reason, strings.Join(params, " "))
	if p.Blocked != "" {
		fmt.Fprintf(out, "  blocked: %s\n", p.Blocked)
	}
	if !p.NextAt.IsZero() {
		fmt.Fprintf(out, "  next at %s\n", p.NextAt.UTC().Format("15:04"))
	}
}

func backupFigures(t *testing.T, words []string) *schedulepb.Figures {
	f := &schedulepb.Figures{Member: backupID(t, words[0]), Name: words[0], Applied: 1000, Commit: 1000}
	for _, word := range words[1:] {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "leader":
			f.IsLeader = true
		case "learner":
			f.IsLearner = true
		case "corrupt":
			f.Corrupt = true
		case "busy":
			f.Busy = value
		case "unhealthy":
			f.Unhealthy = strings.ReplaceAll(value, "_", " ")
		case "applied":
			f.Applied, _ = strconv.ParseUint(value, 10, 64)
		case "commit":
			f.Commit, _ = strconv.ParseUint(value, 10, 64)
		default:
			t.Fatalf("word %q", word)
		}
	}
	return f
}

func backupOutcome(t *testing.T, words []string) *schedulepb.Outcome {
	o := &schedulepb.Outcome{Kind: schedulepb.Kind_BACKUP, Member: backupID(t, words[0]), Message: "the reason"}
	result, ok := schedulepb.Outcome_Result_value[strings.ToUpper(words[1])]
	if !ok {
		t.Fatalf("result %q", words[1])
	}
	o.Result = schedulepb.Outcome_Result(result)
	o.Ended = backupClock(t, words[2]).UnixNano()
	for _, word := range words[3:] {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "failures":
			n, _ := strconv.Atoi(value)
			o.Failures = uint32(n)
		default:
			o.Details = append(o.Details, &schedulepb.Parameter{
				Name: name, Value: strconv.FormatInt(backupClock(t, value).UnixNano(), 10),
			})
		}
	}
	return o
}

func backupID(t *testing.T, name string) uint64 {
	id, err := strconv.ParseUint(strings.TrimPrefix(name, "m"), 10, 64)
	if err != nil {
		t.Fatalf("member %q", name)
	}
	return id
}

func backupClock(t *testing.T, text string) time.Time {
	at, err := time.Parse("15:04", text)
	if err != nil {
		t.Fatal(err)
	}
	return time.Date(2026, 11, 20, at.Hour(), at.Minute(), 0, 0, time.UTC)
}

func backupSpan(t *testing.T, text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
