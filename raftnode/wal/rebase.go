package wal

import (
	"errors"
	"fmt"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/proto/walpb"
)

// Rebase replaces the whole log by one that goes on from a snapshot: a record of it, the entries behind it, and a hard
// state. What was in the log before is gone. A crash leaves either log: the new segment follows the old ones until these
// are removed, and says the same as they do.
func (w *WAL) Rebase(snap *walpb.Snapshot, ents []*raftpb.Entry, hs *raftpb.HardState) error {
	if err := errors.Join(w.Flush(), w.err); err != nil {
		return err
	}
	if err := w.datasync(); err != nil {
		return err
	}
	encoded, err := snap.MarshalVT()
	if err != nil {
		return err
	}
	head := &encoder{crc: w.enc.crc}
	head.crcRecord()
	head.record(TypeMetadata, w.metadata, nil)
	head.record(TypeSnapshot, encoded, nil)
	for _, e := range ents {
		head.entry(e)
	}
	head.state(hs)
	// A reader that looks for the snapshot starts with the last segment that is not named after a later index.
	next := segment{seq: w.segments[len(w.segments)-1].seq + 1, first: snap.GetIndex()}
	path := filepath.Join(w.dir, next.name())
	if err := writeDurably(w.fs, w.dir, next.name()+tempSuffix, path, head.buf); err != nil {
		return fmt.Errorf("wal: rebase: %w", err)
	}
	for _, old := range w.segments {
		// From the oldest on: a crash in between leaves no gap.
		if err := w.fs.Remove(filepath.Join(w.dir, old.name())); err != nil {
			return fmt.Errorf("wal: rebase: %w", err)
		}
	}
	w.err = ErrClosed // nothing goes behind what has been removed
	w.prep.close()
	return errors.Join(w.file.Close(), w.fs.SyncDir(w.dir))
}
