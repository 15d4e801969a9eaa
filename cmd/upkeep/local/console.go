package local

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/term"
)

// console is where lines are shown and typed.
type console struct {
	out      io.Writer
	commands <-chan string
	color    bool
	restore  func()
}

// openConsole uses the terminal if in and out are one: then the line being typed stays below what is shown. Else it
// reads plain lines. interrupted is called for Ctrl-C and Ctrl-D on a terminal.
//
// The goroutine that reads cannot be woken from a read; it ends with the input or with the program.
func openConsole(in, out *os.File, interrupted context.CancelFunc) (*console, error) {
	commands := make(chan string)
	fd := int(in.Fd())
	if !term.IsTerminal(fd) || !term.IsTerminal(int(out.Fd())) {
		go func() {
			defer close(commands)
			for lines := bufio.NewScanner(in); lines.Scan(); {
				commands <- lines.Text()
			}
		}()
		return &console{out: &lineWriter{to: out}, commands: commands, color: term.IsTerminal(int(out.Fd())), restore: func() {}}, nil
	}
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	screen := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, out}, "upkeep> ")
	if width, height, err := term.GetSize(fd); err == nil && width > 0 {
		_ = screen.SetSize(width, height) // only the prompt's place depends on it
	}
	go func() {
		for {
			line, err := screen.ReadLine()
			switch {
			case errors.Is(err, term.ErrPasteIndicator):
			case err != nil:
				interrupted()
				return
			}
			commands <- line
		}
	}()
	restored := sync.OnceFunc(func() { _ = term.Restore(fd, before) }) // nothing to be done if the terminal has gone
	return &console{out: &lineWriter{to: screen}, commands: commands, color: true, restore: func() {
		_, _ = io.WriteString(out, "\r\x1b[K") // the prompt goes
		restored()
	}}, nil
}

// lineWriter keeps the lines of several writers apart.
type lineWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}
