package wal

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/walpb"
)

// Create starts the log of a member that has not heard anything from its cluster yet, and opens it.
func Create(fsys vfs.FS, dir string, md *walpb.Metadata, options ...Options) (*WAL, error) {
	if err := Bootstrap(fsys, dir, md, BootstrapState{}); err != nil {
		return nil, err
	}
	w, _, err := Open(fsys, dir, options...)
	return w, err
}

// Open recovers a log and positions it behind its last record. It repairs a torn tail, removes segments that were
// prepared but never used, and refuses anything else that is amiss with a *CorruptError.
func Open(fsys vfs.FS, dir string, options ...Options) (*WAL, *Recovered, error) {
	w := &WAL{fs: fsys, dir: dir}
	if len(options) > 0 {
		w.options = options[0]
	}
	c := &collector{}
	segs, bad, d, err := scan(fsys, dir, c.record)
	if err != nil {
		return nil, nil, err
	}
	rec, err := c.finish(dir)
	if err != nil {
		return nil, nil, err
	}
	path := filepath.Join(dir, segs[len(segs)-1].name())
	if bad != nil {
		if err := repair(fsys, path, bad.offset); err != nil {
			return nil, nil, err
		}
		rec.Repaired = fmt.Sprintf("%s; the rest of the file was cut off, the original is %s%s",
			bad.reason, filepath.Base(path), brokenSuffix)
	}
	if err := removeTemps(fsys, dir); err != nil {
		return nil, nil, err
	}
	w.metadata, w.segments = c.encoded, segs
	w.off, w.enc.crc = d.off, d.crc
	for w.nonce = d.nonce; w.nonce == 0; {
		w.nonce = rand.Uint64() // unlike a checksum, a client cannot know it
	}
	w.state = rec.HardState
	w.lastIndex = rec.Snapshot.GetIndex() + uint64(len(rec.Entries))
	if err := w.openTail(path); err != nil {
		return nil, nil, err
	}
	w.prep = startPreparer(fsys, dir, w.options)
	return w, rec, nil
}

// openTail opens the last segment for writing and syncs it: what this process has read, and will build on, must not
// be lost later.
func (w *WAL) openTail(path string) error {
	f, err := w.fs.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	w.file, w.filled = f, w.off
	w.size.Store(w.off)
	// Frames start at multiples of 8; a file that ends without the padding of its last record gets it here.
	if pad := -w.off & 7; pad != 0 {
		w.enc.buf = append(w.enc.buf, zeroes[:pad]...)
	}
	err = f.Preallocate(w.options.segmentBytes())
	if err == nil && w.off == 0 {
		// A crash of some other program left an empty segment: give it the head that it lacks.
		w.appendHead()
	}
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("wal: open %s: %w", path, err), f.Close())
	}
	return nil
}

// repair keeps a copy of the segment and truncates it to size.
func repair(fsys vfs.FS, path string, size int64) error {
	if err := copyFile(fsys, path, path+brokenSuffix); err != nil {
		return fmt.Errorf("wal: save %s before repair: %w", path, err)
	}
	f, err := fsys.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("wal: repair %s: %w", path, err)
	}
	return fsys.SyncDir(filepath.Dir(path))
}

func copyFile(fsys vfs.FS, from, to string) error {
	src, err := fsys.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := fsys.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err == nil {
		err = dst.Sync()
	}
	return errors.Join(err, dst.Close())
}

// BootstrapState is what the log of a new member starts with.
type BootstrapState struct {
	// Members of the initial cluster, which become the first entries of the log; none for a member that joins.
	Members []BootstrapMember
	// Restored says that the state machine holds these members already, because it came out of a snapshot file.
	Restored bool
}

// BootstrapMember is one initial member.
type BootstrapMember struct {
	ID uint64
	// Context is the member as JSON, as it stands in the bucket of members.
	Context []byte
}

// Bootstrap writes the first segment: head, snapshot record 0, one configuration change per member in order of ID,
// and the hard state that commits them. For a restored member a snapshot record says that the state machine has
// applied them. The segment appears under its name only when it is complete and durable.
func Bootstrap(fsys vfs.FS, dir string, md *walpb.Metadata, initial BootstrapState) error {
	if found, err := Exists(fsys, dir); err != nil || found {
		if found {
			err = fmt.Errorf("%w in %s", ErrExists, dir)
		}
		return err
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	e := &encoder{}
	if err := encodeInitial(e, md, initial); err != nil {
		return err
	}
	path := filepath.Join(dir, segment{}.name())
	if err := writeDurably(fsys, dir, "0"+tempSuffix, path, e.buf); err != nil {
		return fmt.Errorf("wal: create %s: %w", path, err)
	}
	return fsys.SyncDir(filepath.Dir(dir))
}

func encodeInitial(e *encoder, md *walpb.Metadata, initial BootstrapState) error {
	md = &walpb.Metadata{NodeID: new(md.GetNodeID()), ClusterID: new(md.GetClusterID())}
	encoded, err := md.MarshalVT()
	if err != nil {
		return err
	}
	e.crcRecord()
	e.record(TypeMetadata, encoded, nil)
	if err := e.snapshot(&walpb.Snapshot{Index: new(uint64(0)), Term: new(uint64(0))}); err != nil {
		return err
	}
	ents, cs, err := InitialEntries(initial.Members)
	if err != nil || len(ents) == 0 {
		return err
	}
	for _, ent := range ents {
		e.entry(ent)
	}
	n := uint64(len(ents))
	hs := &raftpb.HardState{Term: new(uint64(1)), Commit: new(n)}
	if initial.Restored {
		hs.Vote = new(cs.Voters[0])
	}
	e.state(hs)
	if initial.Restored {
		return e.snapshot(&walpb.Snapshot{Index: new(n), Term: new(uint64(1)), ConfState: cs})
	}
	return nil
}

func (e *encoder) snapshot(s *walpb.Snapshot) error {
	b, err := s.MarshalVT()
	if err == nil {
		e.record(TypeSnapshot, b, nil)
	}
	return err
}

func writeDurably(fsys vfs.FS, dir, temp, path string, data []byte) error {
	temp = filepath.Join(dir, temp)
	f, err := fsys.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(temp, path); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}
