// Package crash cuts the power of a disk after every single operation, in many ways each, and looks whether what is
// left can be recovered.
//
// # A worked example
//
// A Recorder is a disk in memory that writes down every change made to it:
//
//	disk := NewRecorder()
//	log, _ := wal.Create(disk, "wal", metadata)
//	log.Append(nil, entries, nil)
//	log.Sync()
//	acknowledged := disk.Now()
//
// From what was written down any disk can be built that a power cut would have left: after how many operations the cut
// came, and for what was not synced by then, a seed that decides how much of it made it to the platter.
//
//	cuts := disk.Cuts()
//	for cuts.Next() {                    // after one more operation
//		for seed := range uint64(16) {
//			left := cuts.Disk(seed)
//			_, recovered, err := wal.Open(left, "wal")
//			// err must be nil; if cuts.At() >= acknowledged, recovered must hold the entries
//		}
//	}
//
// What a cut may do to unsynced work (Cuts.Disk):
//
//   - of one directory's changes a prefix is kept, of two directories independent ones; a rename is atomic;
//   - of one file's writes a prefix is kept, or each sector of 512 bytes is kept or lost by itself, in any order;
//   - a file's new length may arrive without the data (zeroes) or the data without the length.
//
// Seed 0 loses everything that was not synced, seed 1 nothing.
//
// What holds a member's data but is not written through backend/vfs, the bbolt file, is tested by killing real
// processes instead: see kill_test.go.
package crash
