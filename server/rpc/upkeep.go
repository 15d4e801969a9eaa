package rpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
	"github.com/upkeep-kv/upkeep/server/schedule"
)

// Upkeep shows and steers maintenance. Errors of the schedule package and statuses of its own making reach the client.
type Upkeep interface {
	Status(ctx context.Context) (*upkeeppb.StatusResponse, error)
	Plan(ctx context.Context, r *upkeeppb.PlanRequest) (*upkeeppb.PlanResponse, error)
	Run(ctx context.Context, r *upkeeppb.RunRequest) (*upkeeppb.RunResponse, error)
	// Follow calls send until ctx ends, send fails or the run is over.
	Follow(ctx context.Context, r *upkeeppb.FollowRequest, send func(*upkeeppb.FollowResponse) error) error
	SetPaused(ctx context.Context, paused bool, reason string) error
	History(ctx context.Context, r *upkeeppb.HistoryRequest) (*upkeeppb.HistoryResponse, error)
	Policy(ctx context.Context) (*upkeeppb.GetPolicyResponse, error)
	SetPolicy(ctx context.Context, r *upkeeppb.SetPolicyRequest) (*upkeeppb.SetPolicyResponse, error)
	// Progress calls send until ctx ends, send fails or this member is idle.
	Progress(ctx context.Context, send func(*upkeeppb.ProgressResponse) error) error
	// Restore takes the cluster back; next yields the pieces of the snapshot and, in the end, io.EOF. first holds the options,
	// and may hold the first piece. send is given the progress and, in the end, what was done.
	Restore(ctx context.Context, first *upkeeppb.RestoreRequest, next func() (*upkeeppb.RestoreRequest, error),
		send func(*upkeeppb.RestoreResponse) error) error
}

// upkeepService serves maintenance of the cluster, which is the operator's: all of it needs the role root.
type upkeepService struct {
	upkeeppb.UnimplementedUpkeepServer
	service
}

func (s *upkeepService) Status(ctx context.Context, _ *upkeeppb.StatusRequest) (*upkeeppb.StatusResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	return s.Upkeep.Status(ctx)
}

func (s *upkeepService) Plan(ctx context.Context, r *upkeeppb.PlanRequest) (*upkeeppb.PlanResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	return s.Upkeep.Plan(ctx, r)
}

func (s *upkeepService) Run(ctx context.Context, r *upkeeppb.RunRequest) (*upkeeppb.RunResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	return s.Upkeep.Run(ctx, r)
}

func (s *upkeepService) Follow(r *upkeeppb.FollowRequest, stream grpc.ServerStreamingServer[upkeeppb.FollowResponse]) error {
	if err := s.requireRoot(stream.Context()); err != nil {
		return err
	}
	return s.Upkeep.Follow(stream.Context(), r, stream.Send)
}

func (s *upkeepService) Pause(ctx context.Context, r *upkeeppb.PauseRequest) (*upkeeppb.PauseResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	return &upkeeppb.PauseResponse{}, s.Upkeep.SetPaused(ctx, true, r.Reason)
}

func (s *upkeepService) Resume(ctx context.Context, r *upkeeppb.ResumeRequest) (*upkeeppb.ResumeResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	return &upkeeppb.ResumeResponse{}, s.Upkeep.SetPaused(ctx, false, r.Reason)
}

func (s *upkeepService) History(ctx context.Context, r *upkeeppb.HistoryRequest) (*upkeeppb.HistoryResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	return s.Upkeep.History(ctx, r)
}

func (s *upkeepService) GetPolicy(ctx context.Context, _ *upkeeppb.GetPolicyRequest) (*upkeeppb.GetPolicyResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	return s.Upkeep.Policy(ctx)
}

func (s *upkeepService) SetPolicy(ctx context.Context, r *upkeeppb.SetPolicyRequest) (*upkeeppb.SetPolicyResponse, error) {
	if err := s.requireRoot(ctx); err != nil {
		return nil, err
	}
	return s.Upkeep.SetPolicy(ctx, r)
}

func (s *upkeepService) Progress(_ *upkeeppb.ProgressRequest, stream grpc.ServerStreamingServer[upkeeppb.ProgressResponse]) error {
	if err := s.requireRoot(stream.Context()); err != nil {
		return err
	}
	return s.Upkeep.Progress(stream.Context(), stream.Send)
}

// scheduleErrors: the schedule of maintenance says no. Ours: etcd has none.
func scheduleErrors() []wireError {
	var out []wireError
	for _, sentinel := range []error{schedule.ErrBusy, schedule.ErrPaused, schedule.ErrNotOpen, schedule.ErrTooManyRuns} {
		out = append(out, wireError{sentinel: sentinel, code: codes.FailedPrecondition, text: sentinel.Error(), raw: true})
	}
	return out
}

func (s *upkeepService) Restore(stream grpc.BidiStreamingServer[upkeeppb.RestoreRequest, upkeeppb.RestoreResponse]) error {
	if err := s.requireRoot(stream.Context()); err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	return s.Upkeep.Restore(stream.Context(), first, stream.Recv, stream.Send)
}
