package server

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/raftnode/wal"
	"github.com/upkeep-kv/upkeep/server/member"
)

// forceNewCluster ends the log of a stopped member with changes of membership that leave this member alone, and declares
// them committed, for --force-new-cluster. What raft had not committed is given up: nobody was told that it is done.
// Data, cluster ID and member ID stay, as with etcd. A second start with the flag finds nothing to do.
func (s *Server) forceNewCluster(l *openLog) error {
	if !s.cfg.ForceNewCluster || !s.restarted {
		return nil
	}
	hs := l.recovered.HardState
	end := max(hs.GetCommit(), s.backendApplied(), l.recovered.Snapshot.GetIndex())
	base := l.recovered.Snapshot.GetIndex()
	entries := l.recovered.Entries[:min(uint64(len(l.recovered.Entries)), end-base)]
	members, err := s.membersAt(entries)
	if err != nil {
		return err
	}
	own, found := members[s.id]
	if !found {
		own = member.Member{ID: s.id, Name: s.cfg.Name, PeerURLs: s.cfg.peerURLs()}
	}
	var changes []member.Change
	for id := range members {
		if id != s.id {
			changes = append(changes, member.Change{Type: raftpb.ConfChangeRemoveNode, Member: member.Member{ID: id}})
		}
	}
	if !found || own.IsLearner {
		changes = append(changes, member.Change{Type: raftpb.ConfChangeAddNode, Member: own, Promote: found})
	}
	if len(changes) == 0 {
		return nil
	}
	s.logger.Warn("forcing a cluster of one member, --force-new-cluster", s.logField(),
		zap.Int("removed-members", len(members)-1), zap.Uint64("commit-index", end),
		zap.Int("discarded-entries", len(l.recovered.Entries)-len(entries)))
	return l.force(changes, entries, end)
}

// membersAt is the membership behind the entries of the log, some of which the database may have applied.
func (s *Server) membersAt(entries []*raftpb.Entry) (map[uint64]member.Member, error) {
	members := map[uint64]member.Member{}
	for _, m := range s.cluster.Members() {
		members[m.ID] = m
	}
	applied := s.backendApplied()
	for _, e := range entries {
		if e.GetIndex() <= applied || e.GetType() != raftpb.EntryConfChange {
			continue
		}
		var cc raftpb.ConfChange
		if err := proto.Unmarshal(e.GetData(), &cc); err != nil {
			return nil, fmt.Errorf("--force-new-cluster: entry %d of the log: %w", e.GetIndex(), err)
		}
		change, err := member.ParseChange(&cc)
		if err != nil {
			return nil, fmt.Errorf("--force-new-cluster: entry %d of the log: %w", e.GetIndex(), err)
		}
		switch {
		case change.Type == raftpb.ConfChangeRemoveNode:
			delete(members, change.Member.ID)
		case change.Promote:
			m := members[change.Member.ID]
			m.IsLearner = false
			members[change.Member.ID] = m
		case change.Type == raftpb.ConfChangeAddNode || change.Type == raftpb.ConfChangeAddLearnerNode:
			members[change.Member.ID] = change.Member
		}
	}
	return members, nil
}

// force appends the changes behind end, durably, and makes them what was recovered.
func (l *openLog) force(changes []member.Change, entries []*raftpb.Entry, end uint64) error {
	hs := l.recovered.HardState
	term := max(hs.GetTerm(), 1)
	var added []*raftpb.Entry
	for i, c := range changes {
		data, err := proto.Marshal(c.ConfChange())
		if err != nil {
			return err
		}
		added = append(added, &raftpb.Entry{
			Type: raftpb.EntryConfChange.Enum(), Term: new(term), Index: new(end + uint64(i) + 1), Data: data,
		})
	}
	forced := &raftpb.HardState{Term: new(term), Vote: new(hs.GetVote()), Commit: new(end + uint64(len(added)))}
	if err := l.wal.Append(forced, added, nil); err != nil {
		return fmt.Errorf("--force-new-cluster: %w", err)
	}
	if err := l.wal.Sync(); err != nil {
		return fmt.Errorf("--force-new-cluster: %w", err)
	}
	recovered := &wal.Recovered{
		Metadata: l.recovered.Metadata, HardState: forced, Snapshot: l.recovered.Snapshot, Repaired: l.recovered.Repaired,
	}
	recovered.Entries = append(append(recovered.Entries, entries...), added...)
	l.recovered = recovered
	return nil
}
