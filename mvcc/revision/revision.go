package revision

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
)

// Layout of an encoded revision:
//
//	offset  0        8    9        17
//	        | main BE| _  | sub BE | [t]
const (
	// Len is the encoded length of a put, in bytes.
	Len = 17
	// TombstoneLen is the encoded length of a deletion, in bytes.
	TombstoneLen = Len + 1

	separator = '_'
	tombstone = 't'
)

// ErrMalformed is returned by ParseKey for bytes that are not an encoded revision.
var ErrMalformed = errors.New("revision: malformed key")

// Revision identifies one change: the transaction (Main, starting at 1 for the
// empty store) and the position of the change within it (Sub, starting at 0).
type Revision struct {
	Main int64
	Sub  int64
}

// Compare orders revisions by time: -1 if r is older than o, 0 if they are the
// same, +1 if r is newer.
func (r Revision) Compare(o Revision) int {
	if c := cmp.Compare(r.Main, o.Main); c != 0 {
		return c
	}
	return cmp.Compare(r.Sub, o.Sub)
}

// GreaterThan reports whether r is newer than o.
func (r Revision) GreaterThan(o Revision) bool { return r.Compare(o) > 0 }

func (r Revision) String() string { return fmt.Sprintf("%d/%d", r.Main, r.Sub) }

// AppendKey appends the encoding of r to dst: Len bytes, or TombstoneLen for a
// deletion.
func AppendKey(dst []byte, r Revision, deletion bool) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Main))
	dst = append(dst, separator)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Sub))
	if deletion {
		dst = append(dst, tombstone)
	}
	return dst
}

// ParseKey is the inverse of AppendKey. It does not keep b.
func ParseKey(b []byte) (r Revision, deletion bool, err error) {
	switch {
	case len(b) == Len && b[8] == separator:
	case len(b) == TombstoneLen && b[8] == separator && b[Len] == tombstone:
		deletion = true
	default:
		return Revision{}, false, fmt.Errorf("%w: %x", ErrMalformed, b)
	}
	r.Main = int64(binary.BigEndian.Uint64(b))
	r.Sub = int64(binary.BigEndian.Uint64(b[9:]))
	return r, deletion, nil
}
