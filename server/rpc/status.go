package rpc

// Status returns err as clients see it, for calls that other members forward. Calls of clients need no help: the
// interceptors translate what services return.
func Status(err error) error { return newErrorTable().toStatus(err) }
