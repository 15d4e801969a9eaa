package proc

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SyncGate makes a real process's disk slow: each of its fsync and fdatasync calls waits before the kernel does it.
type SyncGate struct {
	program string
	delay   atomic.Int64
	stopped atomic.Int64 // calls that waited

	mu struct {
		sync.Mutex
		err error // why there is no gate
	}
}

// GateSyncs puts a gate before the disk of the member, from its next start on. It is for a member that does not run.
func (m *Member) GateSyncs() *SyncGate {
	m.t.Helper()
	m.gate = &SyncGate{program: build(m.t, "gate", "./tests/proc/gate")}
	return m.gate
}

// SetDelay makes each sync take so much longer from now on; 0 ends that.
func (g *SyncGate) SetDelay(d time.Duration) { g.delay.Store(int64(d)) }

// Stopped is how many syncs have passed the gate.
func (g *SyncGate) Stopped() int64 { return g.stopped.Load() }

// Err tells why the member runs without the gate: the system may not permit it. It is known once the member has started.
func (g *SyncGate) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.err
}

func (g *SyncGate) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.err = err
}

// start starts cmd behind the gate, which watches over it until exited is closed.
func (g *SyncGate) start(cmd *exec.Cmd, exited <-chan struct{}) error {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "gate"), os.NewFile(uintptr(ends[1]), "gate")
	cmd.Path, cmd.Args = g.program, append([]string{g.program}, cmd.Args...)
	cmd.ExtraFiles = []*os.File{theirs}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		ours.Close()
		return err
	}
	listener, err := receive(ours)
	g.fail(err)
	if err == nil {
		go g.serve(listener, exited)
	}
	return nil
}

// receive waits for what the gate says, and for the listener that comes with it.
func receive(socket *os.File) (listener int, err error) {
	defer socket.Close()
	conn, err := net.FileConn(socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	said, rights := make([]byte, 200), make([]byte, unix.CmsgSpace(4))
	n, rightsLen, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(said, rights)
	if err != nil {
		return 0, fmt.Errorf("the gate says nothing: %w", err)
	}
	if text := string(said[:n]); text != "ok" {
		return 0, errors.New(text)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rightsLen])
	if err != nil || len(messages) != 1 {
		return 0, fmt.Errorf("the gate sent no listener: %v", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return 0, err
	}
	return fds[0], nil
}

// notification and answer are struct seccomp_notif and seccomp_notif_resp of the kernel.
type notification struct {
	id         uint64
	pid, flags uint32
	data       [64]byte
}

type answer struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// letItGoOn is SECCOMP_USER_NOTIF_FLAG_CONTINUE.
const letItGoOn = 1

// serve lets each call go on once its delay is over. The last one to use the listener closes it.
func (g *SyncGate) serve(listener int, exited <-chan struct{}) {
	var waiting sync.WaitGroup
	defer unix.Close(listener)
	defer waiting.Wait()
	for {
		select {
		case <-exited:
			return
		default:
		}
		// Asking when there is nothing would wait for ever if the process ends meanwhile.
		ready := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if n, err := unix.Poll(ready, 100); n < 1 || ready[0].Revents&unix.POLLIN == 0 {
			if err == nil && n == 1 {
				<-exited // the other end is gone
			}
			continue
		}
		var call notification
		if control(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&call)) != 0 {
			continue // whoever called has been killed
		}
		g.stopped.Add(1)
		waiting.Go(func() {
			timer := time.NewTimer(time.Duration(g.delay.Load()))
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-exited:
				return
			}
			control(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&answer{id: call.id, flags: letItGoOn}))
		})
	}
}

func control(fd int, request uint, argument unsafe.Pointer) syscall.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(argument))
	return errno
}
