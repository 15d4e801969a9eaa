package command

import (
	"errors"
	"fmt"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
)

// Exit codes of etcdctl, which scripts test for.
const (
	exitOK          = 0
	exitError       = 1   // the request failed
	exitConnection  = 2   // no client, or the lease service could not be reached
	exitBadInput    = 3   // malformed transaction or watch line on standard input
	exitBadFeature  = 4   // output format, sort order or consistency that does not exist here
	exitInterrupted = 5   // a watch or a snapshot ended before it was complete
	exitBadArgs     = 128 // wrong command line
)

// exitStatus is an error that says how the process is to end. A nil cause
// ends it without a further message: what went wrong is already on stderr.
type exitStatus struct {
	code  int
	cause error
}

func (e *exitStatus) Error() string {
	if e.cause == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.cause.Error()
}

func (e *exitStatus) Unwrap() error { return e.cause }

func fail(code int, cause error) error { return &exitStatus{code: code, cause: cause} }

// failed ends the process with the code but without a message.
func failed(code int) error { return &exitStatus{code: code} }

func badArgs(format string, args ...any) error {
	return fail(exitBadArgs, fmt.Errorf(format, args...))
}

// statusOf returns the exit code of err and the message to print, if any.
func statusOf(err error) (code int, message string) {
	if err == nil {
		return exitOK, ""
	}
	var status *exitStatus
	if errors.As(err, &status) {
		if status.cause == nil {
			return status.code, ""
		}
		return status.code, status.cause.Error()
	}
	if errors.Is(err, printer.ErrUnsupported) {
		return exitBadFeature, err.Error()
	}
	return exitError, err.Error()
}
