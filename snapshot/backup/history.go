package backup

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/upkeep-kv/upkeep/backend"
)

// The content of an incremental backup, after decompression. Numbers are big-endian, varint is that of protobuf.
//
//	magic     8 bytes  "upkhist1"
//	frames    each
//	  kind    1 byte   'E' entries of bucket key, 'T' a table, 'Z' the end
//	  length  4 bytes  of the payload
//	  crc     4 bytes  CRC-32C over kind, length and payload
//	  payload
//
//	payload of E   records (varint length, key, varint length, value) of bucket key as they stand there, bit for bit:
//	               all of revisions after the parent, in ascending order
//	payload of T   varint length, name of the bucket, then records. A table that is long has several frames; one
//	               that is empty has one without records
//	payload of Z   8 bytes last revision, 8 bytes number of entries
//
// The entries come first, then the tables, then the end, behind which there is nothing. The tables are whole, as of the
// last revision: leases, users, roles, alarms and the version of the cluster are small and have no history.
const (
	historyMagic = "upkhist1"
	frameEntries = 'E'
	frameTable   = 'T'
	frameEnd     = 'Z'
	frameHeader  = 9
	// frameBytes is about how large frames get.
	frameBytes = 256 << 10
	// maxFrameBytes is refused by a reader: no record is larger than the largest request by much, and that is far less.
	maxFrameBytes = 1 << 30
)

// tables are the buckets that an incremental backup carries whole. Members are those of the cluster that is restored, and
// `meta` is about the log. Our own bucket stays that of the full backup: it knows revisions by time, and those after
// the full one may not exist once more after a restore.
var tables = []backend.Bucket{
	backend.Alarm, backend.Auth, backend.AuthRoles, backend.AuthUsers, backend.Cluster, backend.Lease,
}

func tableNamed(name []byte) (backend.Bucket, bool) {
	for _, b := range tables {
		if b.Name() == string(name) {
			return b, true
		}
	}
	return 0, false
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// historyWriter writes the content of an incremental backup.
type historyWriter struct {
	w       io.Writer
	kind    byte
	payload []byte
	table   backend.Bucket
	entries int64
}

func newHistoryWriter(w io.Writer) (*historyWriter, error) {
	_, err := io.WriteString(w, historyMagic)
	return &historyWriter{w: w}, err
}

func (h *historyWriter) flush() error {
	if h.kind == 0 {
		return nil
	}
	header := [frameHeader]byte{h.kind}
	binary.BigEndian.PutUint32(header[1:], uint32(len(h.payload)))
	sum := crc32.Update(crc32.Update(0, castagnoli, header[:5]), castagnoli, h.payload)
	binary.BigEndian.PutUint32(header[5:], sum)
	_, err := h.w.Write(header[:])
	if err == nil {
		_, err = h.w.Write(h.payload)
	}
	h.kind, h.payload = 0, h.payload[:0]
	return err
}

func (h *historyWriter) record(k, v []byte) error {
	h.payload = append(binary.AppendUvarint(h.payload, uint64(len(k))), k...)
	h.payload = append(binary.AppendUvarint(h.payload, uint64(len(v))), v...)
	if len(h.payload) < frameBytes {
		return nil
	}
	return h.flush()
}

func (h *historyWriter) entry(k, v []byte) error {
	h.kind = frameEntries
	h.entries++
	return h.record(k, v)
}

// beginTable must be called once for each table.
func (h *historyWriter) beginTable(b backend.Bucket) error {
	err := h.flush()
	h.table = b
	h.continueTable()
	return err
}

func (h *historyWriter) continueTable() {
	h.kind = frameTable
	h.payload = append(binary.AppendUvarint(h.payload, uint64(len(h.table.Name()))), h.table.Name()...)
}

func (h *historyWriter) row(k, v []byte) error {
	if h.kind == 0 {
		h.continueTable()
	}
	return h.record(k, v)
}

func (h *historyWriter) end(revision int64) error {
	if err := h.flush(); err != nil {
		return err
	}
	h.kind = frameEnd
	h.payload = binary.BigEndian.AppendUint64(h.payload, uint64(revision))
	h.payload = binary.BigEndian.AppendUint64(h.payload, uint64(h.entries))
	return h.flush()
}

// historySink is told what an incremental backup holds. Bytes are valid during the call.
type historySink interface {
	entry(k, v []byte) error
	beginTable(b backend.Bucket) error
	row(b backend.Bucket, k, v []byte) error
}

// readHistory reads the content to its end and returns the last revision. Errors: ErrDamaged, those of the sink and r.
func readHistory(r io.Reader, sink historySink) (revision int64, err error) {
	in := bufio.NewReaderSize(r, 64<<10)
	magic := make([]byte, len(historyMagic))
	if _, err := io.ReadFull(in, magic); err != nil {
		return 0, cutOff(err)
	}
	if string(magic) != historyMagic {
		return 0, fmt.Errorf("%w: it does not begin as an incremental backup does", ErrDamaged)
	}
	d := historyReader{sink: sink, seen: make(map[backend.Bucket]bool)}
	for offset := int64(len(historyMagic)); ; {
		kind, payload, err := readFrame(in, offset)
		if err != nil {
			return 0, err
		}
		offset += frameHeader + int64(len(payload))
		if kind == frameEnd {
			if _, err := in.ReadByte(); err != io.EOF {
				return 0, fmt.Errorf("%w: there is something behind its end", errors.Join(ErrDamaged, err))
			}
			return d.end(payload)
		}
		if err := d.frame(kind, payload); err != nil {
			return 0, err
		}
	}
}

func cutOff(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: it ends before its end mark", ErrDamaged)
	}
	return err
}

