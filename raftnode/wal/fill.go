package wal

import "github.com/upkeep-kv/upkeep/backend/vfs"

// Space that was allocated but never written is marked so in the file system's own journal. The first write to it
// changes the mark, and then fdatasync has to commit that journal, together with whatever other files have in it: the
// copy of a defragmentation, say. So the log writes zeroes ahead of itself, and a sync finds its space written before:
// it waits for the log's own bytes and nothing else. Source: Postgres (wal_init_zero).

// fillBytes is how far the log fills ahead of itself, and a piece of what the preparer fills.
const fillBytes = 512 << 10

var fillZeroes [fillBytes]byte

// fillAhead writes zeroes behind off once what is filled is used up. The sync that follows covers them. That it fails is
// no reason to fail: the log needs the space only when its own writes come there, and those will tell.
func (w *WAL) fillAhead() {
	if w.off <= w.filled || w.options.NoSync {
		return
	}
	w.filled = max(w.off, min(w.off+fillBytes, w.options.segmentBytes()))
	_ = fill(w.file, w.off, w.filled)
}

// fill writes zeroes to [from, to), at most fillBytes.
func fill(f vfs.File, from, to int64) error {
	_, err := f.WriteAt(fillZeroes[:to-from], from)
	return err
}
