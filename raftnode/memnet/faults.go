package memnet

import "time"

// Partition cuts both directions between two hosts: bytes are held back, dialing waits.
func (n *Network) Partition(a, b string) { n.setDropped(true, pair{a, b}, pair{b, a}) }

// Heal joins two hosts again; what was held back is delivered.
func (n *Network) Heal(a, b string) { n.setDropped(false, pair{a, b}, pair{b, a}) }

// Drop cuts one direction only: from is heard by nobody at to, while to is still heard at from.
func (n *Network) Drop(from, to string) { n.setDropped(true, pair{from, to}) }

// Restore undoes Drop.
func (n *Network) Restore(from, to string) { n.setDropped(false, pair{from, to}) }

func (n *Network) setDropped(dropped bool, directions ...pair) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range directions {
		n.linkLocked(d.from, d.to).dropped = dropped
	}
	if !dropped {
		n.wakeLocked()
	}
}

// Isolate cuts a host off from all others, also from those that do not exist yet.
func (n *Network) Isolate(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isolated[host] = true
}

// Rejoin undoes Isolate; partitions between pairs stay.
func (n *Network) Rejoin(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.isolated, host)
	n.wakeLocked()
}

// HealAll removes every cut. Delays stay.
func (n *Network) HealAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.isolated)
	for _, l := range n.links {
		l.dropped = false
	}
	n.wakeLocked()
}

// Delay makes every write between two hosts, in both directions, arrive after delay plus a random part of jitter.
// Order within a connection is kept.
func (n *Network) Delay(a, b string, delay, jitter time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range []*link{n.linkLocked(a, b), n.linkLocked(b, a)} {
		l.delay, l.jitter = delay, jitter
	}
}

// Disconnect resets the open connections between two hosts and returns how many there were. New ones can be made.
func (n *Network) Disconnect(a, b string) int {
	return n.resetWhere(func(l *link) bool {
		return l.from == a && l.to == b || l.from == b && l.to == a
	})
}

// Crash resets all connections of a host, as if it had lost power. Its listeners stay; close them to have dialing
// refused.
func (n *Network) Crash(host string) int {
	return n.resetWhere(func(l *link) bool { return l.from == host || l.to == host })
}

func (n *Network) resetWhere(match func(*link) bool) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if match(c.out.link) {
			c.resetLocked()
			count++
		}
	}
	return count
}

// wakeLocked makes everybody that waits for data or room look again.
func (n *Network) wakeLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
	for c := range n.conns {
		c.in.changed.Broadcast()
		c.out.changed.Broadcast()
	}
}
