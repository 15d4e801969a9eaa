package server

import "github.com/upkeep-kv/upkeep/backend/vfs"

// Disk lets a test stand between a member and its disk. The data directory is always a real one, since bbolt maps its
// file; the zero value leaves everything to the disk.
type Disk struct {
	// FS writes the log and raft's snapshot files: a layer over vfs.OS, with the same files; nil is vfs.OS itself.
	FS vfs.FS
	// BeforeCommit is called before every commit of the database. It may wait, and its error fails the commit.
	BeforeCommit func() error
	// FreeBytes tells how much room there is; nil asks the disk.
	FreeBytes func(dir string) (int64, error)
	// NoSync leaves the database's syncs out, and only those: for a test whose machine does not lose power.
	NoSync bool
	// LogSegmentBytes is the size of the log's segments, which are made ahead; 0 means etcd's 64 MB.
	LogSegmentBytes int64
}

func (d Disk) freeBytes(dir string) (int64, error) {
	if d.FreeBytes == nil {
		return vfs.FreeBytes(dir)
	}
	return d.FreeBytes(dir)
}

func (d Disk) fs() vfs.FS {
	if d.FS == nil {
		return vfs.OS{}
	}
	return d.FS
}
