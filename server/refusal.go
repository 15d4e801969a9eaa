package server

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/server/member"
)

// refusals are the peers that will not talk to this member, and why.
type refusals struct {
	mu struct {
		sync.Mutex
		reasons map[uint64]string
	}
}

// note returns all peers that have refused so far.
func (r *refusals) note(peer uint64, reason string) []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.reasons == nil {
		r.mu.reasons = map[uint64]string{}
	}
	r.mu.reasons[peer] = reason
	return slices.Sorted(maps.Keys(r.mu.reasons))
}

// refusedByPeer is told when a peer will not talk to this member. A member that was removed while it was away hears of it
// only this way, and stops. One that has never served, and cannot have a quorum without those who refuse it, has the
// data or the addresses of another cluster: it stops too, rather than wait for ever.
func (s *Server) refusedByPeer(peer uint64, err error) {
	refused := s.refused.note(peer, err.Error())
	if strings.Contains(err.Error(), member.ErrIDRemoved.Error()) {
		s.fail(s.removedError())
		return
	}
	s.logger.Warn("a peer refuses this member", zap.String("peer", hexID(peer)), zap.Strings("peer-urls", s.peerURLsOf(peer)),
		zap.String("data-dir", s.dir.root), zap.String("local-cluster-id", hexID(s.clusterID)), s.logField(), zap.Error(err))
	select {
	case <-s.ready:
		return
	default:
	}
	voters := s.voterIDs()
	left := 0
	for _, id := range voters {
		if !slices.Contains(refused, id) {
			left++
		}
	}
	if len(voters) == 0 || left >= quorum(len(voters)) || !s.stillRefused(refused) {
		return
	}
	s.fail(s.strangerError(peer, err))
}

// stillRefused tells whether none of the peers has changed its mind: its streams would be open.
func (s *Server) stillRefused(peers []uint64) bool {
	return !slices.ContainsFunc(peers, s.reachable)
}

func (s *Server) removedError() error {
	return fmt.Errorf("member %s was removed from its cluster: move --data-dir %q away and join as a new member, with "+
		"`etcdctl member add` and --initial-cluster-state=existing", hexID(s.id), s.dir.root)
}

// strangerError says what does not fit: the data if there was some, else the flags.
func (s *Server) strangerError(peer uint64, err error) error {
	at := strings.Join(s.peerURLsOf(peer), ",")
	if !s.restarted {
		return fmt.Errorf("peer %s at %s refuses this new member: %w; --initial-cluster and --initial-cluster-token must "+
			"be the same on all members of a new cluster, and --initial-cluster-state=existing is for joining one that "+
			"runs. Remove --data-dir %q before the next attempt", hexID(peer), at, err, s.dir.root)
	}
	return fmt.Errorf("peer %s at %s refuses this member: %w; --data-dir %q belongs to member %s of cluster %s: start it "+
		"where that cluster is, or move the directory away to join the one at this address as a new member",
		hexID(peer), at, err, s.dir.root, hexID(s.id), hexID(s.clusterID))
}

func (s *Server) peerURLsOf(id uint64) []string {
	for _, m := range s.contacts {
		if m.ID == id {
			return m.PeerURLs
		}
	}
	m, _ := s.cluster.Member(id)
	return m.PeerURLs
}

// voterIDs are the voters as far as this member knows: a new one has not applied the log yet.
func (s *Server) voterIDs() []uint64 {
	var ids []uint64
	for _, m := range s.cluster.Members() {
		if !m.IsLearner {
			ids = append(ids, m.ID)
		}
	}
	return ids
}
