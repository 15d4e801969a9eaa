package revision

import (
	"bytes"
	"testing"
)

// FuzzParseKey: bytes that are taken for a key are those that the key is written as.
func FuzzParseKey(f *testing.F) {
	f.Add(AppendKey(nil, Revision{Main: 5, Sub: 1}, false))
	f.Add(AppendKey(nil, Revision{Main: 1 << 40}, true))
	f.Add([]byte("_________________"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, deletion, err := ParseKey(b)
		if err == nil && !bytes.Equal(AppendKey(nil, r, deletion), b) {
			t.Errorf("%x is read as %v, %v", b, r, deletion)
		}
	})
}
