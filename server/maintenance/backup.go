package maintenance

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server/maintenance/window"
)

// Parameters of BACKUP tasks and runs. A task carries all that its member has to know, since that may have been started
// with other flags than the leader.
const (
	// ParamBackup is "full" or "incremental". The member takes a full one where an incremental one is not possible, or where
	// the repository shows that a full one is due.
	ParamBackup       = "backup"
	ParamDestination  = "destination"
	ParamCompress     = "compress"
	ParamSkipVerify   = "skip-verify"
	ParamFullInterval = "full-interval"
	ParamKeepCount    = "keep-count"
	ParamKeepAge      = "keep-age"
	ParamKeepBytes    = "keep-bytes"
	// ParamElsewhere is "true" if the destination is not that of the policy: then the policy's backups are due as before, and
	// nothing is removed.
	ParamElsewhere = "elsewhere"
)

// Details of the outcome of a BACKUP, in nanoseconds since the epoch. Those of the newest that is known are carried along by
// a task that failed.
const (
	// DetailBackupAt is when the newest backup was taken, DetailFullAt the newest full one.
	DetailBackupAt = "backup-at"
	DetailFullAt   = "full-at"
)

// Values of ParamBackup.
const (
	BackupFull        = "full"
	BackupIncremental = "incremental"
)

const (
	// backupLag is how many log entries a member may be behind that is backed up.
	backupLag = 1000
	// firstBackupRetry follows a first failure on a member; each further one doubles it, up to maxBackupRetry: what is not
	// backed up is growing meanwhile.
	firstBackupRetry = time.Minute
	maxBackupRetry   = 30 * time.Minute
)

// BackupPlanner decides when a backup is taken, and of which member: a follower that is well and has caught up, the leader
// only where it is alone. Other members need not be well for that.
type BackupPlanner struct{}

// Plan implements Planner.
func (BackupPlanner) Plan(in PlanInput) []Proposal {
	if in.Run != nil {
		return planBackupRun(in)
	}
	policy := in.Policy.GetBackup()
	if !policy.GetEnabled() || policy.Destination == "" {
		return nil
	}
	kind, reason := dueBackup(in, policy)
	if kind == "" {
		return nil
	}
	p := backupProposal(in, policy, nil, kind, reason)
	if open, err := window.Parse(policy.Window); err == nil && p.Blocked == "" && !open.Open(in.Now) {
		p.Blocked, p.NextAt = fmt.Sprintf("outside of the window %s", open), open.Next(in.Now)
	}
	return []Proposal{p}
}

// dueBackup is what is due, and why; "" if nothing is.
func dueBackup(in PlanInput, policy *schedulepb.BackupPolicy) (kind, reason string) {
	newest, full := KnownBackups(in.State)
	since := func(at time.Time) time.Duration { return max(0, in.Now.Sub(at)).Truncate(time.Second) }
	interval := time.Duration(policy.FullInterval)
	switch {
	case newest.IsZero():
		return BackupIncremental, "no backup is known yet"
	case interval > 0 && full.IsZero():
		return BackupFull, "no full backup is known yet"
	case interval > 0 && in.Now.Sub(full) >= interval:
		return BackupFull, fmt.Sprintf("the last full backup was taken %s ago, and one is due every %s", since(full), interval)
	}
	if interval = time.Duration(policy.IncrementalInterval); interval > 0 && in.Now.Sub(newest) >= interval {
		return BackupIncremental, fmt.Sprintf("the last backup was taken %s ago, and one is due every %s", since(newest), interval)
	}
	return "", ""
}

// KnownBackups is when the newest backup and the newest full one were taken, as far as outcomes tell.
func KnownBackups(s *schedulepb.State) (newest, full time.Time) {
	for _, o := range s.Outcomes {
		if o.Kind != schedulepb.Kind_BACKUP {
			continue
		}
		newest = laterOf(newest, Parameter(o.Details, DetailBackupAt))
		full = laterOf(full, Parameter(o.Details, DetailFullAt))
	}
	return newest, full
}

func laterOf(at time.Time, nanos string) time.Time {
	n, err := strconv.ParseInt(nanos, 10, 64)
	if other := time.Unix(0, n); err == nil && n > 0 && other.After(at) {
		return other
	}
	return at
}

// planBackupRun takes one backup, of one of the members that were named.
func planBackupRun(in PlanInput) []Proposal {
	fail := func(format string, args ...any) []Proposal {
		return []Proposal{{Kind: schedulepb.Kind_BACKUP, Fail: fmt.Sprintf(format, args...)}}
	}
	broken := 0
	for _, o := range in.Run.Outcomes {
		switch o.Result {
		case schedulepb.Outcome_DONE:
			return nil
		case schedulepb.Outcome_INTERRUPTED, schedulepb.Outcome_ABANDONED:
			if broken++; broken >= maxAttempts {
				return fail("the backup was broken off %d times: %s", broken, o.Message)
			}
		default:
			return fail("%s", o.Message)
		}
	}
	policy := in.Policy.GetBackup()
	if policy == nil {
		policy = &schedulepb.BackupPolicy{}
	}
	if policy.Destination == "" && Parameter(in.Run.Parameters, ParamDestination) == "" {
		return fail("there is nowhere to write a backup to: start the members with --upkeep-backup-to, set a policy, or name a " +
			"destination")
	}
	kind := cmp.Or(Parameter(in.Run.Parameters, ParamBackup), BackupIncremental)
	if kind != BackupFull && kind != BackupIncremental {
		return fail("%s=%q: a backup is %s or %s", ParamBackup, kind, BackupFull, BackupIncremental)
	}
	for _, id := range in.Run.Members {
		if !slices.ContainsFunc(in.Members, func(f *schedulepb.Figures) bool { return f.Member == id }) {
			return fail("there is no member %x in the cluster", id)
		}
	}
	in.State = &schedulepb.State{} // what failed before somebody asked does not count
	return []Proposal{backupProposal(in, policy, in.Run, kind, "on demand")}
}

