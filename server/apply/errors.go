package apply

import "errors"

// Refusals that apply decides itself; the others come from mvcc, lease and quota.
var (
	// ErrKeyNotFound: a put that keeps the old value or lease names a key that does not exist.
	ErrKeyNotFound = errors.New("key not found")
	// ErrValueProvided, ErrLeaseProvided: a put says both that it keeps the old one and what the new one is.
	ErrValueProvided = errors.New("value is provided")
	ErrLeaseProvided = errors.New("lease is provided")
	// ErrUnknownCommand: the log holds a command that this version does not know.
	ErrUnknownCommand = errors.New("unknown method")
)
