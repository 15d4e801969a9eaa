package config

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/upkeep-kv/upkeep/server/maintenance/rule"
	"github.com/upkeep-kv/upkeep/server/maintenance/window"
)

// DefaultDefragRule is when a member is defragmented by itself: when that gives back enough to be worth copying the rest.
const DefaultDefragRule = "free > 100MiB && fragmented > 45%"

// Upkeep is what members do by themselves, until a policy is set that replaces it.
type Upkeep struct {
	Defrag             bool
	DefragRule         string
	DefragMinInterval  time.Duration
	DefragMoveLeader   bool
	DefragCompactFirst bool
	// Window is when anything of this may be done, "" for any time.
	Window string
	// Settle is the rest between two tasks.
	Settle time.Duration
	// RecoverNoSpace lowers NOSPACE alarms after it has made room. RecoverKeepRevisions is how much history it leaves where
	// no retention is configured; 0 leaves all.
	RecoverNoSpace       bool
	RecoverKeepRevisions int64
	// CheckInterval is the time between two comparisons of all members' histories, 0 for never.
	CheckInterval time.Duration
	// BackupTo is the repository of backups, "" for none. The limits of what is kept there are 0 for no limit.
	BackupTo                  string
	BackupFullInterval        time.Duration
	BackupIncrementalInterval time.Duration
	BackupWindow              string
	BackupKeepCount           int
	BackupKeepAge             time.Duration
	BackupKeepBytes           int64
	BackupCompress            bool
	BackupVerify              bool
}

func defaultUpkeep() Upkeep {
	return Upkeep{
		Defrag: true, DefragRule: DefaultDefragRule, DefragMinInterval: time.Hour, Settle: 10 * time.Second,
		BackupFullInterval: 24 * time.Hour, BackupIncrementalInterval: 5 * time.Minute, BackupKeepCount: 7,
		BackupCompress: true, BackupVerify: true, CheckInterval: 24 * time.Hour,
	}
}

func scheduleOptions(c *Config) []*option {
	u, preset := &c.Upkeep, defaultUpkeep()
	options := []*option{
		truth("upkeep-defrag", upkeepSection, preset.Defrag, "Defragment members by themselves, one at a time, when the rule says so.", &u.Defrag),
		text("upkeep-defrag-rule", upkeepSection, preset.DefragRule, "When a member is defragmented: a condition on free, fragmented, file, in_use, quota, quota_used, quota_left and disk_free.", &u.DefragRule),
		span("upkeep-defrag-min-interval", upkeepSection, preset.DefragMinInterval, "Time between two defragmentations of a member.", &u.DefragMinInterval),
		truth("upkeep-defrag-move-leader", upkeepSection, preset.DefragMoveLeader, "Hand leadership over before the leader is defragmented.", &u.DefragMoveLeader),
		truth("upkeep-defrag-compact-first", upkeepSection, preset.DefragCompactFirst, "Compact to what retention allows before members are defragmented.", &u.DefragCompactFirst),
		text("upkeep-window", upkeepSection, preset.Window, "When members may be defragmented, such as 'Mon-Fri 01:00-05:00 UTC; Sat,Sun 00:00-24:00'. Empty means any time.", &u.Window),
		span("upkeep-settle", upkeepSection, preset.Settle, "Rest between two pieces of maintenance, after which all members must be healthy.", &u.Settle),
		truth("auto-recover-nospace", upkeepSection, preset.RecoverNoSpace, "Get out of NOSPACE: compact, defragment, and lower the alarms when every member is below 90 % of its quota.", &u.RecoverNoSpace),
		whole("upkeep-recover-keep-revisions", upkeepSection, strconv.FormatInt(preset.RecoverKeepRevisions, 10), "Revisions that --auto-recover-nospace leaves where no retention is configured. 0 compacts nothing then.", &u.RecoverKeepRevisions),
		span("upkeep-check-interval", upkeepSection, preset.CheckInterval, "Time between two comparisons of what the members hold; one that differs is named and raises CORRUPT. 0 never.", &u.CheckInterval),
	}
	options = append(options, backupOptions(u, preset)...)
	for _, o := range options {
		o.own = true
	}
	return options
}

