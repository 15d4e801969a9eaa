package gateway

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/http"

	"github.com/tmc/grpc-websocket-proxy/wsproxy"
	"go.uber.org/zap"
)

// websockets lets a client send each message of a stream as a websocket message, and receive the answers so. All other
// requests pass through.
func (g *Gateway) websockets(next http.Handler) http.Handler {
	proxy := wsproxy.WebsocketProxy(next,
		// A websocket begins as a GET; what it asks for is a POST.
		wsproxy.WithRequestMutator(func(_, out *http.Request) *http.Request {
			out.Method = http.MethodPost
			return out
		}),
		wsproxy.WithMaxRespBodyBufferSize(math.MaxInt32),
		wsproxy.WithLogger(proxyLogger{g.Logger.Sugar()}),
	)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(&hijackable{ResponseWriter: w, gateway: g}, r)
	})
}

// proxyLogger shows what the proxy has to say to those who look closely: it warns of every client that goes away.
type proxyLogger struct{ *zap.SugaredLogger }

func (l proxyLogger) Warnln(args ...any) { l.Debug(args...) }
func (proxyLogger) Debugln(...any)       {}

// hijackable hands out connections that are bounded and that Close finds.
type hijackable struct {
	http.ResponseWriter
	gateway *Gateway
}

// Unwrap lets http.ResponseController find what else the writer can do.
func (w *hijackable) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	bounded := &websocketConn{Conn: conn, gateway: w.gateway, max: maxInflation * uint64(w.gateway.MaxMessageBytes)}
	w.gateway.mu.Lock()
	defer w.gateway.mu.Unlock()
	if w.gateway.mu.closed {
		conn.Close()
	}
	w.gateway.mu.upgraded[conn] = struct{}{}
	return bounded, buffered, nil
}

// websocketConn ends a websocket whose client sends a message that is too large, before it is taken in: the proxy
// collects messages whole. It follows the frames that pass through (RFC 6455, section 5.2):
//
//	FIN|opcode (1)  MASK|length (1)  [length (2 or 8), if the first says 126 or 127]  [masking key (4)]  payload
type websocketConn struct {
	net.Conn
	gateway *Gateway
	max     uint64

	header  []byte // of the frame that is coming, as far as it is there
	payload uint64 // bytes of the current frame still to come
	message uint64 // bytes of the current message up to the end of the current frame
}

func (c *websocketConn) Close() error {
	c.gateway.mu.Lock()
	delete(c.gateway.mu.upgraded, c.Conn)
	c.gateway.mu.Unlock()
	return c.Conn.Close()
}

func (c *websocketConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if tooLarge := c.follow(p[:n]); tooLarge != nil {
		_, _ = c.Write(closeTooBig()) // the client has gone if this fails
		return 0, tooLarge
	}
	return n, err
}

// follow walks over bytes that were read.
func (c *websocketConn) follow(p []byte) error {
	for len(p) > 0 {
		if c.payload > 0 {
			skip := min(c.payload, uint64(len(p)))
			p, c.payload = p[skip:], c.payload-skip
			continue
		}
		c.header, p = append(c.header, p[0]), p[1:]
		if len(c.header) < headerBytes(c.header) {
			continue
		}
		first, length := c.header[0], payloadBytes(c.header)
		c.header = c.header[:0]
		c.payload = length
		if isControl := first&0x8 != 0; isControl {
			continue // at most 125 bytes each, and may come between the parts of a message
		}
		if length > c.max-min(c.max, c.message) {
			return fmt.Errorf("websocket message larger than %d bytes", c.max)
		}
		c.message += length
		if final := first&0x80 != 0; final {
			c.message = 0
		}
	}
	return nil
}

// headerBytes is the size of the header that begins with h.
func headerBytes(h []byte) int {
	if len(h) < 2 {
		return 2
	}
	size := 2
	switch h[1] & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if masked := h[1]&0x80 != 0; masked {
		size += 4
	}
	return size
}

func payloadBytes(h []byte) uint64 {
	switch length := h[1] & 0x7f; length {
	case 126:
		return uint64(binary.BigEndian.Uint16(h[2:]))
	case 127:
		return binary.BigEndian.Uint64(h[2:])
	default:
		return uint64(length)
	}
}

// closeTooBig is a close frame with the status that says so.
func closeTooBig() []byte {
	const text = "message too big"
	frame := []byte{0x88, byte(2 + len(text)), 0, 0}
	binary.BigEndian.PutUint16(frame[2:], 1009)
	return append(frame, text...)
}
