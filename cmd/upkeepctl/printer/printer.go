package printer

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrUnsupported is a format that does not exist, or a response that has no
// form in the format asked for.
var ErrUnsupported = errors.New("unsupported output format")

// Printer writes one response.
type Printer interface {
	Print(response any) error
}

// New returns the printer of a format. With hex, keys and values in the simple
// format, and IDs in the fields format, are written in hexadecimal.
func New(format string, hex bool, out io.Writer) (Printer, error) {
	switch format {
	case "simple":
		return &simplePrinter{out: out, hex: hex}, nil
	case "json":
		return &jsonPrinter{out: out, hex: hex}, nil
	case "fields":
		return &fieldsPrinter{out: out, hex: hex}, nil
	case "table":
		return &tablePrinter{out: out, width: terminalWidth(out)}, nil
	case "protobuf":
		return &protobufPrinter{out: out}, nil
	}
	return nil, ErrUnsupported
}

// unsupported is what a format answers for a response it has no form for.
type unsupported struct{ message string }

func (e *unsupported) Error() string { return e.message }
func (e *unsupported) Unwrap() error { return ErrUnsupported }

func notSupported(format string) error {
	return &unsupported{message: format + " not supported as output format"}
}

// hexBytes renders bytes as \x61\x62.
func hexBytes(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		fmt.Fprintf(&s, `\x%02x`, c)
	}
	return s.String()
}
