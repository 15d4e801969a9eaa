package httpapi

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// idleTimeout is how long an HTTP/2 connection may stay silent before it counts as gRPC's: clients of gRPC connect
	// ahead of their first call, all others because they have a request.
	idleTimeout = 5 * time.Second
	// maxPrologueBytes bounds what is read and kept before the decision; the head of a request included.
	maxPrologueBytes = 64 << 10
	// maxTableBytes is the size of the table that compresses headers, while the client has not been told of another.
	maxTableBytes = 4096
)

// firstRequest reads an HTTP/2 connection up to the head of its first request, and tells whether that is a call of gRPC.
// Clients of gRPC send nothing before the server's settings, so empty ones are sent; the server behind sends its own
// later. The connection that is returned begins with all that was read.
func firstRequest(conn net.Conn, begin []byte) (begun net.Conn, isGRPC bool, err error) {
	if err := conn.SetDeadline(time.Now().Add(idleTimeout)); err != nil {
		return nil, false, err
	}
	read := bytes.NewBuffer(begin)
	isGRPC, err = readRequest(conn, read)
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	return newSettledConn(&begunConn{Conn: conn, begin: read.Bytes()}), isGRPC, err
}

// readRequest appends what it reads to read. What is not HTTP/2 is HTTP's to answer.
func readRequest(conn net.Conn, read *bytes.Buffer) (isGRPC bool, err error) {
	from := io.TeeReader(io.LimitReader(conn, maxPrologueBytes), read)
	rest := make([]byte, len(http2.ClientPreface)-read.Len())
	if _, err := io.ReadFull(from, rest); err != nil {
		return undecided(err)
	}
	if read.String() != http2.ClientPreface {
		return false, nil
	}
	framer := http2.NewFramer(conn, from)
	framer.ReadMetaHeaders = hpack.NewDecoder(maxTableBytes, nil)
	framer.MaxHeaderListSize = maxPrologueBytes
	if err := framer.WriteSettings(); err != nil {
		return false, err
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return undecided(err)
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return isGRPCContent(contentType(frame)), nil
		case *http2.PingFrame:
			return true, nil // somebody checks on a connection kept for later
		}
	}
}

// undecided says whose a connection is that has not come to its first request.
func undecided(err error) (isGRPC bool, fatal error) {
	var protocol http2.ConnectionError
	var stream http2.StreamError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return true, nil
	case errors.As(err, &protocol), errors.As(err, &stream), errors.Is(err, http2.ErrFrameTooLarge), err == io.ErrUnexpectedEOF:
		return false, nil
	}
	return false, err
}

func contentType(head *http2.MetaHeadersFrame) string {
	for _, field := range head.RegularFields() {
		if field.Name == "content-type" {
			return field.Value
		}
	}
	return ""
}

// isGRPCContent accepts application/grpc, and with an encoding as in application/grpc+proto.
func isGRPCContent(kind string) bool {
	rest, ok := strings.CutPrefix(kind, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// settledConn is an HTTP/2 connection that has been sent settings already. It leaves out the client's answer to those,
// which the server behind would take for an answer to its own.
type settledConn struct {
	*begunConn
	frames *bufio.Reader
	pass   int  // bytes until the next frame
	passed bool // the answer has been left out
}

const frameHeaderBytes = 9

func newSettledConn(c *begunConn) *settledConn {
	return &settledConn{begunConn: c, frames: bufio.NewReader(c), pass: len(http2.ClientPreface)}
}

func (c *settledConn) Read(p []byte) (int, error) {
	switch {
	case len(p) == 0:
		return 0, nil
	case c.passed && c.frames.Buffered() > 0:
		return c.frames.Read(p)
	case c.passed:
		return c.begunConn.Read(p)
	}
	for c.pass == 0 {
		head, err := c.frames.Peek(frameHeaderBytes)
		if err != nil {
			return 0, err
		}
		frame := http2.FrameHeader{
			Length: uint32(head[0])<<16 | uint32(head[1])<<8 | uint32(head[2]),
			Type:   http2.FrameType(head[3]), Flags: http2.Flags(head[4]),
		}
		if frame.Type != http2.FrameSettings || !frame.Flags.Has(http2.FlagSettingsAck) || frame.Length > 0 {
			c.pass = frameHeaderBytes + int(frame.Length)
			continue
		}
		if _, err := c.frames.Discard(frameHeaderBytes); err != nil {
			return 0, err
		}
		c.passed = true
		return c.Read(p)
	}
	n, err := c.frames.Read(p[:min(len(p), c.pass)])
	c.pass -= n
	return n, err
}
