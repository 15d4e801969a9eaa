//go:build !linux

package backend

import "os"

// writeBack has what was written to a file so far written to the disk.
func writeBack(f *os.File) error { return f.Sync() }
