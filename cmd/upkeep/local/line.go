package local

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// palette colours text, or does not.
type palette struct{ on bool }

const (
	styleDim    = "2"
	styleBold   = "1"
	styleRed    = "31"
	styleYellow = "33"
)

// memberStyles are told apart on dark and on light terminals.
var memberStyles = [...]string{"36", "35", "32", "34", "33", "96", "95", "92", "94"}

func (p palette) paint(style, text string) string {
	if !p.on || text == "" {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// member is how lines of the member with this number begin.
func (p palette) member(number int, name string) string {
	return p.paint(memberStyles[(number-1)%len(memberStyles)], name+" │")
}

// shorten turns one line of a member's log into one that can be read while it runs by:
//
//	{"level":"warn","ts":"2026-01-02T10:04:05.123456Z","caller":"x/y.go:1","msg":"slow fdatasync","took":"1.2s"}
//	10:04:05.123 WARN slow fdatasync  took=1.2s
//
// What is not a log line stays as it is.
func shorten(p palette, line string) string {
	fields, ok := orderedFields(line)
	if !ok {
		return line
	}
	var clock, level, message, logger string
	var rest strings.Builder
	for _, f := range fields {
		switch f.name {
		case "ts":
			clock = shortTime(f.value)
		case "level":
			level = f.value
		case "msg":
			message = f.value
		case "logger":
			logger = f.value + ": "
		case "caller", "stacktrace":
		default:
			rest.WriteString(" " + f.name + "=" + shortValue(f.value))
		}
	}
	details := rest.String()
	switch level {
	case "info":
		level, details = "", cut(details, mostDetails)
	case "debug":
		level = "DEBUG "
	case "warn":
		level = p.paint(styleYellow, "WARN ")
	default:
		level = p.paint(styleRed, strings.ToUpper(level)+" ")
	}
	return p.paint(styleDim, clock) + " " + level + logger + message + p.paint(styleDim, details)
}

// Bytes of one value, and of all values of a line that reports nothing wrong.
const (
	mostOfValue = 200
	mostDetails = 240
)

func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

type field struct{ name, value string }

// orderedFields reads a JSON object that has a message, keeping the order of its fields.
func orderedFields(line string) ([]field, bool) {
	decoder := json.NewDecoder(strings.NewReader(line))
	decoder.UseNumber()
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return nil, false
	}
	var fields []field
	hasMessage := false
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, false
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, false
		}
		f := field{name: fmt.Sprint(name), value: string(value)}
		var text string
		if json.Unmarshal(value, &text) == nil {
			f.value = text
		}
		hasMessage = hasMessage || f.name == "msg"
		fields = append(fields, f)
	}
	return fields, hasMessage
}

func shortTime(ts string) string {
	t, err := time.Parse("2006-01-02T15:04:05.000000Z0700", ts)
	if err != nil {
		return ts
	}
	return t.Local().Format("15:04:05.000")
}

// shortValue quotes what contains blanks and cuts what would fill the screen.
func shortValue(value string) string {
	value = strings.ReplaceAll(cut(value, mostOfValue), "\n", "⏎")
	if strings.HasPrefix(value, "[") || strings.HasPrefix(value, "{") {
		var compact bytes.Buffer
		if json.Compact(&compact, []byte(value)) == nil {
			value = compact.String()
		}
		return value
	}
	if value == "" || strings.ContainsAny(value, " \"") {
		return fmt.Sprintf("%q", value)
	}
	return value
}
