package backend

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// LockDir locks a directory against other processes that lock it this way, until
// the lock is closed or the process ends. It waits as long as Open waits for the
// file; then the error is a *LockedError.
func LockDir(path string) (io.Closer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockWait); ; time.Sleep(lockRetry) {
		err := flock(f, syscall.LOCK_EX)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, lockOwner(path)
			}
			return nil, &os.PathError{Op: "lock", Path: path, Err: err}
		}
	}
}

// lockRetry is how often a lock that another process holds is tried again.
const lockRetry = 50 * time.Millisecond

// CheckUnlocked returns a *LockedError if another process holds the lock of one
// of the files.
func CheckUnlocked(paths []string) error {
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = flock(f, syscall.LOCK_SH)
		f.Close() // and the lock with it
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return lockOwner(path)
		}
	}
	return nil
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// lockOwner names the process that holds the lock of a file, as well as /proc
// tells: the kernel's list of locks first, then whoever has the file open (on
// overlay file systems the list names another device).
func lockOwner(path string) error {
	locked := &LockedError{Path: path}
	info, err := os.Stat(path)
	if err != nil {
		return locked
	}
	pid := pidFromLocks(info)
	if pid == 0 {
		pid = pidFromDescriptors(info)
	}
	if pid != 0 {
		locked.PID, locked.Command = pid, commandOf(pid)
	}
	return locked
}

// pidFromLocks reads lines such as
//
//	3: FLOCK  ADVISORY  WRITE 1234 08:01:393222 0 EOF
func pidFromLocks(info os.FileInfo) int {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer f.Close()
	want := fmt.Sprintf("%02x:%02x:%d", uint64(st.Dev)>>8&0xfff, uint64(st.Dev)&0xff, st.Ino)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 6 && fields[1] == "FLOCK" && fields[5] == want {
			if pid, err := strconv.Atoi(fields[4]); err == nil && pid > 0 {
				return pid
			}
		}
	}
	return 0
}

func pidFromDescriptors(info os.FileInfo) int {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0
	}
	for _, link := range links {
		open, err := os.Stat(link)
		if err != nil || !os.SameFile(open, info) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(link, "/")[2]); err == nil {
			return pid
		}
	}
	return 0
}

func commandOf(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(name))
}
