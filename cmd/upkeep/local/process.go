package local

import (
	"bufio"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// spawner starts processes that the kernel kills when this one ends, however it ends.
//
// The kernel ties a child to the thread that started it, not to the process: the child would be killed when that
// thread ends. So one goroutine that is locked to its thread, and lives as long as the spawner, starts them all.
type spawner struct {
	requests chan spawnRequest
	done     sync.WaitGroup
}

type spawnRequest struct {
	cmd    *exec.Cmd
	result chan error
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan spawnRequest)}
	s.done.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for r := range s.requests {
			r.result <- r.cmd.Start()
		}
	})
	return s
}

// close may be called only when all processes have ended: they are killed with the thread.
func (s *spawner) close() {
	close(s.requests)
	s.done.Wait()
}

func (s *spawner) start(cmd *exec.Cmd) error {
	r := spawnRequest{cmd, make(chan error)}
	s.requests <- r
	return <-r.result
}

// process is one run of one member.
type process struct {
	cmd    *exec.Cmd
	joined sync.WaitGroup
}

// startProcess runs the program with the member's flags. Every line of its output goes to line, its end to exited; both
// are called from goroutines of the process, line never after exited.
func startProcess(s *spawner, program string, args, environ []string, line func(string), exited func(error)) (*process, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = environ
	// A process group of its own, so that Ctrl-C reaches only this program, which then stops the members in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	if err := s.start(cmd); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd}
	p.joined.Go(func() {
		var lines sync.WaitGroup
		lines.Go(func() { readLines(reader, line) })
		err := cmd.Wait()
		writer.Close()
		lines.Wait()
		exited(err)
	})
	return p, nil
}

// readLines hands on each line; one that is very long comes in pieces.
func readLines(r io.Reader, line func(string)) {
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		text, err := lines.ReadSlice('\n')
		if len(text) > 0 {
			line(strings.TrimRight(string(text), "\r\n"))
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// signal reaches the process and whatever it has started.
func (p *process) signal(s syscall.Signal) error { return syscall.Kill(-p.pid(), s) }
