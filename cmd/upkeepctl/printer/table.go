package printer

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// tablePrinter draws a table for the few answers that are one.
type tablePrinter struct{ out io.Writer }

func (p *tablePrinter) Print(response any) error {
	var header string
	var rows [][]string
	switch r := response.(type) {
	case *clientv3.MemberListResponse:
		header = "ID|STATUS|NAME|PEER ADDRS|CLIENT ADDRS|IS LEARNER"
		for _, m := range r.Members {
			rows = append(rows, memberRow(m))
		}
	case Healths:
		header = "ENDPOINT|HEALTH|TOOK|ERROR"
		for _, h := range r {
			rows = append(rows, []string{h.Endpoint, fmt.Sprint(h.Health), h.Took, h.Error})
		}
	case Statuses:
		header = "ENDPOINT|ID|VERSION|STORAGE VERSION|DB SIZE|IN USE|PERCENTAGE NOT IN USE|QUOTA|IS LEADER|" +
			"IS LEARNER|RAFT TERM|RAFT INDEX|RAFT APPLIED INDEX|ERRORS|DOWNGRADE TARGET VERSION|DOWNGRADE ENABLED"
		for _, s := range r {
			rows = append(rows, statusRow(s))
		}
	case EndpointHashes:
		header = "ENDPOINT|HASH|HASH REVISION"
		for _, h := range r {
			rows = append(rows, endpointHashRow(h))
		}
	case SnapshotStatus:
		header = "HASH|REVISION|TOTAL KEYS|TOTAL SIZE|VERSION"
		rows = [][]string{snapshotRow(r)}
	case FileHash:
		header = "HASH|HASH REVISION|COMPACT REVISION"
		rows = [][]string{fileHashRow(r)}
	case Backups:
		header = backupHeader
		for _, m := range r {
			rows = append(rows, backupRow(m))
		}
	default:
		return notSupported("table")
	}
	_, err := io.WriteString(p.out, drawTable(strings.Split(header, "|"), rows))
	return err
}

// drawTable frames the cells: headers centred, cells right-aligned, one space
// of padding. A table without rows has no rule under its header.
func drawTable(header []string, rows [][]string) string {
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	rule := func(left, middle, right string) {
		lines := make([]string, len(widths))
		for i, width := range widths {
			lines[i] = strings.Repeat("─", width+2)
		}
		b.WriteString(left + strings.Join(lines, middle) + right + "\n")
	}
	line := func(cells []string, leftPad func(room int) int) {
		for i, cell := range cells {
			room := widths[i] - utf8.RuneCountInString(cell)
			left := leftPad(room)
			b.WriteString("│ " + strings.Repeat(" ", left) + cell + strings.Repeat(" ", room-left) + " ")
		}
		b.WriteString("│\n")
	}
	rule("┌", "┬", "┐")
	line(header, func(room int) int { return room / 2 })
	if len(rows) > 0 {
		rule("├", "┼", "┤")
	}
	for _, row := range rows {
		line(row, func(room int) int { return room })
	}
	rule("└", "┴", "┘")
	return b.String()
}
