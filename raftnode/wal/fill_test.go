package wal

import (
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/proto/walpb"
)

// The log stays within what was written before, zeroes as yet, so that its syncs change no metadata: in the first
// segment by filling ahead of itself, in the next ones because they were filled while the one before was in use.
func TestSpaceIsFilledBeforeItIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := vfs.NewMem()
		options := Options{SegmentBytes: 3*fillBytes + fillBytes/2}
		w, err := Create(fsys, "/wal", &walpb.Metadata{NodeID: new(uint64(1)), ClusterID: new(uint64(2))}, options)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		ahead := 0 // syncs that began within what was filled before
		const syncs = 300
		for i := range uint64(syncs) {
			time.Sleep(time.Second) // the next segment is filled meanwhile
			segments, filled := w.Segments(), w.filled
			entry := &raftpb.Entry{Index: new(i + 1), Term: new(uint64(1)), Data: make([]byte, 30<<10)}
			if err := w.Append(nil, []*raftpb.Entry{entry}, nil); err != nil {
				t.Fatal(err)
			}
			if err := w.Sync(); err != nil {
				t.Fatal(err)
			}
			if w.Segments() != segments {
				if w.filled != options.SegmentBytes {
					t.Fatalf("segment %d is filled up to %d of %d bytes", w.Segments(), w.filled, options.SegmentBytes)
				}
				continue
			}
			if w.off <= filled {
				ahead++
			}
			tail := make([]byte, w.filled-w.off)
			if _, err := w.file.ReadAt(tail, w.off); err != nil || !allZero(tail) {
				t.Fatalf("behind offset %d: %v, or no zeroes", w.off, err)
			}
		}
		if w.Segments() < 4 || ahead < syncs*9/10 {
			t.Errorf("%d of %d syncs stayed within what was filled, in %d segments", ahead, syncs, w.Segments())
		}
	})
}
