package cluster

import (
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Partition cuts the given members off from all other members. Among themselves they still talk, and clients reach both
// sides. What was under way is held back and arrives after Heal, as TCP would have it.
func (c *Cluster) Partition(side ...*Member) {
	c.t.Helper()
	if len(side) == 0 || len(side) >= len(c.members) {
		c.t.Fatalf("cluster: Partition of %d members out of %d leaves nothing to cut off", len(side), len(c.members))
	}
	for _, a := range side {
		for _, b := range c.members {
			if !slices.Contains(side, b) {
				c.network.Partition(a.Host, b.Host)
			}
		}
	}
}

// Mute lets nothing pass from one member to another, while the way back stays open.
func (c *Cluster) Mute(from, to *Member) { c.network.Drop(from.Host, to.Host) }

// Heal ends every Partition and Mute. A paused member stays paused.
func (c *Cluster) Heal() {
	c.network.HealAll()
	for _, m := range c.members {
		if m.paused {
			c.network.Isolate(m.Host)
		}
	}
}

// SlowLink makes everything between two members arrive after delay and a random part of jitter; 0 and 0 undo it. Delay
// is how a message is late.
func (c *Cluster) SlowLink(a, b *Member, delay, jitter time.Duration) {
	c.network.Delay(a.Host, b.Host, delay, jitter)
}

// LoseMessages breaks the connections between two members: what is under way is lost, and raft has to notice. They
// connect again by themselves. It returns how many connections there were.
func (c *Cluster) LoseMessages(a, b *Member) int { return c.network.Disconnect(a.Host, b.Host) }

// SlowClients makes everything between the member and clients arrive late.
func (m *Member) SlowClients(delay, jitter time.Duration) {
	m.cluster.network.Delay(ClientHost, m.Host, delay, jitter)
}

// Pause takes the member out of the world until Resume: nothing reaches it or leaves it, clients included, and its disk
// does not answer. Its timers run on, as those of a machine do whose network and disk hang.
func (m *Member) Pause() {
	m.cluster.t.Helper()
	m.mustRun("Pause")
	m.paused = true
	m.cluster.network.Isolate(m.Host)
	m.disk.stall()
}

// Resume ends Pause; what was held back arrives now.
func (m *Member) Resume() {
	m.cluster.t.Helper()
	if !m.paused {
		m.cluster.t.Fatalf("cluster: Resume of %s: it is not paused", m.Name)
	}
	m.resume()
}

func (m *Member) resume() {
	m.paused = false
	m.disk.resume()
	m.cluster.network.Rejoin(m.Host)
}

// SlowDisk makes every sync of the log and every commit of the database take so much longer; 0 undoes it.
func (m *Member) SlowDisk(delay time.Duration) { m.disk.setDelay(delay) }

// FillDisk leaves no room on the member's disk until EmptyDisk: no file can be made or grow, and the database cannot
// commit. What fits into the log's prepared segment can still be written.
func (m *Member) FillDisk() { m.disk.setFull(true) }

// EmptyDisk ends FillDisk.
func (m *Member) EmptyDisk() { m.disk.setFull(false) }

// DatabaseFile is the member's database, LogFiles the segments of its log, oldest first.
func (m *Member) DatabaseFile() string { return filepath.Join(m.dir, "member", "snap", "db") }

// LogFiles are the segments of the member's log, oldest first.
func (m *Member) LogFiles() []string {
	files, _ := filepath.Glob(filepath.Join(m.dir, "member", "wal", "*.wal")) // the pattern is well-formed
	return files
}

// FlipBit inverts the lowest bit of one byte of one of the member's files, of a running member too. The member's files
// and hashes are not checked any more when the test ends.
func (m *Member) FlipBit(file string, offset int64) {
	m.cluster.t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		m.cluster.t.Fatalf("cluster: FlipBit of %s: %v", m.Name, err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, offset); err != nil {
		m.cluster.t.Fatalf("cluster: FlipBit of %s at %d: %v", file, offset, err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, offset); err != nil {
		m.cluster.t.Fatalf("cluster: FlipBit of %s: %v", m.Name, err)
	}
	m.damaged = true
}

// Wipe removes the data of a stopped member, as a replaced disk has lost it. It cannot start on its own any more: remove
// it from the cluster and add another.
func (m *Member) Wipe() {
	m.cluster.t.Helper()
	if m.Running() {
		m.cluster.t.Fatalf("cluster: Wipe of %s: it runs; Stop or Kill it first", m.Name)
	}
	if err := os.RemoveAll(m.dir); err != nil {
		m.cluster.t.Fatalf("cluster: Wipe of %s: %v", m.Name, err)
	}
	m.damaged = true
}

// Repaired ends what FlipBit began: the member has a sound database again, and its files and hashes are checked.
func (m *Member) Repaired() { m.damaged = false }
