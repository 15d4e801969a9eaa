package backup

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/upkeep-kv/upkeep/snapshot"
)

// A backup is two objects, which stand side by side in the repository:
//
//	<id>.db, <id>.db.zst              a full one: a snapshot file, as `snapshot save` writes it, perhaps compressed
//	<id>.history, <id>.history.zst    an incremental one: see history.go
//	<id>.json                         its manifest, an indented JSON object of the fields of Manifest
//
// The manifest is written last and removed first. What has no manifest is not a backup: it is being written, or is left
// of a run that was cut off. An id is made of the time, the kind, the newest revision and 40 random bits, so that two
// members which write at once cannot meet:
//
//	20261120T120000Z-full-1200-5f0c81aa07
const (
	manifestFormat = 1
	manifestSuffix = ".json"
)

// Kind of a backup.
type Kind string

const (
	Full        Kind = "full"
	Incremental Kind = "incremental"
)

// ErrDamaged is the class of errors about an object that is not what its manifest, or its own checksums, say.
var ErrDamaged = errors.New("backup: damaged")

// HexID is the identity of a cluster or a member, in JSON as hexadecimal text, as all of etcd's tools print it.
type HexID uint64

// MarshalText implements encoding.TextMarshaler.
func (h HexID) MarshalText() ([]byte, error) { return strconv.AppendUint(nil, uint64(h), 16), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *HexID) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 16, 64)
	*h = HexID(v)
	return err
}

func (h HexID) String() string { return strconv.FormatUint(uint64(h), 16) }

// Sample says that Revision was the newest one at Time.
type Sample struct {
	Time     time.Time `json:"time"`
	Revision int64     `json:"revision"`
}

// Mark is the checksum, over key and value, of one entry of bucket `key`. Those of the newest few entries are kept with
// every backup, so that the next incremental one can tell whether the member still is of the same history.
type Mark struct {
	Revision int64  `json:"revision"`
	Sub      int64  `json:"sub,omitempty"`
	CRC32C   uint32 `json:"crc32c"`
}

// Object is what a backup's data look like in the repository.
type Object struct {
	Name      string `json:"name"`
	SizeBytes int64  `json:"sizeBytes"`
	SHA256    string `json:"sha256"`
	// Compression is "zstd", or empty for none; the next two are about the content before it.
	Compression   string `json:"compression,omitempty"`
	ContentBytes  int64  `json:"contentBytes"`
	ContentSHA256 string `json:"contentSha256"`
}

// Verification is the result of the last one.
type Verification struct {
	At time.Time `json:"at"`
	// Method is "restored": the backup, with all that it builds on, was restored to a scratch directory, whose HashKV was
	// compared with the member's; or "read": every byte was read and compared with its checksums.
	Method      string  `json:"method"`
	TookSeconds float64 `json:"tookSeconds"`
	// Error is why it is not good; empty if it is.
	Error string `json:"error,omitempty"`
}

// Methods of verification.
const (
	MethodRestored = "restored"
	MethodRead     = "read"
)

// Manifest describes one backup.
type Manifest struct {
	Format     int    `json:"format"`
	ID         string `json:"id"`
	Kind       Kind   `json:"kind"`
	ClusterID  HexID  `json:"clusterId"`
	MemberID   HexID  `json:"memberId"`
	MemberName string `json:"memberName,omitempty"`
	// Parent is the backup that an incremental one continues.
	Parent string `json:"parent,omitempty"`
	// FromRevision is the end of the parent; the entries are those after it, up to and with ToRevision. In a full one it
	// is the oldest revision that can be restored, which is one of the entries.
	FromRevision int64 `json:"fromRevision"`
	ToRevision   int64 `json:"toRevision"`
	// CompactRevision is the member's at that time, -1 for none.
	CompactRevision int64 `json:"compactRevision"`
	// TakenAt is when ToRevision was the newest revision of the member, FinishedAt when the backup was whole.
	TakenAt    time.Time `json:"takenAt"`
	FinishedAt time.Time `json:"finishedAt"`
	// Samples say which revision was current when, in ascending order; the last is that of TakenAt.
	Samples []Sample `json:"samples"`
	Object  Object   `json:"object"`
	// Entries is how many entries of bucket `key` an incremental backup carries.
	Entries int64 `json:"entries,omitempty"`
	// Hash is the member's HashKV at ToRevision.
	Hash snapshot.KVHash `json:"hash"`
	// Index and Term are the position in the raft log that the database held.
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	Marks []Mark `json:"marks,omitempty"`
	// Reason is why this kind was taken.
	Reason       string        `json:"reason,omitempty"`
	Verification *Verification `json:"verification,omitempty"`
}