func readFrame(in *bufio.Reader, offset int64) (kind byte, payload []byte, err error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(in, header[:]); err != nil {
		return 0, nil, cutOff(err)
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length > maxFrameBytes {
		return 0, nil, fmt.Errorf("%w: frame at byte %d: length %d", ErrDamaged, offset, length)
	}
	// Grown as it is read, so that a damaged length cannot ask for memory that the data do not fill.
	var buffer bytes.Buffer
	if _, err := io.CopyN(&buffer, in, int64(length)); err != nil {
		return 0, nil, cutOff(err)
	}
	payload = buffer.Bytes()
	if sum := crc32.Update(crc32.Update(0, castagnoli, header[:5]), castagnoli, payload); sum != binary.BigEndian.Uint32(header[5:]) {
		return 0, nil, fmt.Errorf("%w: frame at byte %d: wrong checksum", ErrDamaged, offset)
	}
	return header[0], payload, nil
}

type historyReader struct {
	sink    historySink
	entries int64
	seen    map[backend.Bucket]bool
}

func (d *historyReader) frame(kind byte, payload []byte) error {
	switch kind {
	case frameEntries:
		return records(payload, func(k, v []byte) error {
			d.entries++
			return d.sink.entry(k, v)
		})
	case frameTable:
		name, rest, ok := cutBytes(payload)
		bucket, known := tableNamed(name)
		if !ok || !known {
			return fmt.Errorf("%w: table %q is not known", ErrDamaged, name)
		}
		if !d.seen[bucket] {
			d.seen[bucket] = true
			if err := d.sink.beginTable(bucket); err != nil {
				return err
			}
		}
		return records(rest, func(k, v []byte) error { return d.sink.row(bucket, k, v) })
	}
	return fmt.Errorf("%w: frame of unknown kind %q", ErrDamaged, kind)
}

func (d *historyReader) end(payload []byte) (revision int64, err error) {
	if len(payload) != 16 {
		return 0, fmt.Errorf("%w: end mark of %d bytes", ErrDamaged, len(payload))
	}
	if entries := int64(binary.BigEndian.Uint64(payload[8:])); entries != d.entries {
		return 0, fmt.Errorf("%w: %d entries instead of %d", ErrDamaged, d.entries, entries)
	}
	return int64(binary.BigEndian.Uint64(payload)), nil
}

func records(payload []byte, fn func(k, v []byte) error) error {
	for len(payload) > 0 {
		k, rest, ok := cutBytes(payload)
		v, rest, ok2 := cutBytes(rest)
		if !ok || !ok2 {
			return fmt.Errorf("%w: a record is cut off", ErrDamaged)
		}
		if err := fn(k, v); err != nil {
			return err
		}
		payload = rest
	}
	return nil
}

func cutBytes(b []byte) (field, rest []byte, ok bool) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)-used) {
		return nil, nil, false
	}
	return b[used : used+int(n)], b[used+int(n):], true
}
