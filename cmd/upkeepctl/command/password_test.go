package command

import (
	"bytes"
	"strings"
	"testing"

	"github.com/creack/pty"
)

func TestAskPassword(t *testing.T) {
	for input, want := range map[string]string{"secret\n": "secret", "secret": "secret", "": "", "\n": ""} {
		var out bytes.Buffer
		a := &app{in: strings.NewReader(input), out: &out}
		if got, err := a.askPassword(); got != want || err != nil || out.String() != "Password: \n" {
			t.Errorf("%q: got %q, %v, printed %q", input, got, err, out.String())
		}
	}
}

func TestAskPasswordOnTerminal(t *testing.T) {
	terminal, tty, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo terminal: %v", err)
	}
	defer terminal.Close()
	defer tty.Close()
	// Typed ahead: the line waits in the terminal until it is read.
	if _, err := terminal.WriteString("secret\n"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	a := &app{in: tty, out: &out}
	if got, err := a.askPassword(); got != "secret" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if strings.Contains(out.String(), "secret") {
		t.Errorf("showed it: %q", out.String())
	}
}
