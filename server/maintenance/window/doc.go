// Package window reads the times of the week at which maintenance may be done:
//
//	w, err := window.Parse("Mon-Fri 01:00-05:00 UTC; Sat,Sun 00:00-24:00")
//	w.Open(time.Date(2026, 11, 20, 2, 30, 0, 0, time.UTC))   // true: a Friday night
//	w.Next(now)                                              // when it opens next
//
// A window is one span or several, separated by semicolons. A span has days (daily, Mon, Mon-Fri, or a list with commas), a
// time of day from-to, and a time zone: UTC, which is the default, or a name of the time zone database such as
// Europe/Berlin. 22:00-02:00 goes on over midnight and belongs to the day on which it begins. The empty text is any time.
// A mistake is an [Error], which knows its column.
package window
