package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
)

// results holds the measurements of all rounds in the order rows first came up.
type results struct {
	order  []rowMetric
	values map[rowMetric]map[string][]float64 // by server
}

type rowMetric struct{ row, metric string }

func newResults() *results { return &results{values: map[rowMetric]map[string][]float64{}} }

func (r *results) add(server, row, metric string, value float64) {
	key := rowMetric{row, metric}
	if r.values[key] == nil {
		r.values[key] = map[string][]float64{}
		r.order = append(r.order, key)
	}
	r.values[key][server] = append(r.values[key][server], value)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// markdown is a table of medians, with the ratio of the second server to the
// first and which of them is the better one.
func (r *results) markdown(o *options) string {
	first, second := o.servers[0].name, o.servers[1].name
	table := [][]string{{"workload", "metric", first, second, second + "/" + first, "better"}}
	previous := ""
	for _, key := range r.order {
		a, b := median(r.values[key][first]), median(r.values[key][second])
		ratio := medianRatio(r.values[key][first], r.values[key][second])
		row := key.row
		if row == previous {
			row = "" // once per workload is enough
		}
		previous = key.row
		table = append(table, []string{row, key.metric, number(a), number(b), number(ratio), o.better(key.metric, ratio)})
	}
	return renderMarkdown(table)
}

// Targets of what may be felt of maintenance.
const (
	targetShare     = 1.5
	targetLongestMs = 20
)

// felt is a table of what each kind of maintenance does to requests: p99 against that of the same load without it, and the
// longest wait. It is empty without such rows.
func (r *results) felt(o *options) string {
	table := [][]string{{"maintenance", "request"}}
	for _, server := range o.servers {
		table[0] = append(table[0], server.name+" p99 / p99 without", server.name+" longest ms", "within the targets")
	}
	for _, key := range r.order {
		kind, isP99 := strings.CutSuffix(key.metric, " p99 ms")
		_, of, sized := strings.Cut(key.row, ", ")
		if !isP99 || !sized || strings.HasPrefix(key.row, withoutMaintenance) {
			continue
		}
		without := rowMetric{withoutMaintenance + ", " + of, key.metric}
		if r.values[without] == nil {
			continue
		}
		line := []string{key.row, kind}
		for _, server := range o.servers {
			share := medianRatio(r.values[without][server.name], r.values[key][server.name])
			longest := median(r.values[rowMetric{key.row, kind + " longest ms"}][server.name])
			verdict := "no"
			if share <= targetShare && longest < targetLongestMs {
				verdict = "yes"
			}
			line = append(line, number(share), number(longest), verdict)
		}
		table = append(table, line)
	}
	if len(table) == 1 {
		return ""
	}
	return fmt.Sprintf("\nThe targets are a p99 of at most %.1f times that without maintenance, and no wait of %d ms or more.\n\n%s",
		targetShare, targetLongestMs, renderMarkdown(table))
}

// evenWithin is the ratio that rounds of the same server differ by anyway.
const evenWithin = 1.05

func (o *options) better(metric string, ratio float64) string {
	switch {
	case !(ratio > 0) || max(ratio, 1/ratio) < evenWithin:
		return "even"
	case (ratio > 1) == higherIsBetter(metric):
		return o.servers[1].name
	default:
		return o.servers[0].name
	}
}

// medianRatio is the median of b/a of each round, which what happened to both
// in a round does not change.
func medianRatio(a, b []float64) float64 {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		ratios = append(ratios, b[i]/a[i])
	}
	return median(ratios)
}

// number shows three digits or all before the point.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func renderMarkdown(table [][]string) string {
	widths := make([]int, len(table[0]))
	for _, row := range table {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var out bytes.Buffer
	for n, row := range table {
		for i, cell := range row {
			if i < 2 {
				fmt.Fprintf(&out, "| %-*s ", widths[i], cell)
			} else {
				fmt.Fprintf(&out, "| %*s ", widths[i], cell)
			}
		}
		out.WriteString("|\n")
		if n > 0 {
			continue
		}
		for i, width := range widths {
			if i < 2 {
				out.WriteString("|" + strings.Repeat("-", width+2))
			} else {
				out.WriteString("|" + strings.Repeat("-", width+1) + ":")
			}
		}
		out.WriteString("|\n")
	}
	return out.String()
}
