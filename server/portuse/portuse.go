package portuse

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Error says that an address is in use, and by which process if that could be found out.
type Error struct {
	Port    int
	PID     int    // 0: not known, for example a process of another user
	Command string // command line of the process, shortened
	Err     error
}

func (e *Error) Error() string {
	switch {
	case e.PID == os.Getpid():
		return fmt.Sprintf("port %d is in use by this process itself: it was given twice", e.Port)
	case e.PID > 0:
		return fmt.Sprintf("port %d is in use by process %d (%s)", e.Port, e.PID, e.Command)
	}
	return fmt.Sprintf("port %d is in use by another process", e.Port)
}

func (e *Error) Unwrap() error { return e.Err }

// Explain turns the error of a failed Listen on a TCP address into an *Error if the port is in use, and returns any
// other error as it is.
func Explain(err error, address string) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	_, portText, splitErr := net.SplitHostPort(address)
	port, numberErr := strconv.Atoi(portText)
	if splitErr != nil || numberErr != nil {
		return err
	}
	e := &Error{Port: port, Err: err}
	e.PID, e.Command = owner(port)
	return e
}

// owner finds the process that listens on the TCP port: /proc/net/tcp says which socket it is, and the process that
// has this socket among its descriptors is the owner.
func owner(port int) (pid int, command string) {
	sockets := listening(port)
	if len(sockets) == 0 {
		return 0, ""
	}
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, ""
	}
	for _, path := range descriptors {
		target, err := os.Readlink(path)
		if err != nil || !sockets[target] {
			continue // gone meanwhile, or of another user
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			continue
		}
		return pid, commandOf(pid)
	}
	return 0, ""
}

// listening returns the sockets in state LISTEN on the port, as links in /proc/<pid>/fd show them.
func listening(port int) map[string]bool {
	const stateListen = "0A"
	sockets := map[string]bool{}
	suffix := fmt.Sprintf(":%04X", port)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		file, err := os.Open(table)
		if err != nil {
			continue
		}
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...
		for lines := bufio.NewScanner(file); lines.Scan(); {
			f := strings.Fields(lines.Text())
			if len(f) > 9 && strings.HasSuffix(f[1], suffix) && f[3] == stateListen {
				sockets["socket:["+f[9]+"]"] = true
			}
		}
		file.Close()
	}
	return sockets
}

func commandOf(pid int) string {
	const most = 80
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "?"
	}
	command := strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " "))
	if len(command) > most {
		command = command[:most] + "..."
	}
	return command
}