func backupOptions(u *Upkeep, preset Upkeep) []*option {
	return []*option{
		text("upkeep-backup-to", upkeepSection, "", "Repository to back the cluster up to: an absolute path that means the same directory on every member, or s3://bucket/prefix?endpoint=URL. Empty takes no backups.", &u.BackupTo),
		span("upkeep-backup-full-interval", upkeepSection, preset.BackupFullInterval, "Time between two full backups. 0 takes one only where no incremental one is possible.", &u.BackupFullInterval),
		span("upkeep-backup-incremental-interval", upkeepSection, preset.BackupIncrementalInterval, "Time between two backups of the history in between. 0 takes full ones only.", &u.BackupIncrementalInterval),
		text("upkeep-backup-window", upkeepSection, "", "When backups may be taken, as in --upkeep-window. Empty means any time.", &u.BackupWindow),
		whole("upkeep-backup-keep-count", upkeepSection, strconv.Itoa(preset.BackupKeepCount), "Full backups to keep, with what builds on them. 0 sets no limit.", &u.BackupKeepCount),
		span("upkeep-backup-keep-age", upkeepSection, 0, "How far back one can go at least; what is older than that needs goes. 0 sets no limit.", &u.BackupKeepAge),
		whole("upkeep-backup-keep-bytes", upkeepSection, "0", "How large the backups may be together. The newest good full one stays whatever its size. 0 sets no limit.", &u.BackupKeepBytes),
		truth("upkeep-backup-compress", upkeepSection, preset.BackupCompress, "Compress backups with zstd.", &u.BackupCompress),
		truth("upkeep-backup-verify", upkeepSection, preset.BackupVerify, "Restore full backups to a scratch directory, and compare hashes, before they count.", &u.BackupVerify),
	}
}

func (c *Config) checkUpkeep() error {
	u := &c.Upkeep
	var errs []error
	if _, err := rule.Parse(u.DefragRule); err != nil {
		errs = append(errs, fmt.Errorf("--upkeep-defrag-rule: %w", err))
	}
	if _, err := window.Parse(u.Window); err != nil {
		errs = append(errs, fmt.Errorf("--upkeep-window: %w", err))
	}
	if _, err := window.Parse(u.BackupWindow); err != nil {
		errs = append(errs, fmt.Errorf("--upkeep-backup-window: %w", err))
	}
	if u.BackupTo != "" && u.BackupFullInterval == 0 && u.BackupIncrementalInterval == 0 {
		errs = append(errs, errors.New("--upkeep-backup-to is given, but --upkeep-backup-full-interval and "+
			"--upkeep-backup-incremental-interval are both 0: set one of them"))
	}
	for _, limit := range []struct {
		flag string
		bad  bool
	}{
		{"upkeep-defrag-min-interval", u.DefragMinInterval < 0},
		{"upkeep-settle", u.Settle < 0},
		{"upkeep-check-interval", u.CheckInterval < 0},
		{"upkeep-backup-full-interval", u.BackupFullInterval < 0},
		{"upkeep-backup-incremental-interval", u.BackupIncrementalInterval < 0},
		{"upkeep-backup-keep-count", u.BackupKeepCount < 0},
		{"upkeep-backup-keep-age", u.BackupKeepAge < 0},
		{"upkeep-backup-keep-bytes", u.BackupKeepBytes < 0},
		{"upkeep-recover-keep-revisions", u.RecoverKeepRevisions < 0},
	} {
		if limit.bad {
			errs = append(errs, fmt.Errorf("--%s must not be negative", limit.flag))
		}
	}
	return errors.Join(errs...)
}
