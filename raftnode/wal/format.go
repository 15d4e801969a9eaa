package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"
)

// A segment is a sequence of frames:
//
//	0        8                8+n      8+n+p
//	| length |     record     |  zeroes  |
//
//	length  8 bytes, little endian. The low 56 bits are n, the size of the record. If the record is padded, the top byte
//	        is 0x80 | p. A length of zero ends the log.
//	record  protobuf: type (1) varint, crc (2) varint, data (3) bytes. A crc record has no data if it opens a segment.
//	        Before a write that follows a sync it has 16 bytes (ours; etcd reads over them): a nonce that the log keeps
//	        for life and the offset of the frame, both little endian. A value of a client's that holds a piece of a log
//	        is told from the log itself by them. The checksum does not run over them.
//	p       0 to 7, so that frames start at multiples of 8 and no length straddles a disk sector.

// RecordType says what a record's data is.
type RecordType int64

// The types of etcd's log.
const (
	TypeMetadata RecordType = 1 // walpb.Metadata
	TypeEntry    RecordType = 2 // raftpb.Entry
	TypeState    RecordType = 3 // raftpb.HardState
	TypeCRC      RecordType = 4 // none
	TypeSnapshot RecordType = 5 // walpb.Snapshot
)

const (
	lengthBytes = 8
	sectorBytes = 512
	pageBytes   = 4096
	sizeMask    = 1<<56 - 1
	markBytes   = 16
)

// castagnoli is a constant table: read only.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encoder appends frames to a buffer and keeps the running checksum.
type encoder struct {
	crc uint32
	buf []byte
	// scratch holds the fields of an entry in front of its data.
	scratch [48]byte
}

// crcRecord restates the running checksum.
func (e *encoder) crcRecord() {
	e.begin(TypeCRC, -1)
}

// mark restates the running checksum at an offset of the segment, in front of what follows a sync.
func (e *encoder) mark(nonce uint64, offset int64) {
	pad := e.begin(TypeCRC, markBytes)
	e.buf = binary.LittleEndian.AppendUint64(e.buf, nonce)
	e.buf = binary.LittleEndian.AppendUint64(e.buf, uint64(offset))
	e.buf = append(e.buf, zeroes[:pad]...)
}

// record appends a record whose data comes in two parts, to spare the caller joining them.
func (e *encoder) record(typ RecordType, head, tail []byte) {
	e.crc = crc32.Update(e.crc, castagnoli, head)
	e.crc = crc32.Update(e.crc, castagnoli, tail)
	pad := e.begin(typ, len(head)+len(tail))
	e.buf = append(e.buf, head...)
	e.buf = append(e.buf, tail...)
	e.buf = append(e.buf, zeroes[:pad]...)
}

var zeroes [lengthBytes]byte

// begin appends the length and the record's fields up to its data, and returns how much padding has to follow the
// data. A negative size stands for a record without data, which is padded here.
func (e *encoder) begin(typ RecordType, dataSize int) int {
	n := 1 + 1 + 1 + uvarintSize(uint64(e.crc))
	if dataSize >= 0 {
		n += 1 + uvarintSize(uint64(dataSize)) + dataSize
	}
	pad := -n & 7
	length := uint64(n)
	if pad != 0 {
		length |= uint64(0x80|pad) << 56
	}
	e.buf = binary.LittleEndian.AppendUint64(e.buf, length)
	e.buf = append(e.buf, 0x08, byte(typ), 0x10)
	e.buf = binary.AppendUvarint(e.buf, uint64(e.crc))
	if dataSize < 0 {
		e.buf = append(e.buf, zeroes[:pad]...)
		return 0
	}
	e.buf = append(e.buf, 0x1a)
	e.buf = binary.AppendUvarint(e.buf, uint64(dataSize))
	return pad
}

// entry appends an entry. Fields that are nil are left out, as protobuf does with optional fields.
func (e *encoder) entry(ent *raftpb.Entry) {
	head := e.scratch[:0]
	if ent.Type != nil {
		head = append(head, 0x08)
		head = binary.AppendUvarint(head, uint64(*ent.Type))
	}
	if ent.Term != nil {
		head = append(head, 0x10)
		head = binary.AppendUvarint(head, *ent.Term)
	}
	if ent.Index != nil {
		head = append(head, 0x18)
		head = binary.AppendUvarint(head, *ent.Index)
	}
	if ent.Data != nil {
		head = append(head, 0x22)
		head = binary.AppendUvarint(head, uint64(len(ent.Data)))
	}
	e.record(TypeEntry, head, ent.Data)
}

