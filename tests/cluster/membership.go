package cluster

import (
	"errors"
	"slices"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/server/config"
)

// AddMember adds a voter or a learner and starts it. It returns once the new member serves clients. Members that have not
// been connected for long enough to be counted as healthy are given the time.
func (c *Cluster) AddMember(learner bool) *Member {
	c.t.Helper()
	m := c.newMember(config.ClusterExisting)
	m.learner = learner
	c.change("adding a member", func(client *clientv3.Client) error {
		add := client.MemberAdd
		if learner {
			add = client.MemberAddAsLearner
		}
		ctx, cancel := c.context()
		defer cancel()
		_, err := add(ctx, []string{m.PeerURL()})
		return err
	})
	c.join(m)
	m.start()
	m.WaitReady()
	return m
}

func (c *Cluster) join(m *Member) {
	c.members = append(c.members, m)
	m.initial = c.initialCluster()
}

// Prepare makes a member that the test itself adds, by a client and its PeerURL, before it starts it with Restart.
// AddMember does all of this.
func (c *Cluster) Prepare() *Member {
	m := c.newMember(config.ClusterExisting)
	c.join(m)
	return m
}

// Forget ends the part of a member that the test itself has removed: it waits until it has stopped itself.
// RemoveMember does all of this.
func (c *Cluster) Forget(m *Member) {
	c.t.Helper()
	c.members = slices.DeleteFunc(c.members, func(other *Member) bool { return other == m })
	s := m.Server()
	if s == nil {
		return
	}
	c.Wait(m.Name+" to stop, since it was removed", func() bool {
		select {
		case <-s.Done():
			return true
		default:
			return false
		}
	})
	m.detach()
}

// Promote makes a learner a voter, once it has caught up.
func (m *Member) Promote() {
	c := m.cluster
	c.t.Helper()
	id := m.mustRun("Promote").ID()
	c.change("promoting "+m.Name, func(client *clientv3.Client) error {
		ctx, cancel := c.context()
		defer cancel()
		_, err := client.MemberPromote(ctx, id)
		return err
	})
	m.learner = false
	c.WaitApplied()
}

// RemoveMember removes a member, running or stopped, and waits until it has stopped itself. It is no longer one of
// Members; what it left on its disk stays.
func (c *Cluster) RemoveMember(m *Member) {
	c.t.Helper()
	if len(c.members) == 1 {
		c.t.Fatalf("cluster: RemoveMember of %s: it is the last one", m.Name)
	}
	var id uint64
	c.change("removing "+m.Name, func(client *clientv3.Client) error {
		ctx, cancel := c.context()
		defer cancel()
		if id == 0 {
			list, err := client.MemberList(ctx)
			if err != nil {
				return err
			}
			for _, known := range list.Members {
				if slices.Equal(known.PeerURLs, []string{m.PeerURL()}) {
					id = known.ID
				}
			}
		}
		_, err := client.MemberRemove(ctx, id)
		return err
	})
	// Only now: the leader may be the one that goes.
	c.members = slices.DeleteFunc(c.members, func(other *Member) bool { return other == m })
	c.Forget(m)
}

// change tries again while the cluster only says that it is not ready for a change.
func (c *Cluster) change(what string, do func(*clientv3.Client) error) {
	c.t.Helper()
	c.mustHaveQuorum(what)
	client := c.Leader().Client()
	var last error
	c.eventually(c.options.patience, func() bool {
		last = do(client)
		return !errors.Is(last, rpctypes.ErrUnhealthy) && !errors.Is(last, rpctypes.ErrMemberLearnerNotReady)
	})
	if last != nil {
		c.t.Fatalf("cluster: %s: %v\n%s", what, last, c.describe())
	}
}

// MoveLeader hands leadership to a member and waits until all follow it.
func (c *Cluster) MoveLeader(to *Member) {
	c.t.Helper()
	id := to.mustRun("MoveLeader").ID()
	leader := c.Leader()
	if leader == to {
		return
	}
	ctx, cancel := c.context()
	defer cancel()
	if _, err := leader.Client().MoveLeader(ctx, id); err != nil {
		c.t.Fatalf("cluster: moving leadership from %s to %s: %v", leader.Name, to.Name, err)
	}
	c.Wait("all to follow "+to.Name, func() bool {
		return !slices.ContainsFunc(c.reachable(), func(m *Member) bool { return m.Server().Leader() != id })
	})
}
