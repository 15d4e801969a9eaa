package server

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/proto/peerpb"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server/maintenance"
	"github.com/upkeep-kv/upkeep/server/member"
)

const (
	// figuresTimeout is how long a member may take to say how it is.
	figuresTimeout = 3 * time.Second
	// caughtUpEntries is how many log entries a member may lack and still count as caught up.
	caughtUpEntries = 1000
)

// fleet is all members, as the coordinator of maintenance sees them.
type fleet struct{ *Server }

func (f fleet) IsLeader() bool                 { return f.node.IsLeader() }
func (f fleet) LeaderChanged() <-chan struct{} { return f.node.LeaderChanged() }

func (f fleet) Members() []uint64 {
	var ids []uint64
	for _, m := range f.cluster.Members() {
		ids = append(ids, m.ID)
	}
	return ids
}

// Figures asks every member how it is, all at once.
func (f fleet) Figures(ctx context.Context) []*schedulepb.Figures {
	ctx, cancel := context.WithTimeout(ctx, figuresTimeout)
	defer cancel()
	// What was committed before they are asked, they can have applied when they answer.
	committed, lead := f.node.CommittedIndex(), f.node.Lead()
	members := f.cluster.Members()
	out := make([]*schedulepb.Figures, len(members))
	var asking sync.WaitGroup
	for i, m := range members {
		asking.Go(func() {
			out[i] = f.ask(ctx, m)
			out[i].Member, out[i].IsLeader, out[i].IsLearner = m.ID, m.ID == lead, m.IsLearner
			if m.Name != "" {
				out[i].Name = m.Name
			}
			if out[i].Unhealthy == "" && out[i].Applied+caughtUpEntries < committed {
				out[i].Unhealthy = "has not caught up with the log"
			}
		})
	}
	asking.Wait()
	slices.SortFunc(out, func(a, b *schedulepb.Figures) int { return cmp.Compare(a.Member, b.Member) })
	return out
}

// busyTimeout is how long a member may take to say whether it is busy, before it counts as not.
const busyTimeout = time.Second

// busy says which member is at something of its own that it holds no turn for: a defragmentation that began when there was no
// leader.
func (f fleet) busy(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, busyTimeout)
	defer cancel()
	for _, m := range f.Figures(ctx) {
		if m.Busy != "" && f.schedule.Now().Open == nil {
			return maintenance.NameOf(m)
		}
	}
	return ""
}

// ask returns one member's answer, or why there is none.
func (f fleet) ask(ctx context.Context, m member.Member) *schedulepb.Figures {
	if m.ID == f.id {
		return f.figures()
	}
	if !m.Started() {
		return &schedulepb.Figures{NotStarted: true, Unhealthy: "was added and has not been started yet"}
	}
	conn, err := f.transport.Conn(m.ID)
	if err != nil {
		return &schedulepb.Figures{Unhealthy: "is not connected"}
	}
	figures, err := peerpb.NewPeerClient(conn).Figures(ctx, &schedulepb.FiguresRequest{})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return &schedulepb.Figures{Unhealthy: "is of a version that takes no part in maintenance"}
	case err != nil:
		return &schedulepb.Figures{Unhealthy: "does not answer"}
	}
	return figures
}

// Flags is the policy of this member's flags.
func (f fleet) Flags() *schedulepb.Policy {
	u := &f.cfg.Upkeep
	return &schedulepb.Policy{
		Defrag: &schedulepb.DefragPolicy{
			Enabled: u.Defrag, Rule: u.DefragRule, MinInterval: int64(u.DefragMinInterval), Window: u.Window,
			MoveLeader: u.DefragMoveLeader, CompactFirst: u.DefragCompactFirst,
		},
		Backup: &schedulepb.BackupPolicy{
			Enabled: u.BackupTo != "", Destination: u.BackupTo, Window: u.BackupWindow, Compress: u.BackupCompress,
			FullInterval: int64(u.BackupFullInterval), IncrementalInterval: int64(u.BackupIncrementalInterval),
			KeepCount: int32(u.BackupKeepCount), KeepAge: int64(u.BackupKeepAge), KeepBytes: u.BackupKeepBytes,
			SkipVerify: !u.BackupVerify,
		},
		Recover:   &schedulepb.RecoverPolicy{AutoRecoverNospace: u.RecoverNoSpace, KeepRevisions: u.RecoverKeepRevisions},
		Integrity: &schedulepb.IntegrityPolicy{Enabled: u.CheckInterval > 0, Interval: int64(u.CheckInterval)},
		Settle:    new(int64(u.Settle)),
	}
}

// Retained is what --auto-compaction-retention lets compaction delete.
func (f fleet) Retained(now time.Time) maintenance.Retained {
	retention := f.cfg.AutoCompaction
	r := maintenance.Retained{Configured: retention.Enabled()}
	switch {
	case retention.Period > 0:
		r.Revision, _, _ = f.timeline.Before(now.Add(-retention.Period))
	case retention.Revisions > 0:
		r.Revision = f.store.Revision() - retention.Revisions
	}
	if r.Revision <= max(f.store.CompactRevision(), 1) {
		r.Revision = 0
	}
	return r
}
