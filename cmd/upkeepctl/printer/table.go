package printer

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/term"
)

// tablePrinter draws a table for the few answers that are one.
type tablePrinter struct {
	out io.Writer
	// width of the terminal that is written to, in columns; 0 for anything else. A table that is wider is drawn with a
	// line for each field. What a script reads has the same form whatever terminal it is started from.
	width int
}

// terminalWidth is 0 where out is not a terminal.
func terminalWidth(out io.Writer) int {
	file, ok := out.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0
	}
	return width
}

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
	names := strings.Split(header, "|")
	drawn := drawTable(names, rows)
	if first, _, _ := strings.Cut(drawn, "\n"); p.width > 0 && utf8.RuneCountInString(first) > p.width && len(rows) > 0 {
		drawn = drawRecords(names, rows)
	}
	_, err := io.WriteString(p.out, drawn)
	return err
}

// drawRecords frames one row after the other, with a line for each field: names right-aligned, values left-aligned.
func drawRecords(names []string, rows [][]string) string {
	left, right := 0, 0
	for i, name := range names {
		left = max(left, utf8.RuneCountInString(name))
		for _, row := range rows {
			right = max(right, utf8.RuneCountInString(row[i]))
		}
	}
	var b strings.Builder
	rule := func(begin, middle, end string) {
		b.WriteString(begin + strings.Repeat("─", left+2) + middle + strings.Repeat("─", right+2) + end + "\n")
	}
	rule("┌", "┬", "┐")
	for i, row := range rows {
		if i > 0 {
			rule("├", "┼", "┤")
		}
		for j, value := range row {
			fmt.Fprintf(&b, "│ %*s │ %-*s │\n", left, names[j], right, value)
		}
	}
	rule("└", "┴", "┘")
	return b.String()
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
