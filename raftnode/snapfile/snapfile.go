package snapfile

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/snappb"
)

// ErrCorrupt is the class of errors about a file whose content is not what was written.
var ErrCorrupt = errors.New("snapfile: corrupt")

// suffix of finished files. Temporary ones begin with tempPrefix, which a server removes at boot.
const (
	suffix     = ".snap"
	tempPrefix = "tmp-"
)

// Snapshot is the content of a file.
type Snapshot struct {
	Term, Index uint64
	ConfState   *raftpb.ConfState
	Members     []Member
	// Removed are members that must not come back.
	Removed []uint64
	// V2Keys tells that clients have stored keys through the v2 API, which nothing but a server of etcd up to 3.5 reads.
	// Write does not write them.
	V2Keys bool
	// Version is the cluster version, such as "3.7.0"; empty if none was decided yet.
	Version string
}

// Member is one member of the cluster.
type Member struct {
	ID         uint64
	Name       string
	PeerURLs   []string
	ClientURLs []string
	IsLearner  bool
}

// Name is the file name of a snapshot.
func Name(term, index uint64) string { return fmt.Sprintf("%016x-%016x%s", term, index, suffix) }

// Write stores s in dir atomically and durably, and returns the path.
func Write(fs vfs.FS, dir string, s *Snapshot) (path string, err error) {
	content, err := encode(s)
	if err != nil {
		return "", err
	}
	name := Name(s.Term, s.Index)
	path = filepath.Join(dir, name)
	temp := filepath.Join(dir, tempPrefix+name)
	if err := writeSynced(fs, temp, content); err != nil {
		return "", errors.Join(err, fs.RemoveAll(temp))
	}
	if err := fs.Rename(temp, path); err != nil {
		return "", errors.Join(err, fs.RemoveAll(temp))
	}
	return path, fs.SyncDir(dir)
}

func writeSynced(fs vfs.FS, path string, content []byte) error {
	f, err := fs.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encode(s *Snapshot) ([]byte, error) {
	store, err := encodeStore(s)
	if err != nil {
		return nil, err
	}
	data, err := proto.Marshal(&raftpb.Snapshot{
		Data:     store,
		Metadata: &raftpb.SnapshotMetadata{ConfState: s.ConfState, Index: &s.Index, Term: &s.Term},
	})
	if err != nil {
		return nil, err
	}
	sum := crc32.Checksum(data, castagnoli)
	return (&snappb.Snapshot{Crc: &sum, Data: data}).MarshalVT()
}

// Read loads a file and verifies it.
func Read(fs vfs.FS, path string) (*Snapshot, error) {
	content, err := vfs.ReadFile(fs, path)
	if err != nil {
		return nil, err
	}
	s, err := decode(content)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, path, err)
	}
	return s, nil
}

func decode(content []byte) (*Snapshot, error) {
	var envelope snappb.Snapshot
	if err := envelope.UnmarshalVT(content); err != nil {
		return nil, err
	}
	if len(envelope.Data) == 0 {
		return nil, errors.New("no data")
	}
	if sum := crc32.Checksum(envelope.Data, castagnoli); sum != envelope.GetCrc() {
		return nil, fmt.Errorf("checksum is %x instead of %x", sum, envelope.GetCrc())
	}
	var inner raftpb.Snapshot
	if err := proto.Unmarshal(envelope.Data, &inner); err != nil {
		return nil, err
	}
	s := &Snapshot{
		Term: inner.GetMetadata().GetTerm(), Index: inner.GetMetadata().GetIndex(), ConfState: inner.GetMetadata().GetConfState(),
	}
	return s, decodeStore(inner.Data, s)
}

// List returns the names of the finished files in dir, newest first.
func List(fs vfs.FS, dir string) ([]string, error) {
	entries, err := fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	type named struct {
		term, index uint64
		name        string
	}
	var found []named
	for _, e := range entries {
		n := named{name: e.Name()}
		_, err := fmt.Sscanf(n.name, "%x-%x.snap", &n.term, &n.index)
		if err == nil && n.name == Name(n.term, n.index) {
			found = append(found, n)
		}
	}
	slices.SortFunc(found, func(a, b named) int {
		return cmp.Or(cmp.Compare(b.term, a.term), cmp.Compare(b.index, a.index))
	})
	names := make([]string, len(found))
	for i, n := range found {
		names[i] = n.name
	}
	return names, nil
}

// Purge removes all but the newest keep files, and temporary ones that a crash left. keep 0 keeps every finished one.
// It returns the names of the removed.
func Purge(fs vfs.FS, dir string, keep int) (removed []string, err error) {
	finished, err := List(fs, dir)
	if err != nil {
		return nil, err
	}
	var doomed []string
	if keep > 0 && len(finished) > keep {
		doomed = finished[keep:]
	}
	entries, err := fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) && strings.HasSuffix(e.Name(), suffix) {
			doomed = append(doomed, e.Name())
		}
	}
	for _, name := range doomed {
		if err := fs.Remove(filepath.Join(dir, name)); err != nil {
			return removed, err
		}
		removed = append(removed, name)
	}
	if len(removed) > 0 {
		err = fs.SyncDir(dir)
	}
	return removed, err
}
