package printer

import (
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
)

// TestMaintenance shows answers, given in text form, as people see them, and with the argument json as scripts do.
func TestMaintenance(t *testing.T) {
	datadriven.RunTest(t, "testdata/maintenance.txt", func(t *testing.T, d *datadriven.TestData) string {
		var out strings.Builder
		format := "simple"
		if d.HasArg("json") {
			format = "json"
		}
		m, err := NewMaintenance(format, &out)
		if err != nil {
			t.Fatal(err)
		}
		m.Learn([]*schedulepb.Figures{{Member: 1, Name: "m1"}, {Member: 2, Name: "m2"}, {Member: 3, Name: "m3"}})
		parse := func(message proto.Message) {
			if err := prototext.Unmarshal([]byte(d.Input), message); err != nil {
				d.Fatalf(t, "%v", err)
			}
		}
		show := map[string]func() error{
			"status":  func() error { r := &upkeeppb.StatusResponse{}; parse(r); return m.Status(r) },
			"plan":    func() error { r := &upkeeppb.PlanResponse{}; parse(r); return m.Plan(r) },
			"history": func() error { r := &upkeeppb.HistoryResponse{}; parse(r); return m.History(r) },
			"follow":  func() error { r := &upkeeppb.FollowResponse{}; parse(r); return m.Follow(r) },
			"policy":  func() error { r := &upkeeppb.GetPolicyResponse{}; parse(r); return m.Policy(r) },
			"set":     func() error { r := &upkeeppb.SetPolicyResponse{}; parse(r); return m.PolicySet(r) },
			"run":     func() error { r := &upkeeppb.RunResponse{}; parse(r); return m.Opened(r) },
		}[d.Cmd]
		if show == nil {
			d.Fatalf(t, "unknown command %q", d.Cmd)
		}
		if err := show(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if format == "simple" && len([]rune(line)) > width+1 {
				t.Errorf("%s: wider than a terminal: %q", d.Pos, line)
			}
		}
		return out.String()
	})
	if _, err := NewMaintenance("table", nil); err == nil {
		t.Error("there is a table")
	}
}
