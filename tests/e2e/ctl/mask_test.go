package ctl

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	logLine = regexp.MustCompile(`(?m)^(\{"level":.*|20\d\d-\d\d-\d\dT\S+\s(info|warn)\s.*)\n?`)
	// etcdctl asks stty to hide passwords, in vain where there is no terminal
	stty = regexp.MustCompile(`(?m)^stty: .*\n`)
	// address of a server, and the parts of a key in a queue that differ: as text, as hexadecimal, base64 or number
	address  = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	queueKey = regexp.MustCompile(`(/[0-9a-f]{15,16}|(\\x3[0-9]|\\x6[1-6]){15,16}|"key":"[^"]*"|evision" ?: ?\d+|ease" ?: ?\d+| \d+\n)`)
	// progress of a check, which upkeepctl shows on terminals only, and what it finds
	progress = regexp.MustCompile(`\d+ / \d+ \[[^\]]*\] [\d.]+% \S+ p/s\s*`)
	memory   = regexp.MustCompile(`used : -?[\d.]+ MB`)
	duration = regexp.MustCompile(`\b\d+(\.\d+)?(µs|ms|s)\b`)
	// remaining is what is left of a lease of 300 or 400 s, however slow the machine
	remaining = regexp.MustCompile(`(?i)("ttl" ?: ?)([12]\d\d|3(0[1-9]|[1-9]\d))\b`)
	paddedID  = regexp.MustCompile(` +<id>`)
	ruler     = regexp.MustCompile(`─+`)
	blanks    = regexp.MustCompile(` +`)
	program   = regexp.MustCompile(`\b(etcdctl|etcdutl|upkeepctl)\b`)
)

// mask replaces what differs between two runs by nature: log lines of the
// client, the name of the program, the working directory, and IDs that the
// server made up from the clock, in decimal as well as in hexadecimal.
func (s *session) mask(text string) string {
	text = logLine.ReplaceAllString(text, "")
	text = memory.ReplaceAllString(progress.ReplaceAllString(text, ""), "used : <memory>")
	text = stty.ReplaceAllString(text, "")
	text = strings.ReplaceAll(text, s.dir, "<DIR>")
	text = program.ReplaceAllString(text, "<tool>")
	text = remaining.ReplaceAllString(text, "$1<remaining>")
	for _, id := range s.everSeen {
		text = strings.ReplaceAll(text, id, "<id>")
		if number, err := strconv.ParseUint(id, 16, 64); err == nil {
			text = strings.ReplaceAll(text, strconv.FormatUint(number, 10), "<id>")
			text = strings.ReplaceAll(text, strconv.FormatUint(number, 16), "<id>")
		}
	}
	return paddedID.ReplaceAllString(text, " <id>") // IDs are padded to 16 digits
}

// unordered sorts the parts of an answer about members, who come in the order
// of IDs that the server made up.
func unordered(text string) string {
	parts := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune("\n,{}[]\"", r) })
	slices.Sort(parts)
	return strings.Join(parts, "\n")
}

// maskTimes hides durations, and the width of tables that show them.
func maskTimes(text string) string {
	if !duration.MatchString(text) {
		return text
	}
	text = duration.ReplaceAllString(text, "<took>")
	text = ruler.ReplaceAllString(text, "─")
	return blanks.ReplaceAllString(text, " ")
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

func maskAddress(text string) string { return address.ReplaceAllString(text, "<address>") }

func maskQueue(text string) string { return queueKey.ReplaceAllString(text, "<queue>") }
