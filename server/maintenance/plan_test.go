package maintenance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
)

// TestPlans: `members` describes each member in text form, in MiB; `policy`, `state` and `retention` set the rest of what
// plans are made of; `at` sets the clock. `plan` shows the steps of the policy, `run` those of a run on demand.
func TestPlans(t *testing.T) {
	datadriven.Walk(t, "testdata/plans", func(t *testing.T, path string) {
		in := PlanInput{Now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC), Policy: &schedulepb.Policy{}, State: &schedulepb.State{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			parse := func(text string, m proto.Message) {
				if err := prototext.Unmarshal([]byte(text), m); err != nil {
					d.Fatalf(t, "%q: %v", text, err)
				}
			}
			switch d.Cmd {
			case "members":
				in.Members = nil
				for line := range strings.Lines(d.Input) {
					f := &schedulepb.Figures{}
					parse(line, f)
					if f.DiskFree == 0 {
						f.DiskFree = 1 << 20
					}
					for _, mib := range []*int64{&f.File, &f.InUse, &f.Quota, &f.DiskFree} {
						*mib <<= 20
					}
					in.Members = append(in.Members, f)
				}
			case "policy":
				in.Policy = &schedulepb.Policy{}
				parse(d.Input, in.Policy)
			case "state":
				in.State = &schedulepb.State{}
				parse(d.Input, in.State)
				for _, o := range in.State.Outcomes { // minutes ago
					o.Begun, o.Ended = ago(in.Now, o.Begun), ago(in.Now, o.Ended)
				}
			case "retention":
				in.Retention = Retained{Configured: true}
				d.ScanArgs(t, "revision", &in.Retention.Revision)
			case "at":
				at, err := time.Parse(time.DateTime, d.Input)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				in.Now = at
			case "plan":
				return steps(in, append(RecoverPlanner{}.Plan(in), DefragPlanner{}.Plan(in)...))
			case "run":
				asked := in
				asked.Run = &schedulepb.Run{}
				parse(d.Input, asked.Run)
				var planner Planner = DefragPlanner{}
				if asked.Run.Kind == schedulepb.Kind_RECOVER {
					planner = RecoverPlanner{}
				}
				return steps(asked, planner.Plan(asked))
			default:
				d.Fatalf(t, "unknown command %q", d.Cmd)
			}
			return ""
		})
	})
}

func ago(now time.Time, minutes int64) int64 {
	return now.Add(-time.Duration(minutes) * time.Minute).UnixNano()
}

func steps(in PlanInput, plan []Proposal) string {
	var out strings.Builder
	for _, p := range plan {
		if p.Fail != "" {
			fmt.Fprintf(&out, "fail: %s\n", p.Fail)
			continue
		}
		name := "-"
		for _, f := range in.Members {
			if f.Member == p.Member {
				name = f.Name
			}
		}
		fmt.Fprintf(&out, "%s %s: %s\n", KindName(p.Kind), name, p.Reason)
		if p.Blocked != "" {
			fmt.Fprintf(&out, "    not now: %s\n", p.Blocked)
		}
		if !p.NextAt.IsZero() {
			fmt.Fprintf(&out, "    again at %s\n", p.NextAt.UTC().Format(time.DateTime))
		}
	}
	return out.String()
}
