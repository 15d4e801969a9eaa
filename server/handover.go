package server

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"
)

// errSuccessorGone ends a hand-over to a member that is stopping too.
var errSuccessorGone = errors.New("it is no longer reachable")

// handOver gives leadership to the follower that lacks the least before this member stops, so that clients need not wait
// for an election. It takes one election timeout at most: longer would serve nobody better than the election does.
func (s *Server) handOver() {
	if s.node == nil || !s.node.IsLeader() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.ElectionTimeout)
	defer cancel()
	for _, id := range s.successors() {
		if ctx.Err() != nil || !s.node.IsLeader() {
			return
		}
		start := time.Now()
		if err := s.handOverTo(ctx, id); err != nil {
			s.logger.Warn("could not hand over leadership", zap.String("to", hexID(id)), zap.Error(err))
			continue
		}
		s.logger.Info("handed over leadership", zap.String("to", hexID(id)), zap.Duration("took", time.Since(start)))
		return
	}
}

// successors are the voters that follow right now, the one that lacks the least first.
func (s *Server) successors() []uint64 {
	progress := s.node.Status().Progress
	var ids []uint64
	for id, p := range progress {
		if id != s.id && !p.IsLearner && p.RecentActive && s.reachable(id) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b uint64) int {
		return cmp.Or(cmp.Compare(progress[b].Match, progress[a].Match), cmp.Compare(a, b))
	})
	return ids
}

func (s *Server) reachable(id uint64) bool { return !s.transport.ActiveSince(id).IsZero() }

// handOverTo gives up as soon as the successor goes away, as it does when all members are stopped at once.
func (s *Server) handOverTo(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for s.reachable(id) {
			if !pause(ctx, s.cfg.HeartbeatInterval/4) {
				return
			}
		}
		cancel(errSuccessorGone)
	}()
	err := s.node.TransferLeadership(ctx, id)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(nil)
	<-watched
	return err
}