// state appends a hard state, all three fields always.
func (e *encoder) state(hs *raftpb.HardState) {
	b := append(e.scratch[:0], 0x08)
	b = binary.AppendUvarint(b, hs.GetTerm())
	b = append(b, 0x10)
	b = binary.AppendUvarint(b, hs.GetVote())
	b = append(b, 0x18)
	b = binary.AppendUvarint(b, hs.GetCommit())
	e.record(TypeState, b, nil)
}

func uvarintSize(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

var (
	errEnd       = errors.New("end of log")
	errBeyond    = errors.New("the record reaches beyond the end of the file")
	errMalformed = errors.New("the record is malformed")
	errChecksum  = errors.New("the checksum does not match")
)

// frame is a decoded frame. Data aliases the segment.
type frame struct {
	typ  RecordType
	crc  uint32
	data []byte
	// record is the extent of the record, end that of the frame with its padding.
	record, end int64
}

// decoder walks over a segment held in memory.
type decoder struct {
	seg []byte
	off int64
	crc uint32
	// nonce of the marks read so far; 0 if there were none.
	nonce uint64
	// chained is set once a first checksum was taken over; until then any starts the chain.
	chained bool
}

// peek decodes the frame at off without checking or advancing the running checksum.
func (d *decoder) peek(off int64) (frame, error) {
	var f frame
	rest := int64(len(d.seg)) - off
	if rest == 0 {
		return f, errEnd
	}
	if rest < lengthBytes {
		f.record, f.end = int64(len(d.seg)), int64(len(d.seg))
		if allZero(d.seg[off:]) {
			return f, errEnd
		}
		return f, errBeyond
	}
	length := binary.LittleEndian.Uint64(d.seg[off:])
	if length == 0 {
		return f, errEnd
	}
	n := int64(length & sizeMask)
	pad := int64(0)
	if length>>63 != 0 {
		pad = int64(length >> 56 & 7)
	}
	f.record, f.end = off+lengthBytes+n, off+lengthBytes+n+pad
	if n > rest-lengthBytes {
		f.record, f.end = int64(len(d.seg)), int64(len(d.seg))
		return f, errBeyond
	}
	if pad != -n&7 {
		return f, errMalformed
	}
	// A file may end without the padding of its last record.
	f.end = min(f.end, int64(len(d.seg)))
	return f, f.parse(d.seg[off+lengthBytes : f.record])
}

// parse decodes the record. Fields may come in any order; unknown ones are an error, since nothing known writes them.
func (f *frame) parse(b []byte) error {
	for len(b) > 0 {
		tag := b[0]
		v, n := binary.Uvarint(b[1:])
		if n <= 0 {
			return errMalformed
		}
		b = b[1+n:]
		switch tag {
		case 0x08:
			f.typ = RecordType(v)
		case 0x10:
			f.crc = uint32(v)
		case 0x1a:
			if v > uint64(len(b)) {
				return errMalformed
			}
			f.data, b = b[:v:v], b[v:]
		default:
			return errMalformed
		}
	}
	if f.typ < TypeMetadata || f.typ > TypeSnapshot {
		return errMalformed
	}
	return nil
}

// mark returns the nonce if the frame is a mark that belongs at this offset.
func (f *frame) mark(offset int64) (nonce uint64, ok bool) {
	if f.typ != TypeCRC || len(f.data) != markBytes {
		return 0, false
	}
	return binary.LittleEndian.Uint64(f.data), binary.LittleEndian.Uint64(f.data[8:]) == uint64(offset)
}

// next returns the frame at the decoder's position and moves behind it. errEnd ends the log; any other error leaves
// the position at the bad frame, whose extent is filled in as far as it is known.
func (d *decoder) next() (frame, error) {
	f, err := d.peek(d.off)
	if err != nil {
		return f, err
	}
	if f.typ == TypeCRC {
		if d.chained && f.crc != d.crc {
			return f, errChecksum
		}
		d.crc, d.chained = f.crc, true
		if nonce, ok := f.mark(d.off); ok && d.nonce == 0 {
			d.nonce = nonce
		}
	} else {
		crc := crc32.Update(d.crc, castagnoli, f.data)
		if crc != f.crc {
			return f, errChecksum
		}
		d.crc = crc
	}
	d.off = f.end
	return f, nil
}

// allZero compares b with itself, shifted by one byte, which the runtime does with the machine's widest instructions: the
// unused part of a segment is some 64 MB, read at every start.
func allZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