// Good tells whether the backup was verified, and was sound.
func (m *Manifest) Good() bool { return m.Verification != nil && m.Verification.Error == "" }

// Bad tells whether the backup was verified, and was not sound.
func (m *Manifest) Bad() bool { return m.Verification != nil && m.Verification.Error != "" }

// holds tells whether rev is one of those that the backup itself can restore, given what it builds on.
func (m *Manifest) holds(rev int64) bool {
	if m.Kind == Full {
		return m.FromRevision <= rev && rev <= m.ToRevision
	}
	return m.FromRevision < rev && rev <= m.ToRevision
}

// FirstRevision is the oldest revision that the backup holds.
func (m *Manifest) FirstRevision() int64 {
	if m.Kind == Full {
		return m.FromRevision
	}
	return min(m.FromRevision+1, m.ToRevision)
}

var idPattern = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z-(full|incremental)-[0-9]+-[0-9a-f]{10}$`)

func newID(kind Kind, at time.Time, rev int64) string {
	var random [5]byte
	rand.Read(random[:])
	return fmt.Sprintf("%s-%s-%d-%s", at.UTC().Format("20060102T150405Z"), kind, rev, hex.EncodeToString(random[:]))
}

func (m *Manifest) encode() ([]byte, error) {
	text, err := json.MarshalIndent(m, "", "  ")
	return append(text, '\n'), err
}

// parseManifest refuses what this version cannot make sense of, before anything is done with it.
func parseManifest(name string, text []byte) (*Manifest, error) {
	m := &Manifest{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("%w: manifest %s: %w", ErrDamaged, name, err)
	}
	if m.Format > manifestFormat {
		return nil, fmt.Errorf("backup: manifest %s has format %d, this program knows formats up to %d: use a newer one",
			name, m.Format, manifestFormat)
	}
	problem := ""
	switch {
	case m.Format < 1:
		problem = "no format"
	case m.ID+manifestSuffix != name || !idPattern.MatchString(m.ID):
		problem = fmt.Sprintf("id %q is not that of its name", m.ID)
	case m.Kind != Full && m.Kind != Incremental:
		problem = fmt.Sprintf("kind %q", m.Kind)
	case m.Kind == Incremental && !idPattern.MatchString(m.Parent):
		problem = fmt.Sprintf("parent %q", m.Parent)
	case m.FromRevision > m.ToRevision || m.ToRevision < 1:
		problem = fmt.Sprintf("revisions %d to %d", m.FromRevision, m.ToRevision)
	case m.Object.Name != m.ID+suffixOf(m.Kind, m.Object.Compression):
		problem = fmt.Sprintf("object %q", m.Object.Name)
	case len(m.Samples) == 0 || m.TakenAt.IsZero():
		problem = "no time"
	}
	if problem != "" {
		return nil, fmt.Errorf("%w: manifest %s: %s", ErrDamaged, name, problem)
	}
	return m, nil
}

const compressionZstd = "zstd"

func suffixOf(kind Kind, compression string) string {
	suffix := ".db"
	if kind == Incremental {
		suffix = ".history"
	}
	if compression == compressionZstd {
		suffix += ".zst"
	}
	return suffix
}
