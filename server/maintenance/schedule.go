package maintenance

import (
	"context"
	"time"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
)

// Worker does one kind of maintenance on the member that it runs on.
//
// Run returns when the task is done, or soon after ctx has ended: then somebody else may be about to begin on another
// member. It calls report as it goes, as often as it likes. A member that dies in the middle finds the task again when it
// starts and closes it as interrupted; what the planner begins next may go on from what the first try left on the disk.
// A nil outcome without an error means that there is nothing to tell but that it is done.
type Worker interface {
	Run(ctx context.Context, task *schedulepb.Task, report func(phase string, done, total int64)) (*schedulepb.Outcome, error)
}

// WorkerFunc is a Worker that is a function.
type WorkerFunc func(ctx context.Context, task *schedulepb.Task, report func(phase string, done, total int64)) (*schedulepb.Outcome, error)

// Run calls f.
func (f WorkerFunc) Run(ctx context.Context, task *schedulepb.Task, report func(string, int64, int64)) (*schedulepb.Outcome, error) {
	return f(ctx, task, report)
}

// Planner decides what one kind of maintenance wants next. Plan is pure: everything it may look at is in its input, which
// it must not modify. It runs on the leader, whenever something has changed and at least every half minute, so what it
// returns must be cheap to make.
//
// Without a run in the input it plans by policy; with one it plans that run, of its own kind, and proposes nothing once the
// run is over.
type Planner interface {
	Plan(in PlanInput) []Proposal
}

// PlanInput is what plans are made of.
type PlanInput struct {
	Now    time.Time
	Policy *schedulepb.Policy
	// State holds the last outcomes, among others.
	State *schedulepb.State
	// Members are all members by ID. One that does not answer has its ID, name and Unhealthy only.
	Members   []*schedulepb.Figures
	Retention Retained
	// Run is the run on demand to plan for, nil for the policy.
	Run *schedulepb.Run
}

// Retained is what retention lets compaction delete now.
type Retained struct {
	// Configured is false where nothing is compacted by itself.
	Configured bool
	// Revision is the newest that may be compacted at, 0 for none.
	Revision int64
}

// Proposal is one step of a plan, the first one first.
type Proposal struct {
	Kind   schedulepb.Kind
	Member uint64
	// Reason tells the operator why, with the figures.
	Reason     string
	Parameters []*schedulepb.Parameter
	// Blocked says why it cannot begin now, "" if it can. It becomes an event whenever it changes, so it must not hold
	// figures that move.
	Blocked string
	// NextAt is when that may be over, zero if nobody can tell.
	NextAt time.Time
	// Fail, in the plan of a run, ends the run as failed with this message.
	Fail string
}

// Parameter returns the value of a named parameter, "" without it.
func Parameter(all []*schedulepb.Parameter, name string) string {
	for _, p := range all {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

// Schedule is the replicated schedule as this member sees it. Every method may be called at any time.
type Schedule interface {
	// Now is shared and not to be modified.
	Now() *schedulepb.State
	// Changed is closed at the next change; take it before Now.
	Changed() <-chan struct{}
	// Propose puts a command through the log and returns what it began once this member has applied it.
	Propose(ctx context.Context, c *schedulepb.Command) (any, error)
}

// Timing is how often members report, and how long they may be silent. The executor stops well before the leader gives it
// up, so that no two members can be at work.
type Timing struct {
	// Report is how often the executor of a task reports.
	Report time.Duration
	// Lease is how long after its last report was proposed the executor goes on without another that was applied.
	Lease time.Duration
	// Abandon is how long after the last report that it saw the leader closes the task.
	Abandon time.Duration
	// Look is how often the leader looks at all members when nothing happens.
	Look time.Duration
}

// DefaultTiming leaves room for a few elections.
func DefaultTiming(election time.Duration) Timing {
	lease := max(20*time.Second, 4*election)
	return Timing{Report: lease / 4, Lease: lease, Abandon: 3 * lease, Look: 30 * time.Second}
}
