package linearizability_test

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// network joins member processes over loopback. Each advertises a port of the network's as its peer URL; behind it the
// network connects to where the member listens. Who dials is told from the process that holds the other end.
type network struct {
	done chan struct{}
	work sync.WaitGroup

	mu struct {
		sync.Mutex
		closed    bool
		listeners []net.Listener
		conns     map[net.Conn]bool
		pids      map[string]func() int // of the members by name; 0 while not running
		cut       map[direction]bool
		delay     map[direction]time.Duration
		changed   chan struct{} // closed and replaced when cuts change
	}
}

// direction is from one member to another.
type direction struct{ from, to string }

func newNetwork(t *testing.T) *network {
	n := &network{done: make(chan struct{})}
	n.mu.conns, n.mu.pids = map[net.Conn]bool{}, map[string]func() int{}
	n.mu.cut, n.mu.delay = map[direction]bool{}, map[direction]time.Duration{}
	n.mu.changed = make(chan struct{})
	t.Cleanup(n.close)
	return n
}

// join makes a port for a member that listens on target, and returns the port's address.
func (n *network) join(t *testing.T, name, target string, pid func() int) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.mu.listeners = append(n.mu.listeners, l)
	n.mu.pids[name] = pid
	n.mu.Unlock()
	n.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n.work.Go(func() { n.carry(conn, name, target) })
		}
	})
	return l.Addr().String()
}

// partition cuts both directions between one member and the others. Bytes are held back, as if packets were lost.
func (n *network) partition(one string, others ...string) {
	for _, other := range others {
		n.drop(one, other)
		n.drop(other, one)
	}
}

// drop cuts one direction.
func (n *network) drop(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.cut[direction{from, to}] = true
}

// slow delays what goes between two members, in both directions.
func (n *network) slow(a, b string, delay time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.delay[direction{a, b}], n.mu.delay[direction{b, a}] = delay, delay
}

// heal ends all cuts and delays; what was held back arrives.
func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.mu.cut)
	clear(n.mu.delay)
	close(n.mu.changed)
	n.mu.changed = make(chan struct{})
}

func (n *network) close() {
	n.mu.Lock()
	n.mu.closed = true
	for _, l := range n.mu.listeners {
		l.Close()
	}
	for c := range n.mu.conns {
		c.Close()
	}
	n.mu.Unlock()
	close(n.done)
	n.work.Wait()
}

// track has close end the connection. It returns false when the network is closed already.
func (n *network) track(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.closed {
		c.Close()
		return false
	}
	n.mu.conns[c] = true
	return true
}

func (n *network) end(c net.Conn) {
	c.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.mu.conns, c)
}

// carry serves one connection.
func (n *network) carry(dialer net.Conn, name, target string) {
	if !n.track(dialer) {
		return
	}
	defer n.end(dialer)
	from := n.owner(dialer)
	if !n.pass(direction{from, name}) { // dialing needs both directions
		return
	}
	if !n.pass(direction{name, from}) {
		return
	}
	member, err := net.Dial("tcp4", target)
	if err != nil || !n.track(member) {
		return
	}
	defer n.end(member)
	var both sync.WaitGroup
	both.Go(func() { n.pump(member, dialer, direction{from, name}) })
	both.Go(func() { n.pump(dialer, member, direction{name, from}) })
	both.Wait()
}

// pump moves bytes in one direction until either end closes, and then closes both.
func (n *network) pump(to, from net.Conn, d direction) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		count, err := from.Read(buf)
		if err != nil || !n.pass(d) {
			return
		}
		if _, err := to.Write(buf[:count]); err != nil {
			return
		}
	}
}

// pass waits until the direction is open. It returns false when the network is closed.
func (n *network) pass(d direction) bool {
	for {
		n.mu.Lock()
		cut, delay, changed := n.mu.cut[d], n.mu.delay[d], n.mu.changed
		n.mu.Unlock()
		if !cut && delay == 0 {
			return true
		}
		if cut {
			select {
			case <-changed:
				continue
			case <-n.done:
				return false
			}
		}
		select {
		case <-time.After(delay):
			return true
		case <-n.done:
			return false
		}
	}
}

// owner returns the name of the member whose process holds the other end of a connection, "" if it is none.
func (n *network) owner(c net.Conn) string {
	inode := inodeOf(c.RemoteAddr().(*net.TCPAddr).Port, c.LocalAddr().(*net.TCPAddr).Port)
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, pid := range n.mu.pids {
		p := pid()
		if p == 0 {
			continue
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p))
		if err != nil {
			continue
		}
		for _, fd := range fds {
			link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", p, fd.Name()))
			if err == nil && link == "socket:["+inode+"]" {
				return name
			}
		}
	}
	return ""
}

// inodeOf finds the socket with these ports on loopback in /proc/net/tcp, whose lines begin
// "number: local remote state queues timer retransmits uid timeout inode".
func inodeOf(local, remote int) string {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(table), "\n") {
		f := strings.Fields(line)
		if len(f) > 9 && hasPort(f[1], local) && hasPort(f[2], remote) {
			return f[9]
		}
	}
	return ""
}

func hasPort(address string, port int) bool {
	_, hex, _ := strings.Cut(address, ":")
	got, err := strconv.ParseInt(hex, 16, 32)
	return err == nil && int(got) == port
}
