package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/server/integrity"
	"github.com/upkeep-kv/upkeep/server/maintenance"
)

// workCheck compares all members' histories, raises CORRUPT for those that differ, and finds out since when they do.
func (s *Server) workCheck(ctx context.Context, _ *schedulepb.Task, report func(string, int64, int64)) (*schedulepb.Outcome, error) {
	h := histories{s}
	report("comparing", 0, 0)
	v, err := integrity.Compare(ctx, h)
	if err != nil {
		return nil, err
	}
	rev, sum := checkedHash(v)
	out := &schedulepb.Outcome{Hash: sum}
	for _, a := range v.Answers {
		out.Details = append(out.Details, &schedulepb.Parameter{Name: a.Member.String(), Value: a.String()})
	}
	if v.Equal() {
		out.Message = fmt.Sprintf("%d of %d members were compared up to revision %d and have the same history, hash %08x",
			v.Compared, len(v.Answers), rev, sum)
		return out, nil
	}
	if err := integrity.Report(ctx, h, v, s.logger, func(integrity.Verdict) {}); err != nil {
		return nil, fmt.Errorf("members differ, and the alarm could not be raised: %w; %s", err, v.Detail())
	}
	if v.Tie {
		out.Message = "members differ and no history has a majority, CORRUPT is raised for nobody in particular: " + v.Detail()
		return out, nil
	}
	report("searching", 0, 0)
	out.Message = "CORRUPT is raised: "
	for i, m := range v.Differing {
		if i > 0 {
			out.Message += "; "
		}
		out.Message += fmt.Sprintf("%s differs from the majority %s", m, s.differsSince(ctx, v, m, rev))
	}
	out.Message += ". " + v.Detail()
	return out, nil
}

// checkedHash is the revision that was compared and the hash of the majority.
func checkedHash(v integrity.Verdict) (rev int64, sum uint32) {
	for _, a := range v.Answers {
		if len(v.Healthy) > 0 && a.Member == v.Healthy[0] {
			return a.Revision, a.Sum
		}
	}
	return 0, 0
}

// differsSince says from where on a member's history differs, as far as what is left of it tells.
func (s *Server) differsSince(ctx context.Context, v integrity.Verdict, m integrity.Member, rev int64) string {
	at, err := integrity.Search(ctx, histories{s}, v.Healthy[0], m, rev)
	switch {
	case err != nil:
		s.logger.Warn("cannot find out where a member differs", zap.Stringer("member", m), zap.Error(err))
		return "somewhere up to revision " + strconv.FormatInt(rev, 10)
	case at == 0:
		return "in what is older than the history that is kept"
	}
	return fmt.Sprintf("from revision %d on", at)
}

// workRebuild replaces this member's database by another member's.
func (s *Server) workRebuild(ctx context.Context, task *schedulepb.Task, report func(string, int64, int64)) (*schedulepb.Outcome, error) {
	o := RebuildOptions{
		Disarm: maintenance.Parameter(task.Parameters, maintenance.ParamDisarm) == "true", Report: report,
	}
	if from := maintenance.Parameter(task.Parameters, maintenance.ParamFrom); from != "" {
		id, err := strconv.ParseUint(from, 16, 64)
		if err != nil || id == 0 {
			return nil, errors.New("the member to take the database from must be given by its ID in hexadecimal")
		}
		o.From = id
	}
	before := s.backend.Sizes().File
	result, err := s.Rebuild(ctx, o)
	if err != nil {
		return nil, err
	}
	message := fmt.Sprintf("has the database of member %s now, and hash %08x up to revision %d like that one",
		hexID(result.From), result.Hash, result.Revision)
	if result.Disarmed {
		message += "; its CORRUPT alarm is lowered"
	}
	return &schedulepb.Outcome{
		Message: message, SizeBefore: before, SizeAfter: s.backend.Sizes().File, Bytes: result.SizeBytes,
		LongestPause: int64(result.Pause), Hash: result.Hash,
	}, nil
}
