package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// dialWebsocket opens one to path.
func (w *world) dialWebsocket(path string, protocols ...string) *websocket.Conn {
	w.t.Helper()
	dialer := websocket.Dialer{
		Subprotocols:   protocols,
		NetDialContext: func(context.Context, string, string) (net.Conn, error) { return w.listener.dial(), nil },
	}
	conn, response, err := dialer.Dial("ws://member"+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	response.Body.Close()
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

func TestWebsocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{MaxMessageBytes: 1000})
		conn := w.dialWebsocket("/v3/watch", "Bearer", "the-token")
		for _, key := range []string{"one", "two", strings.Repeat("three", 300)} {
			if err := conn.WriteMessage(websocket.TextMessage, []byte(create(key))); err != nil {
				t.Fatal(err)
			}
			_, answer, err := conn.ReadMessage()
			if err != nil || !strings.HasPrefix(string(answer), `{"result":{`) || !strings.Contains(string(answer), key) {
				t.Fatalf("answer to %.10s: %.200s, %v", key, answer, err)
			}
			time.Sleep(time.Hour) // a silent websocket stays
		}
		if len(w.member.token) != 1 || w.member.token[0] != "Bearer the-token" {
			t.Errorf("token %q", w.member.token)
		}

		// A message that cannot be read ends the stream with the reason.
		if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"create_request":{"key":1}}`)); err != nil {
			t.Fatal(err)
		}
		if _, answer, err := conn.ReadMessage(); err != nil || !strings.Contains(string(answer), `"code":3`) {
			t.Errorf("answer to nonsense: %s, %v", answer, err)
		}
		if _, answer, err := conn.ReadMessage(); err == nil {
			t.Errorf("after that: %s", answer)
		}
	})
}

// Too large a message, in one frame or in parts, is turned away before it is collected.
func TestWebsocketTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{MaxMessageBytes: 1000})
		for _, part := range []int{5000, 1500} {
			conn := w.dialWebsocket("/v3/watch")
			go func() {
				writer, err := conn.NextWriter(websocket.TextMessage)
				for err == nil {
					_, err = writer.Write(make([]byte, part)) // without end
				}
			}()
			_, answer, err := conn.ReadMessage()
			if !websocket.IsCloseError(err, websocket.CloseMessageTooBig) {
				t.Errorf("parts of %d bytes: %.100q, %v", part, answer, err)
			}
			conn.Close()
		}
	})
}

// Close ends websockets, which the HTTP server does not know any more.
func TestWebsocketClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		conn := w.dialWebsocket("/v3/watch")
		if err := conn.WriteMessage(websocket.TextMessage, []byte(create("one"))); err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.ReadMessage(); err != nil {
			t.Fatal(err)
		}
		w.gateway.Close()
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				break
			}
		}
		if left := len(w.gateway.mu.upgraded); left != 0 {
			t.Errorf("%d connections remembered", left)
		}
	})
}

// frame is a client's frame of size bytes.
func frame(first byte, size int) []byte {
	head := []byte{first, 0x80}
	switch {
	case size < 126:
		head[1] |= byte(size)
	case size < 1<<16:
		head[1] |= 126
		head = binary.BigEndian.AppendUint16(head, uint16(size))
	default:
		head[1] |= 127
		head = binary.BigEndian.AppendUint64(head, uint64(size))
	}
	head = append(head, 1, 2, 3, 4)
	return append(head, make([]byte, size)...)
}

// FuzzFrames: where a read happens to end changes nothing, and no length makes it overflow.
func FuzzFrames(f *testing.F) {
	f.Add(frame(0x81, 5), uint16(3))
	f.Add(append(frame(0x01, 200), frame(0x80, 70_000)...), uint16(100))
	f.Add(append(frame(0x01, 999), append(frame(0x89, 0), frame(0x00, 2)...)...), uint16(1))
	f.Add([]byte{0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, uint16(7))
	f.Fuzz(func(t *testing.T, data []byte, cut uint16) {
		whole, pieces := &websocketConn{max: 1000}, &websocketConn{max: 1000}
		want := whole.follow(data)
		var got error
		for rest := data; len(rest) > 0 && got == nil; {
			n := min(int(cut)+1, len(rest))
			got, rest = pieces.follow(rest[:n]), rest[n:]
		}
		if (want == nil) != (got == nil) {
			t.Fatalf("at once: %v, in pieces: %v", want, got)
		}
		if want == nil && (!bytes.Equal(whole.header, pieces.header) || whole.payload != pieces.payload || whole.message != pieces.message) {
			t.Fatalf("at once: %+v, in pieces: %+v", whole, pieces)
		}
		if want == nil && whole.message > whole.max || len(whole.header) > 14 {
			t.Fatalf("%d bytes of a message of at most %d, header %x", whole.message, whole.max, whole.header)
		}
	})
}

func TestFramesAtTheLimit(t *testing.T) {
	for _, c := range []struct {
		frames [][]byte
		ok     bool
	}{
		{[][]byte{frame(0x81, 1000)}, true},
		{[][]byte{frame(0x81, 1001)}, false},
		{[][]byte{frame(0x81, 1000), frame(0x81, 1000)}, true},
		{[][]byte{frame(0x01, 500), frame(0x80, 500)}, true},
		{[][]byte{frame(0x01, 500), frame(0x00, 500), frame(0x80, 1)}, false},
		{[][]byte{frame(0x01, 500), frame(0x8a, 125), frame(0x80, 500), frame(0x82, 1000)}, true},
		{[][]byte{frame(0x01, 70_000)}, false},
	} {
		conn := &websocketConn{max: 1000}
		if err := conn.follow(bytes.Join(c.frames, nil)); (err == nil) != c.ok {
			t.Errorf("%d frames: %v, want ok=%v", len(c.frames), err, c.ok)
		}
	}
}
