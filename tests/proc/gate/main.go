//go:build linux

// Command gate runs a program whose every fsync and fdatasync waits for a supervisor: a disk as slow as a test wants it.
//
//	gate upkeep --data-dir …
//
// It asks the kernel to stop these two system calls (seccomp with a listener, which needs no rights), passes the listener
// through the socket that is its file 3, and becomes the program. tests/proc is the other end.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const socket = 3

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "gate: expected is: gate PROGRAM [ARGUMENT…]; tests/proc runs it")
		os.Exit(2)
	}
	runtime.LockOSThread() // the filter is this thread's, and exec keeps it
	said, rights := "ok", []byte(nil)
	if listener, err := install(); err != nil {
		said = err.Error()
	} else {
		rights = unix.UnixRights(listener)
		defer unix.Close(listener)
	}
	if err := unix.Sendmsg(socket, []byte(said), rights, nil, 0); err != nil {
		fmt.Fprintln(os.Stderr, "gate: telling the test:", err)
		os.Exit(2)
	}
	unix.CloseOnExec(socket)
	path, err := exec.LookPath(os.Args[1])
	if err == nil {
		err = syscall.Exec(path, os.Args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "gate:", err)
	os.Exit(2)
}

// install makes the kernel stop this thread, and what becomes of it, in the two calls. The listener is closed by exec.
func install() (listener int, err error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("no_new_privs: %w", err)
	}
	const number = 0 // offset of the call's number in struct seccomp_data
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FSYNC, Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FDATASYNC, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER,
		uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return 0, fmt.Errorf("seccomp: %w", errno)
	}
	return int(fd), nil
}
