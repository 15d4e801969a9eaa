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
}

func defaultUpkeep() Upkeep {
	return Upkeep{Defrag: true, DefragRule: DefaultDefragRule, DefragMinInterval: time.Hour, Settle: 10 * time.Second, CheckInterval: 24 * time.Hour}
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
	for _, o := range options {
		o.own = true
	}
	return options
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
	for _, limit := range []struct {
		flag string
		bad  bool
	}{
		{"upkeep-defrag-min-interval", u.DefragMinInterval < 0},
		{"upkeep-settle", u.Settle < 0},
		{"upkeep-check-interval", u.CheckInterval < 0},
		{"upkeep-recover-keep-revisions", u.RecoverKeepRevisions < 0},
	} {
		if limit.bad {
			errs = append(errs, fmt.Errorf("--%s must not be negative", limit.flag))
		}
	}
	return errors.Join(errs...)
}
