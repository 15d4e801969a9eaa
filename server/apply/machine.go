package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/mvcc/lease"
	"github.com/upkeep-kv/upkeep/mvcc/watch"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/quota"
	"github.com/upkeep-kv/upkeep/raftnode"
	"github.com/upkeep-kv/upkeep/server/auth"
	"github.com/upkeep-kv/upkeep/server/member"
	"github.com/upkeep-kv/upkeep/server/schedule"
)

// keyConfState is where the raft configuration stands in the `meta` bucket, as JSON.
var keyConfState = []byte("confState")

// Config is what a Machine applies to. The machine owns none of it.
type Config struct {
	Backend  *backend.Backend
	Store    *mvcc.Store
	Hub      *watch.Hub
	Lessor   *lease.Lessor
	Alarms   *quota.Alarms
	Auth     *auth.Store
	Members  *member.Cluster
	Timeline *Timeline
	Schedule *schedule.State
	Logger   *zap.Logger
	// Staged is where the file of an online restore was staged, by its SHA-256.
	Staged func(sha256 string) string
	// MembershipChanged is called on the apply goroutine whenever Members may have changed, so that peers can be added
	// and removed.
	MembershipChanged func()
	Observer          Observer
}

// Observer is told what was applied, on the apply goroutine. It decides nothing, and so may read a clock.
type Observer interface {
	EntryBegins()
	CommandApplied(r *pb.InternalRaftRequest, value any, err error)
	// Restoring frames the installation of a received state.
	Restoring(active bool)
}

// Machine is the state machine that the raft node replicates. It implements raftnode.StateMachine.
type Machine struct {
	Config
	// again: what is applied was applied before, to a state that was thrown away. Watchers and observers know of it.
	again bool
}

// New returns the machine over cfg.
func New(cfg Config) *Machine { return &Machine{Config: cfg} }

// Apply applies one committed entry and returns a result for each of its commands. All effects and the entry's index
// become durable in the same transaction of the backend.
func (m *Machine) Apply(e raftnode.Entry) []raftnode.Result {
	if !m.again {
		m.Observer.EntryBegins()
	}
	if len(e.Commands) == 1 && e.Commands[0].OnlineRestore != nil {
		return []raftnode.Result{m.onlineRestore(e, e.Commands[0].OnlineRestore)}
	}
	batch := m.Backend.Begin()
	results := make([]raftnode.Result, len(e.Commands))
	for i, command := range e.Commands {
		value, err := m.command(batch, e.Index, command)
		if m.damaged(err) {
			// Nothing of the entry is sealed, so nothing of it reaches the file.
			results[i].Err = &raftnode.FatalError{Err: fmt.Errorf("the database %s is damaged: %w", m.Backend.Path(), err)}
			return results
		}
		results[i] = raftnode.Result{Value: value, Err: err}
		if !m.again {
			m.Observer.CommandApplied(command, value, err)
		}
	}
	batch.Commit(e.Index, e.Term)
	return results
}

// damaged tells an error of this member's own state from a refusal. The other members apply the command, so to go on would
// mean to differ from them.
func (m *Machine) damaged(err error) bool {
	return err != nil && (errors.Is(err, errHalfTxn) || errors.Is(err, mvcc.ErrCorrupt) || errors.Is(err, backend.ErrCorrupt))
}

// command refuses what auth and alarms do not allow, and does the rest.
func (m *Machine) command(batch *backend.Batch, index uint64, r *pb.InternalRaftRequest) (any, error) {
	checked := m.Auth.Enabled()
	if checked && needsRoot(r) {
		if err := m.Auth.CheckRoot(identity(r)); err != nil {
			return nil, err
		}
	}
	if err := m.Alarms.Check(r); err != nil {
		return nil, err
	}
	if checked {
		if err := m.authorize(r); err != nil {
			return nil, err
		}
	}
	return m.perform(batch, index, r)
}

// perform is the one switch over what a log entry can ask for.
func (m *Machine) perform(batch *backend.Batch, index uint64, r *pb.InternalRaftRequest) (any, error) {
	switch {
	case r.Put != nil:
		return m.put(batch, r.Put)
	case r.Txn != nil:
		return m.txn(batch, r.Txn)
	case r.DeleteRange != nil:
		return m.deleteRange(batch, r.DeleteRange)
	case r.OnlineRestore != nil:
		return nil, ErrRestoreCoalesced
	case r.Range != nil && m.again:
		return nil, nil // nobody waits for it, and readers are kept away
	case r.Range != nil:
		return Range(context.Background(), m.Store, r.Range)
	case r.Compaction != nil:
		return m.compact(batch, r.Compaction)
	case r.LeaseGrant != nil:
		return m.leaseGrant(batch, r.LeaseGrant)
	case r.LeaseRevoke != nil:
		return m.leaseRevoke(batch, r.LeaseRevoke)
	case r.LeaseCheckpoint != nil:
		return m.leaseCheckpoint(batch, r.LeaseCheckpoint)
	case r.Alarm != nil:
		return m.alarm(batch, r.Alarm)
	case r.ClusterVersionSet != nil:
		return m.setClusterVersion(batch, r.ClusterVersionSet)
	case r.ClusterMemberAttrSet != nil:
		return m.setMemberAttributes(batch, r.ClusterMemberAttrSet)
	case r.DowngradeInfoSet != nil:
		return m.setDowngrade(batch, r.DowngradeInfoSet)
	case r.RetentionSample != nil:
		return nil, m.Timeline.sample(batch, r.RetentionSample, m.Store.Revision())
	case r.Maintenance != nil:
		return m.Schedule.Apply(batch, r.Maintenance)
	}
	return m.administer(batch, index, r)
}

