package backup_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/dustin/go-humanize"

	"github.com/upkeep-kv/upkeep/snapshot/backup"
)

// TestRetain runs the scripts in testdata/retain. A repository is described a line for each backup:
//
//	F1 full 10d 1GiB good          taken ten days ago, 1 GiB, verified (good), found damaged (bad), or neither
//	I2 of F1 9d 10MiB broken       an incremental one that continues F1; its data are missing
//
// and `retain count= age= bytes=` says what becomes of each.
func TestRetain(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	datadriven.RunTest(t, "testdata/retain", func(t *testing.T, d *datadriven.TestData) string {
		var retention backup.Retention
		for _, arg := range d.CmdArgs {
			var err error
			switch arg.Key {
			case "count":
				_, err = fmt.Sscan(arg.Vals[0], &retention.Count)
			case "age":
				retention.Age = age(t, arg.Vals[0])
			case "bytes":
				retention.Bytes = int64(size(t, arg.Vals[0]))
			default:
				d.Fatalf(t, "unknown argument %s", arg.Key)
			}
			must(t, err)
		}
		inventory, names := describe(t, now, d.Input)
		var out strings.Builder
		gone := map[string]bool{}
		for _, decision := range backup.Retain(inventory, now, retention) {
			what := "keep  "
			if decision.Remove {
				what = "remove"
				gone[decision.Backup.ID] = true
			} else if gone[decision.Backup.Parent] {
				t.Errorf("%s stays without what it continues", names[decision.Backup.ID])
			}
			reason := decision.Reason
			for id, name := range names {
				reason = strings.ReplaceAll(reason, id, name)
			}
			fmt.Fprintf(&out, "%s %s: %s\n", what, names[decision.Backup.ID], reason)
		}
		return out.String()
	})
}

func describe(t *testing.T, now time.Time, text string) (*backup.Inventory, map[string]string) {
	inventory := &backup.Inventory{Broken: map[string]bool{}}
	names := map[string]string{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 4 {
			t.Fatalf("line %q", line)
		}
		m := &backup.Manifest{ID: "id-" + words[0], Kind: backup.Full, ClusterID: 1}
		names[m.ID] = words[0]
		words = words[1:]
		if words[0] == "of" {
			m.Kind, m.Parent = backup.Incremental, "id-"+words[1]
			words = words[1:]
		}
		m.TakenAt = now.Add(-age(t, words[1]))
		m.Object.SizeBytes = int64(size(t, words[2]))
		for _, word := range words[3:] {
			switch word {
			case "good":
				m.Verification = &backup.Verification{}
			case "bad":
				m.Verification = &backup.Verification{Error: "bad"}
			case "broken":
				inventory.Broken[m.ID] = true
			case "other":
				m.ClusterID = 2
			default:
				t.Fatalf("word %q", word)
			}
		}
		inventory.Backups = append(inventory.Backups, m)
	}
	return inventory, names
}

func age(t *testing.T, text string) time.Duration {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		_, err := fmt.Sscan(days, &n)
		must(t, err)
		return time.Duration(n) * 24 * time.Hour
	}
	d, err := time.ParseDuration(text)
	must(t, err)
	return d
}

func size(t *testing.T, text string) uint64 {
	n, err := humanize.ParseBytes(text)
	must(t, err)
	return n
}
