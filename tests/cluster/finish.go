package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/raftnode/wal"
)

// finish ends all faults, compares the members, stops them, and looks at what they leave behind.
func (c *Cluster) finish() {
	c.t.Helper()
	for _, m := range c.members {
		m.disk.setFull(false)
		m.disk.setDelay(0)
		if m.paused {
			m.resume()
		}
	}
	c.network.HealAll()
	if !c.t.Failed() {
		c.CheckHashes()
		c.checkMaintenance()
	}
	for _, m := range c.members {
		s := m.Server()
		if s == nil {
			continue
		}
		m.detach()
		if err := s.Close(); err != nil {
			c.t.Errorf("cluster: stopping %s: %v", m.Name, err)
		}
		if err := s.Err(); err != nil && !m.damaged && !c.t.Failed() {
			c.t.Errorf("cluster: %s had stopped by itself: %v", m.Name, err)
		}
	}
	if !c.t.Failed() {
		for _, m := range c.members {
			m.checkFiles()
		}
	}
	c.checkGoroutines()
}

// CheckHashes compares the histories of the running members by HashKV. With a quorum it waits until they have applied
// the same; without one it compares them up to the lowest revision, if their floors allow that.
func (c *Cluster) CheckHashes() {
	c.t.Helper()
	var members []*Member
	voters, up := 0, 0
	for _, m := range c.members {
		if !m.learner {
			voters++
		}
		s := m.Server()
		if s == nil || m.damaged {
			continue
		}
		select {
		case <-s.Done():
			continue
		default:
		}
		if !m.learner {
			up++
		}
		members = append(members, m)
	}
	quorum := up >= voters/2+1
	var report string
	equal := c.eventually(c.options.patience, func() bool {
		var comparable bool
		report, comparable = c.compare(members)
		return report == "" && (comparable || !quorum) || !quorum && !comparable
	})
	if !equal {
		c.t.Errorf("cluster: the members' histories are not the same:\n%s%s", report, c.describe())
	}
}

// compare hashes all members up to the lowest revision that they have in common. It is comparable if all have applied
// the same entries and stand on the same floor.
func (c *Cluster) compare(members []*Member) (report string, comparable bool) {
	if len(members) == 0 {
		return "", true
	}
	lowest, applied := members[0].Server().Revision(), members[0].Server().Applied()
	comparable = true
	for _, m := range members {
		lowest = min(lowest, m.Server().Revision())
		comparable = comparable && m.Server().Applied() == applied
	}
	byFloor := map[int64]map[uint32][]string{}
	for _, m := range members {
		ctx, cancel := c.context()
		h, err := m.Server().HashKV(ctx, lowest)
		cancel()
		if err != nil {
			return fmt.Sprintf("  HashKV of %s at revision %d: %v\n", m.Name, lowest, err), false
		}
		if byFloor[h.CompactRevision] == nil {
			byFloor[h.CompactRevision] = map[uint32][]string{}
		}
		byFloor[h.CompactRevision][h.Hash] = append(byFloor[h.CompactRevision][h.Hash], m.Name)
	}
	for floor, hashes := range byFloor {
		if len(hashes) == 1 {
			continue
		}
		for hash, names := range hashes {
			report += fmt.Sprintf("  HashKV %08x up to revision %d above floor %d: %s\n", hash, lowest, floor, strings.Join(names, ", "))
		}
	}
	return report, comparable && len(byFloor) == 1
}

// checkFiles runs the checkers over the files of a stopped member.
func (m *Member) checkFiles() {
	m.cluster.t.Helper()
	if _, err := os.Stat(m.dir); m.damaged || errors.Is(err, fs.ErrNotExist) {
		return // written to by the test, or never started
	}
	problems, err := backend.Check(context.Background(), m.DatabaseFile())
	if err != nil {
		m.cluster.t.Errorf("cluster: checking the database of %s: %v", m.Name, err)
	}
	for _, p := range problems {
		m.cluster.t.Errorf("cluster: database of %s: %s", m.Name, p)
	}
	if _, err := wal.Load(vfs.OS{}, filepath.Join(m.dir, "member", "wal")); err != nil {
		m.cluster.t.Errorf("cluster: log of %s: %v", m.Name, err)
	}
}

// goroutineLabel marks every goroutine that a cluster's members and clients start, so that clusters of tests that run at
// the same time can be told apart.
const goroutineLabel = "upkeep-cluster"

func (c *Cluster) labelled(do func()) {
	pprof.Do(context.Background(), pprof.Labels(goroutineLabel, c.id), func(context.Context) { do() })
}

// virtual tells whether the test runs in a bubble, whose clock starts in the year 2000. A bubble looks for goroutines
// that are left by itself.
func virtual() bool { return time.Now().Year() < 2020 }

// checkGoroutines fails the test if a goroutine of the cluster does not end.
func (c *Cluster) checkGoroutines() {
	c.t.Helper()
	if virtual() {
		return
	}
	if !c.eventually(5*time.Second, func() bool { return c.leaked() == "" }) {
		c.t.Errorf("cluster: goroutines are left after every member has stopped:\n%s", c.leaked())
	}
}

// leaked returns the stacks of the cluster's goroutines.
func (c *Cluster) leaked() string {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		return err.Error()
	}
	mark := fmt.Sprintf("%q:%q", goroutineLabel, c.id)
	var own []string
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(stack, mark) {
			own = append(own, stack)
		}
	}
	return strings.Join(own, "\n\n")
}
