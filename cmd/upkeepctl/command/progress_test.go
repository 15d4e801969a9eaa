package command

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/creack/pty"
)

func TestProgressOnTerminal(t *testing.T) {
	terminal, tty, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo terminal: %v", err)
	}
	defer terminal.Close()
	shown := make(chan string)
	go func() {
		text, _ := io.ReadAll(terminal) // ends with an error when the other side is closed
		shown <- string(text)
	}()
	a := &app{err: tty}
	p := a.startProgress("saving snapshot", true)
	p.set(500_000, 1_000_000)
	p.set(1_000_000, 1_000_000)
	p.end()
	tty.Close()
	if text := <-shown; !strings.Contains(text, "saving snapshot") || !strings.Contains(text, "100.00%") || !strings.Contains(text, "MB") {
		t.Errorf("on a terminal: %q", text)
	}
}

func TestNoProgressElsewhere(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var buffer bytes.Buffer
	for _, to := range []io.Writer{file, &buffer} {
		a := &app{err: to}
		p := a.startProgress("saving snapshot", true)
		p.set(1, 2)
		p.end()
	}
	if info, err := file.Stat(); err != nil || info.Size() != 0 || buffer.Len() != 0 {
		t.Errorf("printed to what is not a terminal: %v, %q", err, buffer.String())
	}
}
