package rule

import (
	"slices"
	"strings"
)

// Figures are what a rule is tried against. All are bytes; a Quota of 0 or less means that there is none.
type Figures struct {
	File, InUse, Quota, DiskFree int64
}

// dimension is what a figure is measured in.
type dimension int

const (
	bytesOf dimension = iota
	percentOf
)

// figure is one name that a rule may use.
type figure struct {
	name      string
	dimension dimension
	value     func(Figures) float64
}

// table lists the figures in the order in which messages name them.
func table() []figure {
	return []figure{
		{"free", bytesOf, func(f Figures) float64 { return float64(f.File - f.InUse) }},
		{"fragmented", percentOf, func(f Figures) float64 { return percent(f.File-f.InUse, f.File) }},
		{"file", bytesOf, func(f Figures) float64 { return float64(f.File) }},
		{"in_use", bytesOf, func(f Figures) float64 { return float64(f.InUse) }},
		{"quota", bytesOf, func(f Figures) float64 { return float64(max(0, f.Quota)) }},
		{"quota_used", percentOf, func(f Figures) float64 { return percent(f.File, f.Quota) }},
		{"quota_left", bytesOf, func(f Figures) float64 { return float64(max(0, f.Quota-f.File)) }},
		{"disk_free", bytesOf, func(f Figures) float64 { return float64(f.DiskFree) }},
	}
}

func percent(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

func lookUp(name string) (figure, bool) {
	all := table()
	at := slices.IndexFunc(all, func(f figure) bool { return f.name == name })
	if at < 0 {
		return figure{}, false
	}
	return all[at], true
}

// Names lists the figures that a rule may use.
func Names() []string {
	var out []string
	for _, f := range table() {
		out = append(out, f.name)
	}
	return out
}

func nameList() string { return strings.Join(Names(), ", ") }

// unit is one that an amount may have.
type unit struct {
	name      string
	dimension dimension
	factor    float64
}

func units() []unit {
	return []unit{
		{"%", percentOf, 1}, {"B", bytesOf, 1},
		{"KiB", bytesOf, 1 << 10}, {"MiB", bytesOf, 1 << 20}, {"GiB", bytesOf, 1 << 30}, {"TiB", bytesOf, 1 << 40},
		{"KB", bytesOf, 1e3}, {"MB", bytesOf, 1e6}, {"GB", bytesOf, 1e9}, {"TB", bytesOf, 1e12},
	}
}
