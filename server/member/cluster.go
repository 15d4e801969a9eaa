package member

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend"
)

// Keys of the `cluster` bucket.
var (
	keyVersion   = []byte("clusterVersion")
	keyDowngrade = []byte("downgrade")
)

// Downgrade is a downgrade job: the cluster may be stepped down to TargetVersion while Enabled.
type Downgrade struct {
	TargetVersion string `json:"target-version"`
	Enabled       bool   `json:"enabled"`
}

// Cluster is the replicated membership. The apply goroutine changes it; anyone may read it.
//
// Invariant: members and removed are disjoint, and mirror their buckets.
type Cluster struct {
	id          uint64
	maxLearners int
	mu          struct {
		sync.RWMutex
		members   map[uint64]Member
		removed   map[uint64]bool
		version   string // "3.7.0"; empty until decided
		downgrade Downgrade
	}
}

// New returns the empty membership of a cluster that admits at most maxLearners learners.
func New(clusterID uint64, maxLearners int) *Cluster {
	c := &Cluster{id: clusterID, maxLearners: maxLearners}
	c.mu.members = map[uint64]Member{}
	c.mu.removed = map[uint64]bool{}
	return c
}

// Scan reads a bucket in key order: backend.View.ScanBucket and backend.Snapshot.Scan are such.
type Scan func(bucket backend.Bucket, start, end []byte, fn func(k, v []byte) error) error

// Load replaces the membership by what scan reads.
func (c *Cluster) Load(scan Scan) error {
	members, removed := map[uint64]Member{}, map[uint64]bool{}
	err := scan(backend.Members, nil, nil, func(k, v []byte) error {
		id, err := parseBucketKey(k)
		if err != nil {
			return err
		}
		var m Member
		if err := json.Unmarshal(v, &m); err != nil {
			return fmt.Errorf("members bucket: member %s: %w", k, err)
		}
		members[id] = m
		return nil
	})
	if err != nil {
		return err
	}
	err = scan(backend.MembersRemoved, nil, nil, func(k, _ []byte) error {
		id, err := parseBucketKey(k)
		removed[id] = true
		return err
	})
	if err != nil {
		return err
	}
	var version string
	var downgrade Downgrade
	err = scan(backend.Cluster, nil, nil, func(k, v []byte) error {
		switch string(k) {
		case string(keyVersion):
			version = string(v)
		case string(keyDowngrade):
			return json.Unmarshal(v, &downgrade)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cluster bucket: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.members, c.mu.removed, c.mu.version, c.mu.downgrade = members, removed, version, downgrade
	return nil
}

// ID returns the cluster's ID.
func (c *Cluster) ID() uint64 { return c.id }

// Members returns all members by ID.
func (c *Cluster) Members() []Member {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]Member, 0, len(c.mu.members))
	for _, id := range slices.Sorted(maps.Keys(c.mu.members)) {
		out = append(out, c.mu.members[id])
	}
	return out
}

// Member returns one member.
func (c *Cluster) Member(id uint64) (Member, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	m, ok := c.mu.members[id]
	return m, ok
}

// Removed returns the IDs of removed members, ascending.
func (c *Cluster) Removed() []uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Sorted(maps.Keys(c.mu.removed))
}

// IsRemoved tells whether id was once a member and is no more.
func (c *Cluster) IsRemoved(id uint64) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.mu.removed[id]
}

// IsLearner tells whether id is a learner.
func (c *Cluster) IsLearner(id uint64) bool {
	m, ok := c.Member(id)
	return ok && m.IsLearner
}

// Version returns the cluster's version as "3.7.0", empty until it is decided.
func (c *Cluster) Version() string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.mu.version
}

// Downgrade returns the running downgrade job; not enabled where there is none.
func (c *Cluster) Downgrade() Downgrade {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.mu.downgrade
}

// ConfState returns the raft configuration that the membership stands for.
func (c *Cluster) ConfState() *raftpb.ConfState {
	cs := &raftpb.ConfState{AutoLeave: new(bool)}
	for _, m := range c.Members() {
		if m.IsLearner {
			cs.Learners = append(cs.Learners, m.ID)
		} else {
			cs.Voters = append(cs.Voters, m.ID)
		}
	}
	return cs
}

// Check returns why change cannot be applied, nil if it can. The answer depends on replicated state alone, but for
// maxLearners, which only proposers ask for with CheckLearners.
func (c *Cluster) Check(change Change) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	id := change.Member.ID
	if c.mu.removed[id] {
		return ErrIDRemoved
	}
	current, exists := c.mu.members[id]
	switch change.Type {
	case raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode:
		switch {
		case change.Promote && !exists:
			return ErrMemberNotFound
		case change.Promote && !current.IsLearner:
			return ErrNotLearner
		case change.Promote:
			return nil
		case exists:
			return ErrIDExists
		}
		return c.checkURLsLocked(change.Member)
	case raftpb.ConfChangeRemoveNode:
		if !exists {
			return ErrMemberNotFound
		}
		return nil
	case raftpb.ConfChangeUpdateNode:
		if !exists {
			return ErrMemberNotFound
		}
		return c.checkURLsLocked(change.Member)
	}
	return fmt.Errorf("%w: type %v", ErrMalformed, change.Type)
}

// CheckLearners returns ErrTooManyLearners if one more learner would exceed --max-learners.
func (c *Cluster) CheckLearners() error {
	learners := 0
	for _, m := range c.Members() {
		if m.IsLearner {
			learners++
		}
	}
	if learners >= c.maxLearners {
		return ErrTooManyLearners
	}
	return nil
}

func (c *Cluster) checkURLsLocked(m Member) error {
	for id, other := range c.mu.members {
		if id == m.ID {
			continue
		}
		for _, url := range m.PeerURLs {
			if slices.Contains(other.PeerURLs, url) {
				return ErrPeerURLExists
			}
		}
	}
	return nil
}

// Apply records a change that Check has passed, in memory and in batch.
func (c *Cluster) Apply(batch *backend.Batch, change Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := change.Member
	switch {
	case change.Type == raftpb.ConfChangeRemoveNode:
		delete(c.mu.members, m.ID)
		c.mu.removed[m.ID] = true
		batch.Delete(backend.Members, m.Key())
		batch.Put(backend.MembersRemoved, m.Key(), []byte("removed"))
		return
	case change.Promote:
		m = c.mu.members[m.ID]
		m.IsLearner = false
	case change.Type == raftpb.ConfChangeUpdateNode:
		current := c.mu.members[m.ID]
		current.PeerURLs = m.PeerURLs
		m = current
	}
	c.putLocked(batch, m)
}

// SetAttributes records what a started member says of itself. A member that is gone is left alone.
func (c *Cluster) SetAttributes(batch *backend.Batch, id uint64, name string, clientURLs []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.mu.members[id]
	if !ok {
		return
	}
	m.Name, m.ClientURLs = name, clientURLs
	c.putLocked(batch, m)
}

func (c *Cluster) putLocked(batch *backend.Batch, m Member) {
	c.mu.members[m.ID] = m
	batch.Put(backend.Members, m.Key(), m.Value())
}

// SetVersion records the cluster's version.
func (c *Cluster) SetVersion(batch *backend.Batch, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.version = version
	batch.Put(backend.Cluster, keyVersion, []byte(version))
}

// SetDowngrade records the downgrade job.
func (c *Cluster) SetDowngrade(batch *backend.Batch, d Downgrade) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.downgrade = d
	value, _ := json.Marshal(d)
	batch.Put(backend.Cluster, keyDowngrade, value)
}
