// Package vfs is the disk as the rest of Upkeep sees it: a small file system
// interface with three implementations.
//
//   - OS is the real one: preallocation, fdatasync, directory sync and flock.
//   - Mem is a disk in memory that can lose power. It keeps what was synced,
//     forgets directory entries that were not followed by SyncDir, and for data
//     that was written but not synced lets a seed decide, sector by sector,
//     whether it reached the platter.
//   - Faulty wraps either and makes chosen operations fail: an I/O error on the
//     third fdatasync, a full disk, a write that stops half way.
//
// # A worked example
//
// A program wants to replace the file "state" atomically. The safe recipe is
// four steps, and forgetting any of them is a bug that only a power cut shows:
//
//	f, _ := disk.Create("d/state.tmp")
//	f.Write(data)
//	f.Datasync()                            // 1: the bytes are durable
//	f.Close()
//	disk.Rename("d/state.tmp", "d/state")   // 2: the name points at them ...
//	disk.SyncDir("d")                       // 3: ... durably
//
// With Mem a test cuts the power after every operation and looks at what is
// left:
//
//	after := disk.CrashClone(seed)
//	got, err := after.Open("d/state")
//
// Before step 2 "d/state" is the old file. Between 2 and 3 it is the old file
// or the new one, as the seed decides (an ordered prefix of the directory
// operations made it to disk). If step 1 is left out, it may be the new name
// with torn contents: a mix, in units of 512 bytes, of new data and zeroes.
package vfs
