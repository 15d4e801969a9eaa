package cluster

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/snapshot"
)

// Compact forgets the history before rev and returns when it is deleted on the member that was asked.
func (c *Cluster) Compact(rev int64) {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	if _, err := c.Client().Compact(ctx, rev, clientv3.WithCompactPhysical()); err != nil {
		c.t.Fatalf("cluster: compacting at %d: %v", rev, err)
	}
}

// Defrag defragments this member's database.
func (m *Member) Defrag() {
	m.cluster.t.Helper()
	m.mustRun("Defrag")
	ctx, cancel := m.cluster.context()
	defer cancel()
	if _, err := m.Client().Defragment(ctx, m.ClientURL()); err != nil {
		m.cluster.t.Fatalf("cluster: defragmenting %s: %v", m.Name, err)
	}
}

// UnderMaintenance tells whether the member is at work on itself right now, such as on a defragmentation. While there is
// a leader, at most one member is.
func (m *Member) UnderMaintenance() bool {
	s := m.Server()
	return s != nil && s.UnderMaintenance()
}

// Status asks the member itself.
func (m *Member) Status() *clientv3.StatusResponse {
	m.cluster.t.Helper()
	m.mustRun("Status")
	ctx, cancel := m.cluster.context()
	defer cancel()
	resp, err := m.Client().Status(ctx, m.ClientURL())
	if err != nil {
		m.cluster.t.Fatalf("cluster: status of %s: %v", m.Name, err)
	}
	return resp
}

// Snapshot saves a backup of this member at path.
func (m *Member) Snapshot(path string) {
	m.cluster.t.Helper()
	m.mustRun("Snapshot")
	ctx, cancel := m.cluster.context()
	defer cancel()
	stream, err := m.Client().Snapshot(ctx)
	if err == nil {
		defer stream.Close()
		_, err = snapshot.Save(ctx, snapshot.FromReader(stream), path, snapshot.SaveOptions{})
	}
	if err != nil {
		m.cluster.t.Fatalf("cluster: snapshot of %s: %v", m.Name, err)
	}
}

// Alarms lists what is raised, as the cluster sees it.
func (c *Cluster) Alarms() []*pb.AlarmMember {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	resp, err := c.Client().AlarmList(ctx)
	if err != nil {
		c.t.Fatalf("cluster: listing alarms: %v", err)
	}
	return resp.Alarms
}

// Disarm clears every alarm.
func (c *Cluster) Disarm() {
	c.t.Helper()
	for _, a := range c.Alarms() {
		c.disarm(a)
	}
}

func (c *Cluster) disarm(a *pb.AlarmMember) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), c.options.patience)
	defer cancel()
	if _, err := c.Client().AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
		c.t.Fatalf("cluster: disarming %v: %v", a, err)
	}
}

// SetQuota restarts the member with another --quota-backend-bytes.
func (m *Member) SetQuota(bytes int64) {
	m.cluster.t.Helper()
	m.Reconfigure(func(c *config.Config) { c.QuotaBackendBytes = bytes })
}

// SetRetention restarts all members, one after the other, with another window of history; 0 keeps everything.
func (c *Cluster) SetRetention(window time.Duration) {
	c.t.Helper()
	for _, m := range c.members {
		m.Reconfigure(func(cfg *config.Config) { cfg.AutoCompaction = periodic(window) })
	}
}
