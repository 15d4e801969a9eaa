package backend

import (
	"os"

	"golang.org/x/sys/unix"
)

// writeBack has what was written to a file so far on its way to the disk, and
// waits for it. Unlike a sync it says nothing about a crash, and does not make
// the file system commit its own journal, for which the log's sync would wait.
// Without it the kernel would collect gigabytes and write them all at once.
func writeBack(f *os.File) error {
	err := unix.SyncFileRange(int(f.Fd()), 0, 0,
		unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	if err == unix.ENOSYS || err == unix.ESPIPE || err == unix.EINVAL || err == unix.EOPNOTSUPP {
		return nil // a file system without; it is only for the pace
	}
	return err
}
