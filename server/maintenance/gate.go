package maintenance

import (
	"fmt"
	"slices"
	"time"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server/maintenance/rule"
)

const (
	// firstBackOff follows a first failure; each further one doubles it, up to maxBackOff.
	firstBackOff = 5 * time.Minute
	maxBackOff   = 24 * time.Hour
	// maxAttempts is how often a run on demand begins on one member when its member or its leader goes away in the middle.
	maxAttempts = 3
	// copyMargin is what a copy of the database needs on the disk beside the copy itself.
	copyMargin = 64 << 20
)

// Gate says why no member may be under maintenance now, "" if one may: all members must be healthy and have caught up, but
// for those that were added and never started, which may stay so for ever. A full
// quota is no reason to wait, since maintenance is the way out; a corrupt member is one, since maintenance could spread or
// hide what is wrong.
func Gate(in PlanInput) string {
	for _, f := range in.Members {
		switch {
		case f.NotStarted:
		case f.Corrupt:
			return fmt.Sprintf("%s has raised CORRUPT", NameOf(f))
		case f.Unhealthy != "":
			return fmt.Sprintf("%s %s", NameOf(f), f.Unhealthy)
		case f.Busy != "":
			return fmt.Sprintf("%s is busy: %s", NameOf(f), f.Busy)
		}
	}
	if !slices.ContainsFunc(in.Members, func(f *schedulepb.Figures) bool { return f.IsLeader }) {
		return "there is no leader"
	}
	return ""
}

// NameOf is how a member is called in messages.
func NameOf(f *schedulepb.Figures) string {
	if f.Name == "" {
		return fmt.Sprintf("member %x", f.Member)
	}
	return f.Name
}

// RuleFigures are those of f that rules know.
func RuleFigures(f *schedulepb.Figures) rule.Figures {
	return rule.Figures{File: f.File, InUse: f.InUse, Quota: f.Quota, DiskFree: f.DiskFree}
}

// lastOutcome is how the last task of a kind ended on a member; nil if there was none.
func lastOutcome(s *schedulepb.State, kind schedulepb.Kind, member uint64) *schedulepb.Outcome {
	for _, o := range s.Outcomes {
		if o.Kind == kind && o.Member == member {
			return o
		}
	}
	return nil
}

// newestOutcome is how the last task of a kind ended, wherever that was.
func newestOutcome(s *schedulepb.State, kind schedulepb.Kind) *schedulepb.Outcome {
	var newest *schedulepb.Outcome
	for _, o := range s.Outcomes {
		if o.Kind == kind && (newest == nil || o.Ended > newest.Ended) {
			newest = o
		}
	}
	return newest
}

// backOff is when a kind may be tried again on a member after failures; zero for now.
func backOff(in PlanInput, kind schedulepb.Kind, member uint64) (until time.Time, blocked string) {
	o := lastOutcome(in.State, kind, member)
	if o == nil || o.Failures == 0 {
		return time.Time{}, ""
	}
	wait := maxBackOff
	if doublings := o.Failures - 1; doublings < 20 {
		wait = min(wait, firstBackOff<<doublings)
	}
	until = time.Unix(0, o.Ended).Add(wait)
	if !until.After(in.Now) {
		return time.Time{}, ""
	}
	tries := "the last try"
	if o.Failures > 1 {
		tries = fmt.Sprintf("the last %d tries", o.Failures)
	}
	return until, fmt.Sprintf("%s did not succeed (%s: %s); tried again at %s",
		tries, ResultName(o.Result), o.Message, until.UTC().Format("15:04:05 MST"))
}

// room says what a copy of the database lacks on the disk, "" if nothing.
func room(f *schedulepb.Figures) string {
	if need := f.InUse + copyMargin; f.DiskFree < need {
		return fmt.Sprintf("%s has no room on its disk for the copy", NameOf(f))
	}
	return ""
}

// inTurn sorts members as they are to be maintained: learners, then followers, the leader last; among those the one first
// that has the most to gain.
func inTurn(members []*schedulepb.Figures) []*schedulepb.Figures {
	rank := func(f *schedulepb.Figures) int {
		switch {
		case f.IsLeader:
			return 2
		case f.IsLearner:
			return 0
		}
		return 1
	}
	out := slices.Clone(members)
	slices.SortStableFunc(out, func(a, b *schedulepb.Figures) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return compareShare(b, a)
	})
	return out
}

// compareShare compares how much of the files is free.
func compareShare(a, b *schedulepb.Figures) int {
	x, y := freeShare(a), freeShare(b)
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func freeShare(f *schedulepb.Figures) float64 {
	if f.File <= 0 {
		return 0
	}
	return float64(f.File-f.InUse) / float64(f.File)
}

func leaderOf(members []*schedulepb.Figures) *schedulepb.Figures {
	for _, f := range members {
		if f.IsLeader {
			return f
		}
	}
	return nil
}

// sizeText spells bytes as people read them.
func sizeText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// FreeText says how much of a file is free.
func FreeText(f *schedulepb.Figures) string {
	return fmt.Sprintf("%s of %s are free (%.0f %%)", sizeText(f.File-f.InUse), sizeText(f.File), 100*freeShare(f))
}
