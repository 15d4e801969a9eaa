package window

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // names of time zones mean the same on every member
)

// Window is a set of spans of the week. The zero value is any time.
type Window struct {
	text  string
	spans []span
}

// span is one time of day on some days of the week.
type span struct {
	days     [7]bool // by time.Weekday
	from, to int     // minutes; to is larger than from, and more than a day's for a span over midnight
	zone     *time.Location
}

// Error is a mistake in a window.
type Error struct {
	Window string
	// Column of the mistake in bytes, counted from 1.
	Column  int
	Message string
}

func (e *Error) Error() string {
	return fmt.Sprintf("window %q, column %d: %s", e.Window, e.Column, e.Message)
}

// Pointed shows the place: the window, and below it a caret and what is wrong.
func (e *Error) Pointed() string {
	return e.Window + "\n" + strings.Repeat(" ", e.Column-1) + "^ " + e.Message
}

func (w Window) String() string { return w.text }

// minutesOfDay is how long most days are.
const minutesOfDay = 24 * 60

// Open tells whether t lies inside.
func (w Window) Open(t time.Time) bool {
	if len(w.spans) == 0 {
		return true
	}
	for _, s := range w.spans {
		// Yesterday's may still be open.
		for day := -1; day <= 0; day++ {
			if from, to, ok := s.on(t, day); ok && !t.Before(from) && t.Before(to) {
				return true
			}
		}
	}
	return false
}

// Next returns when the window opens next after t, t itself if it is open.
func (w Window) Next(t time.Time) time.Time {
	if w.Open(t) {
		return t
	}
	var next time.Time
	for _, s := range w.spans {
		for day := 0; day <= 7; day++ {
			if from, _, ok := s.on(t, day); ok && from.After(t) {
				if next.IsZero() || from.Before(next) {
					next = from
				}
				break
			}
		}
	}
	return next
}

// on is the span of the day that is so many days after the one of t.
func (s span) on(t time.Time, days int) (from, to time.Time, ok bool) {
	t = t.In(s.zone)
	y, m, d := t.Date()
	midnight := time.Date(y, m, d+days, 0, 0, 0, 0, s.zone)
	if !s.days[midnight.Weekday()] {
		return time.Time{}, time.Time{}, false
	}
	y, m, d = midnight.Date()
	at := func(minutes int) time.Time { return time.Date(y, m, d, 0, minutes, 0, 0, s.zone) }
	return at(s.from), at(s.to), true
}

// Parse reads a window. Its errors are of type *Error.
func Parse(text string) (Window, error) {
	w := Window{text: strings.TrimSpace(text)}
	if w.text == "" {
		return w, nil
	}
	at := 0
	for part := range strings.SplitSeq(text, ";") {
		s, err := parseSpan(text, at, part)
		if err != nil {
			return Window{}, err
		}
		w.spans = append(w.spans, s)
		at += len(part) + 1
	}
	return w, nil
}

// field is one word of a span and where it begins in the whole text.
type field struct {
	text string
	at   int
}

func fields(part string, at int) []field {
	var out []field
	for len(part) > 0 {
		trimmed := strings.TrimLeft(part, " \t")
		at += len(part) - len(trimmed)
		word := trimmed
		if i := strings.IndexAny(trimmed, " \t"); i >= 0 {
			word = trimmed[:i]
		}
		if word != "" {
			out = append(out, field{word, at})
		}
		part, at = trimmed[len(word):], at+len(word)
	}
	return out
}

func parseSpan(text string, at int, part string) (span, error) {
	fault := func(at int, format string, args ...any) error {
		return &Error{Window: text, Column: at + 1, Message: fmt.Sprintf(format, args...)}
	}
	words := fields(part, at)
	if len(words) < 2 {
		return span{}, fault(at+len(part), `expected days and a time, such as "Mon-Fri 01:00-05:00 UTC" or "daily 02:00-04:00"`)
	}
	s := span{zone: time.UTC}
	if err := s.parseDays(words[0], fault); err != nil {
		return span{}, err
	}
	if err := s.parseTimes(words[1], fault); err != nil {
		return span{}, err
	}
	if len(words) > 3 {
		return span{}, fault(words[3].at, "%q is one word too many; spans are separated by ;", words[3].text)
	}
	if len(words) == 3 {
		name := words[2].text
		zone, err := time.LoadLocation(name)
		if err != nil || name == "Local" {
			return span{}, fault(words[2].at, "%q is no time zone that this machine knows; use UTC or a name such as Europe/Berlin", name)
		}
		s.zone = zone
	}
	return s, nil
}

type faultFunc func(at int, format string, args ...any) error

func weekday(name string) (time.Weekday, bool) {
	for day := time.Sunday; day <= time.Saturday; day++ {
		if strings.EqualFold(name, day.String()[:3]) || strings.EqualFold(name, day.String()) {
			return day, true
		}
	}
	return 0, false
}

func (s *span) parseDays(f field, fault faultFunc) error {
	if strings.EqualFold(f.text, "daily") {
		s.days = [7]bool{true, true, true, true, true, true, true}
		return nil
	}
	at := f.at
	for part := range strings.SplitSeq(f.text, ",") {
		first, last, ranged := strings.Cut(part, "-")
		from, ok := weekday(first)
		if !ok {
			return fault(at, "%q is no day; expected daily, or Mon, Tue, Wed, Thu, Fri, Sat, Sun", first)
		}
		to := from
		if ranged {
			if to, ok = weekday(last); !ok {
				return fault(at+len(first)+1, "%q is no day; expected Mon, Tue, Wed, Thu, Fri, Sat, Sun", last)
			}
		}
		for day := from; ; day = (day + 1) % 7 {
			s.days[day] = true
			if day == to {
				break
			}
		}
		at += len(part) + 1
	}
	return nil
}

func (s *span) parseTimes(f field, fault faultFunc) error {
	first, last, ok := strings.Cut(f.text, "-")
	if !ok {
		return fault(f.at, "%q is no time of day; expected one like 01:00-05:00", f.text)
	}
	var good bool
	if s.from, good = minutes(first); !good || s.from == minutesOfDay {
		return fault(f.at, "%q is no time; expected one like 01:00", first)
	}
	if s.to, good = minutes(last); !good {
		return fault(f.at+len(first)+1, "%q is no time; expected one like 05:00, 24:00 at most", last)
	}
	if s.to == s.from {
		return fault(f.at, "%s is no time at all; the whole day is 00:00-24:00", f.text)
	}
	if s.to < s.from {
		s.to += minutesOfDay
	}
	return nil
}

// minutes reads hh:mm, up to 24:00.
func minutes(text string) (int, bool) {
	hours, rest, ok := strings.Cut(text, ":")
	h, err := strconv.ParseUint(hours, 10, 8)
	m, err2 := strconv.ParseUint(rest, 10, 8)
	if !ok || err != nil || err2 != nil || len(rest) != 2 || m > 59 || h*60+m > minutesOfDay {
		return 0, false
	}
	return int(h*60 + m), true
}
