package window

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestWindows: `open` takes a window as its first line and then times; each is answered with open, or when it opens next.
// `mistakes` shows where each line is wrong.
func TestWindows(t *testing.T) {
	datadriven.RunTest(t, "testdata/windows.txt", func(t *testing.T, d *datadriven.TestData) string {
		lines := strings.Split(d.Input, "\n")
		var out strings.Builder
		switch d.Cmd {
		case "open":
			w, err := Parse(lines[0])
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			for _, line := range lines[1:] {
				at, err := time.Parse("Mon 2006-01-02 15:04 MST", line)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				if w.Open(at) {
					fmt.Fprintln(&out, "open")
				} else {
					fmt.Fprintln(&out, w.Next(at).UTC().Format("Mon 2006-01-02 15:04"))
				}
			}
		case "mistakes":
			for _, line := range lines {
				_, err := Parse(line)
				var fault *Error
				if !errors.As(err, &fault) {
					d.Fatalf(t, "%q: %v", line, err)
				}
				fmt.Fprintln(&out, fault.Pointed())
			}
		default:
			d.Fatalf(t, "unknown command %q, expected open or mistakes", d.Cmd)
		}
		return out.String()
	})
}

// Whenever a window opens next, it is open then and was not a minute before.
func FuzzParse(f *testing.F) {
	f.Add("Mon-Fri 01:00-05:00 UTC; Sat,Sun 00:00-24:00", uint16(0))
	f.Add("", uint16(0)) // any time
	f.Add("daily 22:00-02:00", uint16(700))
	f.Add("Sun 2:30-3:00 Europe/Berlin", uint16(10000))
	f.Fuzz(func(t *testing.T, text string, minutes uint16) {
		w, err := Parse(text)
		var fault *Error
		if errors.As(err, &fault) {
			if fault.Column < 1 || fault.Column > len(text)+1 {
				t.Fatalf("%q: column %d", text, fault.Column)
			}
			return
		}
		now := time.Date(2026, 11, 20, 0, int(minutes), 0, 0, time.UTC)
		next := w.Next(now)
		if !w.Open(next) || next.Before(now) || next.After(now.AddDate(0, 0, 8)) {
			t.Fatalf("%q at %v: next %v", text, now, next)
		}
	})
}
