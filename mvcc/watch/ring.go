package watch

// ring is a queue of entries in a circular buffer that grows as needed.
type ring struct {
	buf   []entry // length is 0 or a power of two
	head  int
	count int
}

func (r *ring) len() int { return r.count }

func (r *ring) push(e entry) {
	if r.count == len(r.buf) {
		grown := make([]entry, max(4, 2*len(r.buf)))
		n := copy(grown, r.buf[r.head:])
		copy(grown[n:], r.buf[:r.head])
		r.buf, r.head = grown, 0
	}
	r.buf[(r.head+r.count)&(len(r.buf)-1)] = e
	r.count++
}

func (r *ring) pop() (e entry, ok bool) {
	if r.count == 0 {
		return entry{}, false
	}
	e, r.buf[r.head] = r.buf[r.head], entry{}
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.count--
	return e, true
}

// trim gives the buffer back if it is empty and larger than keep entries.
func (r *ring) trim(keep int) {
	if r.count == 0 && len(r.buf) > keep {
		r.buf, r.head = nil, 0
	}
}
