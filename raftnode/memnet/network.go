package memnet

import (
	"context"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Network is a set of listeners and the state of the links between hosts. Its one lock covers everything, so that a
// fault takes effect on all connections at the same instant.
type Network struct {
	mu        sync.Mutex
	rand      *rand.Rand
	listeners map[string]*listener
	links     map[pair]*link
	isolated  map[string]bool
	// conns holds the connecting side of every open connection.
	conns    map[*conn]struct{}
	nextPort int
	// changed is closed and replaced when a link heals, for those that wait in Dial.
	changed chan struct{}
}

type pair struct{ from, to string }

// link is one direction between two hosts.
type link struct {
	pair
	dropped bool
	delay   time.Duration
	jitter  time.Duration
}

// New returns an empty network. The seed fixes the jitter of delays.
func New(seed uint64) *Network {
	return &Network{
		rand:      rand.New(rand.NewPCG(seed, 0)),
		listeners: make(map[string]*listener),
		links:     make(map[pair]*link),
		isolated:  make(map[string]bool),
		conns:     make(map[*conn]struct{}),
		nextPort:  40000,
		changed:   make(chan struct{}),
	}
}

// Listen opens address, "host:port"; port 0 takes a free one.
func (n *Network) Listen(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, opError("listen", nil, Addr(address), err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == "0" {
		address = net.JoinHostPort(host, n.portLocked())
	}
	if n.listeners[address] != nil {
		return nil, opError("listen", nil, Addr(address), syscall.EADDRINUSE)
	}
	l := &listener{network: n, address: Addr(address)}
	l.arrived.L = &n.mu
	n.listeners[address] = l
	return l, nil
}

// Host is the network as one host sees it.
func (n *Network) Host(name string) *Host { return &Host{network: n, name: name} }

// Host dials from its own name, so that faults between two hosts find its connections.
type Host struct {
	network *Network
	name    string
}

// Listen opens a port of this host; 0 takes a free one.
func (h *Host) Listen(port int) (net.Listener, error) {
	return h.network.Listen(net.JoinHostPort(h.name, strconv.Itoa(port)))
}

// Dial connects to a listener. It fails at once when nobody listens there, and waits for ctx when the way there or
// back is cut.
func (h *Host) Dial(ctx context.Context, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, opError("dial", nil, Addr(address), err)
	}
	n := h.network
	for {
		n.mu.Lock()
		if !n.cutLocked(h.name, host) && !n.cutLocked(host, h.name) {
			roundTrip := n.linkLocked(h.name, host).delay + n.linkLocked(host, h.name).delay
			n.mu.Unlock()
			if err := wait(ctx, roundTrip); err != nil {
				return nil, opError("dial", nil, Addr(address), err)
			}
			return n.connect(h.name, host, address)
		}
		changed := n.changed
		n.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, opError("dial", nil, Addr(address), ctx.Err())
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *Network) connect(from, to, address string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.listeners[address]
	if l == nil {
		return nil, opError("dial", nil, Addr(address), syscall.ECONNREFUSED)
	}
	there, back := newHalf(n, n.linkLocked(from, to)), newHalf(n, n.linkLocked(to, from))
	local := Addr(net.JoinHostPort(from, n.portLocked()))
	client := &conn{network: n, in: back, out: there, local: local, remote: l.address}
	server := &conn{network: n, in: there, out: back, local: l.address, remote: local}
	client.peer, server.peer = server, client
	n.conns[client] = struct{}{}
	l.queue = append(l.queue, server)
	l.arrived.Signal()
	return client, nil
}

func (n *Network) portLocked() string {
	n.nextPort++
	return strconv.Itoa(n.nextPort)
}

func (n *Network) linkLocked(from, to string) *link {
	key := pair{from, to}
	l := n.links[key]
	if l == nil {
		l = &link{pair: key}
		n.links[key] = l
	}
	return l
}

func (n *Network) cutLocked(from, to string) bool {
	if from == to {
		return false
	}
	return n.isolated[from] || n.isolated[to] || n.linkLocked(from, to).dropped
}

// listener hands out the serving sides of connections in order of arrival.
type listener struct {
	network *Network
	address Addr
	arrived sync.Cond
	queue   []*conn
	closed  bool
}

func (l *listener) Accept() (net.Conn, error) {
	l.network.mu.Lock()
	defer l.network.mu.Unlock()
	for len(l.queue) == 0 && !l.closed {
		l.arrived.Wait()
	}
	if l.closed {
		return nil, opError("accept", nil, l.address, net.ErrClosed)
	}
	c := l.queue[0]
	l.queue = l.queue[1:]
	return c, nil
}

// Close frees the address and resets connections that nobody accepted.
func (l *listener) Close() error {
	l.network.mu.Lock()
	defer l.network.mu.Unlock()
	if l.closed {
		return opError("close", nil, l.address, net.ErrClosed)
	}
	l.closed = true
	delete(l.network.listeners, string(l.address))
	for _, c := range l.queue {
		c.resetLocked()
	}
	l.queue = nil
	l.arrived.Broadcast()
	return nil
}

func (l *listener) Addr() net.Addr { return l.address }

// Addr is "host:port" of a host in a Network.
type Addr string

// Network is "mem".
func (a Addr) Network() string { return "mem" }

func (a Addr) String() string { return string(a) }

func opError(op string, source, addr net.Addr, err error) error {
	return &net.OpError{Op: op, Net: "mem", Source: source, Addr: addr, Err: err}
}