// ApplyConfChange applies one membership change. One that makes no sense any more (its member exists, or was removed,
// since it was proposed) is refused here, the same on every member, and leaves raft's configuration as it is.
func (m *Machine) ApplyConfChange(index, term uint64, cc *raftpb.ConfChange,
	install func(accept bool) *raftpb.ConfState,
) raftnode.Result {
	batch := m.Backend.Begin()
	defer batch.Commit(index, term)
	change, err := member.ParseChange(cc)
	if err == nil {
		err = m.Members.Check(change)
	}
	confState := install(err == nil)
	if err != nil {
		m.Logger.Warn("refused a membership change", zap.Uint64("index", index), zap.Error(err))
		return raftnode.Result{Err: err}
	}
	m.Members.Apply(batch, change)
	batch.Put(backend.Meta, keyConfState, encodeConfState(confState))
	m.Logger.Info("applied a membership change", zap.Stringer("type", change.Type),
		zap.String("member-id", fmt.Sprintf("%x", change.Member.ID)), zap.Strings("peer-urls", change.Member.PeerURLs))
	m.MembershipChanged()
	return raftnode.Result{Value: change}
}

// Durable is the log index up to which applied effects are in the database file.
func (m *Machine) Durable() uint64 {
	index, _ := m.Backend.Durable()
	return index
}

// Snapshot pins the applied state for a member that lags behind the log.
func (m *Machine) Snapshot(ctx context.Context) (raftnode.Snapshot, error) {
	image, err := m.Backend.Snapshot(ctx)
	if err != nil {
		return raftnode.Snapshot{}, err
	}
	index, term := image.Applied()
	// The members of the image, not those of now, which may be ahead of it.
	members := member.New(m.Members.ID(), 0)
	if err := members.Load(image.Scan); err != nil {
		return raftnode.Snapshot{}, errors.Join(err, image.Close())
	}
	return raftnode.Snapshot{
		Index: index, Term: term, ConfState: members.ConfState(), Size: image.Size(), Image: image,
	}, nil
}

// Restore replaces the whole state by the database in file, which a leader has sent.
func (m *Machine) Restore(file string, index, term uint64) error {
	m.Observer.Restoring(true)
	defer m.Observer.Restoring(false)
	err := m.Store.Replace(func() error { return m.Backend.Replace(context.Background(), file) })
	if err != nil {
		return err
	}
	if applied, _ := m.Backend.Durable(); applied != index {
		return fmt.Errorf("received database %s is applied up to index %d, its snapshot says %d", file, applied, index)
	}
	if err := m.reload(m.Store.AttachedLeases); err != nil {
		return err
	}
	m.Hub.Reset()
	m.MembershipChanged()
	return nil
}

// Rebuild replaces a state that may be damaged by the database of another member, and applies again what that does not
// hold yet. Readers wait meanwhile, so that none of them sees an older state than the last one saw.
func (m *Machine) Rebuild(file string, index uint64, again func() error) error {
	m.Observer.Restoring(true)
	defer m.Observer.Restoring(false)
	m.again = true
	defer func() { m.again = false }()
	swapped, err := m.Store.ReplaceAnd(func() error {
		return m.Backend.Replace(context.Background(), file)
	}, func() error {
		if applied, _ := m.Backend.Durable(); applied != index {
			return fmt.Errorf("received database %s is applied up to index %d, not %d as was said", file, applied, index)
		}
		if err := m.reload(m.Store.AttachedLeasesExclusive); err != nil {
			return err
		}
		return again()
	})
	switch {
	case err != nil && swapped:
		return &raftnode.FatalError{Err: err}
	case err != nil:
		return err
	}
	m.Hub.Reset()
	m.MembershipChanged()
	return nil
}

// reload makes everything that mirrors the backend agree with it again. The watchers are the caller's to tell.
func (m *Machine) reload(attached func(func(key string, lease int64))) error {
	view := m.Backend.View()
	defer view.Close()
	if err := m.Members.Load(view.ScanBucket); err != nil {
		return err
	}
	if err := m.Alarms.Reload(view); err != nil {
		return err
	}
	if err := m.Auth.Reload(view); err != nil {
		return err
	}
	if err := m.Timeline.Load(view); err != nil {
		return err
	}
	if err := m.Schedule.Load(view); err != nil {
		return err
	}
	if err := m.Lessor.Reload(); err != nil {
		return err
	}
	attached(m.Lessor.Attach)
	return nil
}

// confStateJSON is raftpb.ConfState as the `meta` bucket holds it. Source: storage.md.
type confStateJSON struct {
	Voters         []uint64 `json:"voters,omitempty"`
	Learners       []uint64 `json:"learners,omitempty"`
	VotersOutgoing []uint64 `json:"voters_outgoing,omitempty"`
	LearnersNext   []uint64 `json:"learners_next,omitempty"`
	AutoLeave      bool     `json:"auto_leave"`
}

func encodeConfState(cs *raftpb.ConfState) []byte {
	// A struct of numbers always encodes.
	out, _ := json.Marshal(confStateJSON{
		Voters: cs.Voters, Learners: cs.Learners,
		VotersOutgoing: cs.VotersOutgoing, LearnersNext: cs.LearnersNext, AutoLeave: cs.GetAutoLeave(),
	})
	return out
}
