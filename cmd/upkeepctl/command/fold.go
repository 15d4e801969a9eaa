package command

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// helpColumns is how wide the text of --help may be.
const helpColumns = 80

// foldHelp makes the help of all commands fit a terminal.
func foldHelp(root *cobra.Command) {
	write := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		var wide bytes.Buffer
		out := cmd.OutOrStdout()
		cmd.SetOut(&wide)
		write(cmd, args)
		cmd.SetOut(out)
		_, _ = io.WriteString(out, fold(wide.String())) // a terminal that is gone
	})
}

// described is a line that tells of a command or a flag: what it is called, a gap, and what it does.
var described = regexp.MustCompile(`^( +\S.*?   *)\S`)

// fold breaks lines at spaces where they are too long. What follows goes below the description, or, in other lines, a bit
// to the right of where the line began.
func fold(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if utf8.RuneCountInString(line) <= helpColumns {
			b.WriteString(line + "\n")
			continue
		}
		indent := len(line) - len(strings.TrimLeft(line, " "))
		hang := 0
		if indent > 0 {
			hang = indent + 4
		}
		start := indent
		if m := described.FindStringSubmatch(line); m != nil && len(m[1]) < helpColumns/2 {
			start, hang = len(m[1]), len(m[1])
		}
		b.WriteString(foldWords(line[:start], strings.Split(line[start:], " "), strings.Repeat(" ", hang)))
	}
	return b.String()
}

// foldWords writes words behind begin, and begins further lines with hang.
func foldWords(begin string, words []string, hang string) string {
	var b strings.Builder
	line, empty := begin, true
	for _, word := range words {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > helpColumns {
			b.WriteString(line + "\n")
			line, empty = hang, true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	return b.String() + line + "\n"
}
