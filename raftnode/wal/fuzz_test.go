package wal

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/walpb"
)

// segmentBytes is the content of the only segment of a new log.
func segmentBytes(f *testing.F) []byte {
	disk := vfs.NewMem()
	id := uint64(7)
	if err := Bootstrap(disk, "wal", &walpb.Metadata{NodeID: &id, ClusterID: &id}, BootstrapState{}); err != nil {
		f.Fatal(err)
	}
	content, err := vfs.ReadFile(disk, "wal/"+segment{}.name())
	if err != nil {
		f.Fatal(err)
	}
	return content[:min(len(content), 512)]
}

// FuzzSegment: whatever stands in a segment, it is a log, a log with a torn tail, or corruption that is named. A log that
// was repaired is whole.
func FuzzSegment(f *testing.F) {
	whole := segmentBytes(f)
	f.Add(whole)
	f.Add(whole[:len(whole)/3])
	f.Add([]byte{})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, content []byte) {
		open(t, content)
	})
}

// FuzzRecord: the same for one record behind a good beginning, whose checksum is right.
func FuzzRecord(f *testing.F) {
	whole := segmentBytes(f)
	for typ := TypeMetadata; typ <= TypeSnapshot; typ++ {
		f.Add(byte(typ), []byte{0x08, 1, 0x10, 1, 0x18, 1})
		f.Add(byte(typ), []byte{})
	}
	f.Fuzz(func(t *testing.T, typ byte, data []byte) {
		d := &decoder{seg: whole}
		for {
			if _, err := d.next(); err != nil {
				break
			}
		}
		e := &encoder{crc: d.crc}
		e.record(RecordType(typ), data, nil)
		open(t, append(whole[:d.off:d.off], e.buf...))
	})
}

func open(t *testing.T, content []byte) {
	disk := vfs.NewMem()
	if err := disk.MkdirAll("wal", 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("wal", segment{}.name())
	if err := writeDurably(disk, "wal", "0"+tempSuffix, path, content); err != nil {
		t.Fatal(err)
	}
	w, _, err := Open(disk, "wal")
	if err != nil {
		return // a hole, damage, or no log at all: told, and nothing was changed
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(disk, "wal"); err != nil && !errors.Is(err, ErrNotFound) {
		t.Errorf("what was opened and repaired cannot be read: %v", err)
	}
}
