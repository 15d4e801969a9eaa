package backup

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/upkeep-kv/upkeep/backend"
)

type nowhere struct{}

func (nowhere) entry(k, v []byte) error                     { return nil }
func (nowhere) beginTable(backend.Bucket) error             { return nil }
func (nowhere) row(b backend.Bucket, key, val []byte) error { return nil }

// FuzzHistory: an incremental backup is read or refused, be it damaged as a file or in a frame whose checksum is right.
func FuzzHistory(f *testing.F) {
	var whole bytes.Buffer
	w, err := newHistoryWriter(&whole)
	if err != nil {
		f.Fatal(err)
	}
	if err := w.entry([]byte("revision"), []byte("pair")); err != nil {
		f.Fatal(err)
	}
	if err := w.end(5); err != nil {
		f.Fatal(err)
	}
	f.Add(whole.Bytes(), byte(frameEntries), []byte{1, 'k', 1, 'v'})
	f.Add(whole.Bytes()[:20], byte(frameTable), []byte{5, 'l', 'e', 'a', 's', 'e', 1, 'k'})
	f.Add([]byte{}, byte(frameEnd), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, file []byte, kind byte, payload []byte) {
		_, _ = readHistory(bytes.NewReader(file), nowhere{})
		_, _, _ = readFrame(bufio.NewReader(bytes.NewReader(file)), 0)
		d := historyReader{sink: nowhere{}, seen: map[backend.Bucket]bool{}}
		if err := d.frame(kind, payload); err == nil && kind != frameEntries && kind != frameTable {
			t.Errorf("a frame of kind %q is taken", kind)
		}
		_, _ = d.end(payload)
	})
}

// FuzzManifest: a manifest that is taken can be written, and is taken again.
func FuzzManifest(f *testing.F) {
	const id = "20260102T030405Z-full-7-0123456789"
	f.Add([]byte(`{"format":1,"id":"` + id + `","kind":"full"}`))
	f.Add([]byte(`{"format":99}`))
	f.Add([]byte(`{"format":1,"cluster_id":"zz"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseManifest(id+manifestSuffix, text)
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil {
			return // a year that JSON has no word for
		}
		if _, err := parseManifest(id+manifestSuffix, again); err != nil {
			t.Errorf("%s became %s: %v", text, again, err)
		}
	})
}
