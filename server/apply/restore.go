package apply

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/raftnode"
)

// An online restore is one command, which every member applies at the same index: it puts the database that was staged on
// all of them before in the place of the state. What says which cluster this is and who may do what in it stays as it is:
// members, cluster version, alarms, users and roles, the schedule of maintenance. Keys and leases become those of the staged
// file, at a revision that is above all that were ever given out, and below which everything is compacted:
//
//	revision before the command   1000, newest in the file 700
//	after it                      1002: keys as the file has them, compacted at 1002
//
// It is 1002 and not 1001 so that a watcher that was level, and waits for 1001, waits below the floor and is cancelled like
// all others: it has missed the restore.

// Errors of an online restore, on all members alike.
var (
	ErrRestoreCoalesced = errors.New("a restore must have a log entry of its own")
	ErrRestoreMembers   = errors.New("the members have changed since the snapshot was given to them: nothing was restored, try again")
)

const (
	keyScheduledCompact = "scheduledCompactRev"
	keyFinishedCompact  = "finishedCompactRev"
	keyConsistentIndex  = "consistent_index"
	keyTerm             = "term"
	// keyBarrier, in our own bucket, is the index of the last online restore: 8 bytes, big-endian. Nobody may be given the
	// log from before it, since it cannot be applied any more without the staged file.
	keyBarrier = "restore/barrier"
)

// RestoreResult answers an online restore.
type RestoreResult struct {
	// Revision is the store's after the restore, and its floor.
	Revision int64
}

// Barrier reads the index of the last online restore, 0 for none.
func Barrier(view *backend.View) (index uint64, err error) {
	err = view.ScanBucket(backend.Upkeep, []byte(keyBarrier), []byte(keyBarrier+"\x00"), func(_, v []byte) error {
		if len(v) != 8 {
			return fmt.Errorf("upkeep bucket: malformed %s", keyBarrier)
		}
		index = binary.BigEndian.Uint64(v)
		return nil
	})
	return index, err
}

// onlineRestore applies an entry that is a restore.
func (m *Machine) onlineRestore(e raftnode.Entry, r *pb.OnlineRestoreRequest) raftnode.Result {
	refuse := func(err error) raftnode.Result {
		m.Backend.Begin().Commit(e.Index, e.Term)
		return raftnode.Result{Err: err}
	}
	var members []uint64
	for _, member := range m.Members.Members() {
		members = append(members, member.ID)
	}
	slices.Sort(members)
	if !slices.Equal(members, r.Members) {
		return refuse(ErrRestoreMembers)
	}
	m.Observer.Restoring(true)
	defer m.Observer.Restoring(false)
	rev := max(m.Store.Revision(), r.NewestRevision) + 2
	if err := m.install(e, r, rev); err != nil {
		return raftnode.Result{Err: &raftnode.FatalError{Err: fmt.Errorf("the restore of snapshot %s cannot be applied: %w",
			r.Sha256, err)}}
	}
	m.Hub.Reset()
	m.MembershipChanged()
	m.Logger.Warn("restored a snapshot", zap.String("staged-sha256", r.Sha256), zap.Int64("revision", rev),
		zap.Uint64("index", e.Index))
	return raftnode.Result{Value: RestoreResult{Revision: rev}, Barrier: true}
}

// install swaps the staged file in. A crash at any point leaves either the state before, with which the entry is applied
// again, or the whole new state, which holds the entry's index.
func (m *Machine) install(e raftnode.Entry, r *pb.OnlineRestoreRequest, rev int64) error {
	file := m.Staged(r.Sha256)
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("this member has lost the file that was given to it before: %w; remove the member from the cluster, "+
			"move its data directory away and add it again", err)
	}
	ctx := context.Background()
	number := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	floor := revision.AppendKey(nil, revision.Revision{Main: rev}, false)
	ops := []backend.Op{
		{Bucket: backend.Key, Key: floor, Value: []byte{}},
		{Bucket: backend.Meta, Key: []byte(keyScheduledCompact), Value: floor},
		{Bucket: backend.Meta, Key: []byte(keyConsistentIndex), Value: number(e.Index)},
		{Bucket: backend.Meta, Key: []byte(keyTerm), Value: number(e.Term)},
		{Bucket: backend.Upkeep, Key: []byte(keyBarrier), Value: number(e.Index)},
	}
	kept, err := m.keptMeta(ctx)
	if err != nil {
		return err
	}
	keep := []backend.Bucket{
		backend.Alarm, backend.Auth, backend.AuthRoles, backend.AuthUsers, backend.Cluster, backend.Members,
		backend.MembersRemoved, backend.Upkeep,
	}
	if err := m.Backend.Graft(ctx, file, keep, append(kept, ops...)); err != nil {
		return err
	}
	_, err = m.Store.ReplaceAnd(func() error {
		return m.Backend.Replace(ctx, file)
	}, func() error {
		return m.reload(m.Store.AttachedLeasesExclusive)
	})
	return err
}

// keptMeta is what the `meta` bucket says of the cluster and not of the keys.
func (m *Machine) keptMeta(ctx context.Context) (ops []backend.Op, err error) {
	if err := m.Backend.Flush(ctx); err != nil {
		return nil, err
	}
	view := m.Backend.View()
	defer view.Close()
	err = view.ScanBucket(backend.Meta, nil, nil, func(k, v []byte) error {
		switch string(k) {
		case keyScheduledCompact, keyFinishedCompact, keyConsistentIndex, keyTerm:
		default:
			ops = append(ops, backend.Op{Bucket: backend.Meta, Key: slices.Clone(k), Value: slices.Clone(v)})
		}
		return nil
	})
	return ops, err
}
