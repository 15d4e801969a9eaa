package backend

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	ErrClosed = errors.New("backend: closed")
	// ErrReplaced is what waiters get whose batch was dropped by Replace.
	ErrReplaced = errors.New("backend: state was replaced by a snapshot")
	// ErrAbandoned is what Abandon leaves to those that wait for a commit.
	ErrAbandoned = errors.New("backend: abandoned")
	// ErrBusy is returned when a defragmentation is already running.
	ErrBusy = errors.New("backend: defragmentation is already running")
	// ErrNoDiskSpace is returned by Defrag when the copy would not fit.
	ErrNoDiskSpace = errors.New("backend: not enough free disk space")
	// ErrCopyDiffers is returned by Defrag when the new file turned out not to
	// hold what the old one does. The old one stays.
	ErrCopyDiffers = errors.New("backend: the new file differs from the old one, which stays in use; check the disk and the memory")
	// ErrCorrupt is the class of damage to the file.
	ErrCorrupt = errors.New("backend: file is corrupt")
	// ErrLocked is the class of LockedError.
	ErrLocked = errors.New("backend: file is locked by another process")
)

// LockedError says who holds the lock of a file that could not be opened. PID is
// 0 if that could not be found out.
type LockedError struct {
	Path    string
	PID     int
	Command string
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("backend: %s is locked by another process", e.Path)
	}
	return fmt.Sprintf("backend: %s is locked by process %d (%s)", e.Path, e.PID, e.Command)
}

func (e *LockedError) Is(target error) bool { return target == ErrLocked }

func corruptf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// isPermanent tells the failures of a commit that trying again cannot mend. All
// others (a full disk, an I/O error) are retried with the batch kept: nothing is
// lost, the log still has it. A retry after a failed sync is sound because bbolt
// rolled back: the pages of the failed transaction are free and are written
// again, and the generation that readers hold keeps the last durable state's
// pages from being reused.
func isPermanent(err error) bool {
	if errors.Is(err, ErrCorrupt) {
		return true
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno == syscall.EBADF || errno == syscall.EROFS
	}
	return false
}
