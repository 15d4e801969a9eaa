// Package wal is the write-ahead log of a member: what raft must not forget, in
// etcd's file format, so that either program can start from the other's log.
//
// # A worked example
//
// A new member of a one-member cluster, its first write, and a cut of power:
//
//	wal.Bootstrap(disk, dir, metadata, wal.BootstrapState{Members: members})
//	log, recovered, _ := wal.Open(disk, dir)
//	log.Append(nil, entries, nil)   // buffered
//	log.Append(hardState, nil, nil) // buffered
//	log.Sync()                      // one write, one fdatasync
//
// The directory now holds one segment, named by its sequence number and the
// index of the first entry it can hold, and the next segment being prepared:
//
//	0000000000000000-0000000000000000.wal
//	0.tmp
//
// The segment, of 64,000,000 bytes that were reserved in advance, reads
//
//	crc 0 | metadata | snapshot 0 | entry 1 | state | crc | entry 2 | state | 0 0 0 ...
//
// Each record carries a CRC-32C that runs over the data of all records before
// it, so a record that is lost or exchanged breaks every later one. A crc record
// restates the running value. It opens a segment, where it ties the segment to
// the one before, and it opens whatever is written first after a sync. The second
// use, a mark, is ours (etcd reads over it) and is what recovery is decided by. A mark
// also holds a random number of the log's and its own offset, since a client may
// store anything, a piece of a log too:
//
// Power fails while "crc | entry 2 | state" is on its way, and of its sectors the
// first is lost and the second is not. Open finds zeroes where a record should
// be and something behind them. Nothing there proves that a sync ever returned,
// so nothing in it was ever acknowledged: it is a torn tail, which is saved
// beside the log with the suffix .broken, cut off and reported in
// Recovered.Repaired. Had there been a crc record behind the zeroes, then
// everything before it was synced once and has since been lost: that is
// corruption, and Open refuses with a *CorruptError that names the file, the
// offset and the way out.
package wal