// backupProposal chooses the member.
func backupProposal(in PlanInput, policy *schedulepb.BackupPolicy, run *schedulepb.Run, kind, reason string) Proposal {
	p := Proposal{Kind: schedulepb.Kind_BACKUP, Reason: reason, Parameters: backupParameters(policy, run, kind)}
	chosen, why, next := backupMember(in, run.GetMembers())
	if chosen == nil {
		p.Blocked, p.NextAt = why, next
		return p
	}
	p.Member = chosen.Member
	p.Reason = fmt.Sprintf("%s; %s %s", reason, NameOf(chosen), why)
	return p
}

// backupMember returns the member to back up and what speaks for it, or why there is none.
func backupMember(in PlanInput, named []uint64) (chosen *schedulepb.Figures, why string, next time.Time) {
	leader := leaderOf(in.Members)
	if leader == nil {
		return nil, "there is no leader", next
	}
	blocked := "there is no follower, and the leader is backed up only where it is alone"
	for _, f := range in.Members {
		if len(named) > 0 && !slices.Contains(named, f.Member) || len(named) == 0 && f.IsLeader && len(in.Members) > 1 {
			continue
		}
		until, reason := unfitForBackup(in, f, leader)
		if reason != "" {
			blocked = reason
			if !until.IsZero() && (next.IsZero() || until.Before(next)) {
				next = until
			}
			continue
		}
		if chosen == nil || betterForBackup(f, chosen) {
			chosen = f
		}
	}
	switch {
	case chosen == nil:
		return nil, blocked, next
	case chosen.IsLeader && len(in.Members) == 1:
		why = "is alone"
	case chosen.IsLeader:
		why = "leads, and was asked for"
	default:
		why = "is a follower that is well and has caught up"
	}
	return chosen, why, time.Time{}
}

// unfitForBackup must not hold figures that move: the reason becomes an event whenever it changes.
func unfitForBackup(in PlanInput, f, leader *schedulepb.Figures) (until time.Time, reason string) {
	switch {
	case f.Unhealthy != "":
		return until, fmt.Sprintf("%s %s", NameOf(f), f.Unhealthy)
	case f.Corrupt:
		return until, fmt.Sprintf("%s has raised CORRUPT", NameOf(f))
	case f.Busy != "":
		return until, fmt.Sprintf("%s is busy: %s", NameOf(f), f.Busy)
	case f.Applied+backupLag < leader.Commit:
		return until, fmt.Sprintf("%s has not caught up with the leader", NameOf(f))
	}
	o := lastOutcome(in.State, schedulepb.Kind_BACKUP, f.Member)
	if o == nil || o.Failures == 0 || o.Failures <= 3 && o.Result == schedulepb.Outcome_INTERRUPTED {
		return until, "" // a member that was restarted a few times tries again at once
	}
	wait := maxBackupRetry
	if o.Failures <= 6 {
		wait = min(wait, firstBackupRetry<<(o.Failures-1))
	}
	if until = time.Unix(0, o.Ended).Add(wait); !until.After(in.Now) {
		return time.Time{}, ""
	}
	return until, fmt.Sprintf("the last try on %s did not succeed (%s: %s); tried again at %s", NameOf(f),
		ResultName(o.Result), o.Message, until.UTC().Format("15:04:05 MST"))
}

// betterForBackup prefers voters, then the one that is furthest, then the one with the smaller ID.
func betterForBackup(a, b *schedulepb.Figures) bool {
	switch {
	case a.IsLearner != b.IsLearner:
		return b.IsLearner
	case a.Applied != b.Applied:
		return a.Applied > b.Applied
	}
	return a.Member < b.Member
}

func backupParameters(policy *schedulepb.BackupPolicy, run *schedulepb.Run, kind string) []*schedulepb.Parameter {
	given := run.GetParameters()
	var out []*schedulepb.Parameter
	add := func(name, value string) {
		if v := Parameter(given, name); v != "" {
			value = v
		}
		if value != "" && value != "0" && value != "false" {
			out = append(out, &schedulepb.Parameter{Name: name, Value: value})
		}
	}
	add(ParamBackup, kind)
	add(ParamDestination, policy.Destination)
	if to := Parameter(given, ParamDestination); to != "" && to != policy.Destination {
		add(ParamElsewhere, "true")
	}
	add(ParamCompress, strconv.FormatBool(policy.Compress))
	add(ParamSkipVerify, strconv.FormatBool(policy.SkipVerify))
	add(ParamFullInterval, strconv.FormatInt(policy.FullInterval, 10))
	add(ParamKeepCount, strconv.FormatInt(int64(policy.KeepCount), 10))
	add(ParamKeepAge, strconv.FormatInt(policy.KeepAge, 10))
	add(ParamKeepBytes, strconv.FormatInt(policy.KeepBytes, 10))
	return out
}
