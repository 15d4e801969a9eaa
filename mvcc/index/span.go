package index

import "unsafe"

// Span is what is left to visit of a range of keys. It aliases the byte slices
// it was made from, which must not change while it is in use.
type Span struct {
	next      string // first key not visited yet
	end       string // first key after the range
	unbounded bool   // no end
	done      bool
}

// NewSpan returns the range that key and end mean in a request: an empty end is
// key alone, a single zero byte is everything from key on, anything else is the
// half-open interval, which is empty if end is not above key.
func NewSpan(key, end []byte) Span {
	switch {
	case len(end) == 0:
		// The smallest string above key.
		return Span{next: alias(key), end: string(key) + "\x00"}
	case len(end) == 1 && end[0] == 0:
		return Span{next: alias(key), unbounded: true}
	default:
		return Span{next: alias(key), end: alias(end)}
	}
}

// Done reports whether the whole range has been visited.
func (s *Span) Done() bool { return s.done }

// past reports whether key lies after the range.
func (s *Span) past(key string) bool { return !s.unbounded && key >= s.end }

// alias returns b as a string without copying it.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
