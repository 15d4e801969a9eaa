package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/dustin/go-humanize"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

func noSpace(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// ErrNoRoom is returned when a scratch directory has no room for a restore.
var ErrNoRoom = errors.New("backup: not enough disk space")

// spareBytes is what has to remain free beside a restore: the disk is often one that a member lives on.
const spareBytes = 64 << 20

// checkRoom refuses to start what would fill the disk of dir, which may not exist yet.
func checkRoom(dir string, needed int64) error {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for ; absolute != filepath.Dir(absolute); absolute = filepath.Dir(absolute) {
		if _, err := os.Stat(absolute); err == nil {
			break
		}
	}
	free, err := vfs.FreeBytes(absolute)
	if err != nil {
		return err
	}
	if needed += spareBytes; free < needed {
		return fmt.Errorf("%w: restoring into %s needs %s, of which %s are free", ErrNoRoom, dir,
			humanize.IBytes(uint64(needed)), humanize.IBytes(uint64(free)))
	}
	return nil
}
