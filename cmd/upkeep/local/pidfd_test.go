package local

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const sysPidfdOpen = unix.SYS_PIDFD_OPEN

func awaitReadable(f *os.File, timeout time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(timeout.Milliseconds()))
	if err == nil && n == 0 {
		return errors.New("timeout")
	}
	return err
}
