package config

import (
	"fmt"
	"strconv"
	"time"
)

// Modes of automatic compaction.
const (
	CompactPeriodic = "periodic"
	CompactRevision = "revision"
)

// Retention says how much history automatic compaction keeps: a Period in mode periodic, a number of Revisions in mode
// revision. Zero of both means that nothing is compacted by itself.
type Retention struct {
	Mode      string
	Period    time.Duration
	Revisions int64
}

// Enabled reports whether anything is to be compacted by itself.
func (r Retention) Enabled() bool { return r.Period > 0 || r.Revisions > 0 }

// ParseRetention reads --auto-compaction-mode and --auto-compaction-retention. A bare number means hours in mode
// periodic and revisions in mode revision; periodic also takes a duration such as 30m.
func ParseRetention(mode, retention string) (Retention, error) {
	r := Retention{Mode: mode}
	number, numberErr := strconv.ParseInt(retention, 10, 64)
	if retention == "" {
		number, numberErr = 0, nil
	}
	switch mode {
	case CompactRevision:
		if numberErr != nil || number < 0 {
			return r, fmt.Errorf("--auto-compaction-retention %q must be a number of revisions with --auto-compaction-mode=revision", retention)
		}
		r.Revisions = number
	case CompactPeriodic:
		if numberErr == nil {
			r.Period = time.Duration(number) * time.Hour
			if r.Period/time.Hour != time.Duration(number) {
				return r, fmt.Errorf("--auto-compaction-retention %q is out of range", retention)
			}
		} else {
			period, err := time.ParseDuration(retention)
			if err != nil {
				return r, fmt.Errorf("--auto-compaction-retention %q must be hours or a duration like 30m: %w", retention, err)
			}
			r.Period = period
		}
		if r.Period < 0 {
			return r, fmt.Errorf("--auto-compaction-retention %q must not be negative", retention)
		}
	default:
		return r, fmt.Errorf("unknown --auto-compaction-mode %q, supported values periodic, revision", mode)
	}
	return r, nil
}
