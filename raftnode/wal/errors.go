package wal

import (
	"errors"
	"fmt"
)

var (
	// ErrCorrupt is the class of every *CorruptError.
	ErrCorrupt = errors.New("wal: corrupt")
	// ErrNotFound: the directory holds no log.
	ErrNotFound = errors.New("wal: no log found")
	// ErrExists: the directory already holds a log.
	ErrExists = errors.New("wal: a log exists already")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("wal: closed")
)

// CorruptError says that the log lost or changed something that had been durable.
type CorruptError struct {
	File string
	// Offset in bytes of the first record that cannot be trusted.
	Offset int64
	Reason string
	// Remedy is what an operator can do about it.
	Remedy string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("wal: %s is corrupt at offset %d: %s; %s", e.File, e.Offset, e.Reason, e.Remedy)
}

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

const remedyReplace = "acknowledged writes may be missing from this member, so it must not vote with this log: " +
	"remove the member from the cluster, move its data directory away and add it again, " +
	"or restore all members from a snapshot"

func corrupt(file string, offset int64, format string, args ...any) error {
	return &CorruptError{File: file, Offset: offset, Reason: fmt.Sprintf(format, args...), Remedy: remedyReplace}
}
