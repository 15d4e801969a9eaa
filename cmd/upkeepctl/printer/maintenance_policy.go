package printer

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
)

func policyText(p *schedulepb.Policy) string {
	text := "no defragmentation"
	if d := p.GetDefrag(); d.GetEnabled() {
		text = fmt.Sprintf("defrag when %s, at most once in %s", d.Rule, span(d.MinInterval))
		if d.Window != "" {
			text += ", " + d.Window
		}
	}
	if b := p.GetBackup(); b.GetEnabled() {
		text += "; backups to " + b.Destination
	}
	if p.GetRecover().GetAutoRecoverNospace() {
		text += "; recover from NOSPACE"
	}
	return text
}

// Policy answers what counts.
func (m *Maintenance) Policy(r *upkeeppb.GetPolicyResponse) error {
	if done, err := m.asJSON(r); done {
		return err
	}
	m.wrap("Source", 24, sourceText(r.Source))
	for _, line := range policyLines(r.Policy) {
		head := line.part
		if line.name != "" {
			head = "  " + line.name
		}
		m.wrap(head, 24, line.value)
	}
	return nil
}

// PolicySet answers what has changed, and what the rule makes of the members.
func (m *Maintenance) PolicySet(r *upkeeppb.SetPolicyResponse) error {
	if done, err := m.asJSON(r); done {
		return err
	}
	if r.Source == "flags" {
		fmt.Fprintln(m.out, "The flags of whoever leads count again.")
	}
	changed := false
	before := policyLines(r.Before)
	for i, line := range policyLines(r.Policy) {
		if line.value == before[i].value {
			continue
		}
		changed = true
		head := line.part
		if line.name != "" {
			head += ": " + line.name
		}
		m.wrap(head, 34, before[i].value+" -> "+line.value)
	}
	if !changed {
		fmt.Fprintln(m.out, "Nothing has changed.")
	}
	if r.Policy.GetDefrag().GetEnabled() && len(r.Trials) > 0 {
		fmt.Fprintln(m.out, "\nThe rule says now")
		for _, t := range r.Trials {
			verdict := "no"
			if t.Matches {
				verdict = "defragment"
			}
			m.names[t.Member] = t.Name
			m.wrap("  "+m.name(t.Member), 24, verdict+": "+t.Figures)
		}
	}
	return nil
}

// policyLine is one setting; name is empty for whether a part is done at all.
type policyLine struct{ part, name, value string }

func policyLines(p *schedulepb.Policy) []policyLine {
	d, b, i, r := p.GetDefrag(), p.GetBackup(), p.GetIntegrity(), p.GetRecover()
	var out []policyLine
	part := ""
	begin := func(name, value string) {
		part = name
		out = append(out, policyLine{part, "", value})
	}
	line := func(name, value string) { out = append(out, policyLine{part, name, value}) }
	begin("Defragment", yesNo(d.GetEnabled()))
	line("rule", cmp.Or(d.GetRule(), "none"))
	line("minimum interval", span(d.GetMinInterval()))
	line("window", cmp.Or(d.GetWindow(), "any time"))
	line("move leader", yesNo(d.GetMoveLeader()))
	line("compact first", yesNo(d.GetCompactFirst()))
	begin("Back up", yesNo(b.GetEnabled()))
	line("to", cmp.Or(b.GetDestination(), "nowhere"))
	line("full", every(b.GetFullInterval()))
	line("incremental", every(b.GetIncrementalInterval()))
	line("window", cmp.Or(b.GetWindow(), "any time"))
	line("keep count", limit(int64(b.GetKeepCount()), fmt.Sprint(b.GetKeepCount())))
	line("keep age", limit(b.GetKeepAge(), span(b.GetKeepAge())))
	line("keep bytes", limit(b.GetKeepBytes(), sizeOf(b.GetKeepBytes())))
	line("compress", yesNo(b.GetCompress()))
	line("verify", yesNo(!b.GetSkipVerify()))
	begin("Compare members", yesNo(i.GetEnabled() && i.GetInterval() > 0))
	line("interval", every(i.GetInterval()))
	begin("Recover from NOSPACE", yesNo(r.GetAutoRecoverNospace()))
	line("keep revisions", fmt.Sprint(r.GetKeepRevisions()))
	begin("Settle", span(p.GetSettle()))
	return out
}

func every(nanos int64) string {
	if nanos == 0 {
		return "never"
	}
	return "every " + span(nanos)
}

// limit is text, unless the limit is 0, which is none.
func limit(n int64, text string) string {
	if n == 0 {
		return "no limit"
	}
	return text
}

// span is a duration without units of which there are none: 1h, not 1h0m0s.
func span(nanos int64) string {
	text := time.Duration(nanos).String()
	for _, empty := range []string{"0s", "0m"} {
		if shorter := strings.TrimSuffix(text, empty); shorter != text && strings.ContainsAny(shorter, "hm") && !strings.ContainsAny(shorter[len(shorter)-1:], "0123456789") {
			text = shorter
		}
	}
	return text
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}
