package revision

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"math/rand"
	"slices"
	"testing"
)

func TestEncoding(t *testing.T) {
	for _, c := range []struct {
		rev      Revision
		deletion bool
		want     string
	}{
		{Revision{}, false, "0000000000000000" + "5f" + "0000000000000000"},
		{Revision{2, 0}, false, "0000000000000002" + "5f" + "0000000000000000"},
		{Revision{3, 1}, true, "0000000000000003" + "5f" + "0000000000000001" + "74"},
		{Revision{math.MaxInt64, 258}, false, "7fffffffffffffff" + "5f" + "0000000000000102"},
	} {
		got := AppendKey(nil, c.rev, c.deletion)
		if hex.EncodeToString(got) != c.want {
			t.Errorf("AppendKey(%v, %v) = %x, want %s", c.rev, c.deletion, got, c.want)
		}
		rev, deletion, err := ParseKey(got)
		if err != nil || rev != c.rev || deletion != c.deletion {
			t.Errorf("ParseKey(%x) = %v, %v, %v; want %v, %v", got, rev, deletion, err, c.rev, c.deletion)
		}
	}
}

func TestParseKeyRefusesOtherBytes(t *testing.T) {
	good := AppendKey(nil, Revision{5, 6}, true)
	wrongMark, wrongSeparator := slices.Clone(good), slices.Clone(good)
	wrongMark[17], wrongSeparator[8] = 'u', '-'
	for _, b := range [][]byte{nil, good[:8], good[:16], append(slices.Clone(good), 't'), wrongMark, wrongSeparator, wrongSeparator[:17]} {
		if _, _, err := ParseKey(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("ParseKey(%x): %v, want ErrMalformed", b, err)
		}
	}
}

// Byte order of the encodings is the order of the revisions, with a deletion
// after the put of the same revision: cursors depend on it.
func TestByteOrderIsRevisionOrder(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	random := func() (Revision, bool) {
		return Revision{rng.Int63() >> uint(rng.Intn(63)), rng.Int63() >> uint(rng.Intn(63))}, rng.Intn(2) == 0
	}
	for range 10_000 {
		a, aDeletion := random()
		b, bDeletion := random()
		if rng.Intn(4) == 0 {
			b.Main = a.Main
		}
		want := a.Compare(b)
		if want == 0 && aDeletion != bDeletion {
			want = map[bool]int{true: 1, false: -1}[aDeletion]
		}
		if got := bytes.Compare(AppendKey(nil, a, aDeletion), AppendKey(nil, b, bDeletion)); got != want {
			t.Fatalf("%v(%v) against %v(%v): byte order %d, want %d", a, aDeletion, b, bDeletion, got, want)
		}
		if a.GreaterThan(b) != (a.Compare(b) > 0) || a.Compare(b) != -b.Compare(a) {
			t.Fatalf("Compare(%v, %v) is not an order", a, b)
		}
	}
}
