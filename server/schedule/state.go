package schedule

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
)

// What a command is refused with.
var (
	// ErrBusy: another task is open.
	ErrBusy = errors.New("another member is under maintenance")
	// ErrPaused: maintenance is paused.
	ErrPaused = errors.New("maintenance is paused; `upkeepctl maintenance resume` lets it go on")
	// ErrStale: the proposer did not know of a newer task.
	ErrStale = errors.New("the schedule has moved on")
	// ErrNotOpen: the task or run is not open, or belongs to another process.
	ErrNotOpen = errors.New("the task is not open any more")
	// ErrTooManyRuns: so many runs on demand wait already.
	ErrTooManyRuns = errors.New("too many runs on demand are waiting")
	// ErrUnknownCommand: a command of a newer version.
	ErrUnknownCommand = errors.New("unknown maintenance command")
)

const (
	maxEvents = 1000
	// maxOpenRuns bounds the queue of runs, maxEndedRuns what is remembered of them.
	maxOpenRuns  = 16
	maxEndedRuns = 32
	// maxOutcomes bounds the outcomes: a cluster has few members and kinds, but members come and go.
	maxOutcomes = 256
)

const (
	stateKey    = "maintenance/state"
	eventPrefix = "maintenance/event/"
	eventEnd    = "maintenance/event0" // the byte after '/'
)

// State is the schedule as this member has applied it. The apply goroutine changes it; anyone may read it.
type State struct {
	mu struct {
		sync.RWMutex
		// now is never modified once it is here: a command makes a new one.
		now     *schedulepb.State
		events  []*schedulepb.Event // ascending, without holes, at most maxEvents
		changed chan struct{}
	}
}

// New returns an empty schedule.
func New() *State {
	s := &State{}
	s.mu.now = &schedulepb.State{}
	s.mu.changed = make(chan struct{})
	return s
}

// Load replaces the schedule by what view holds.
func (s *State) Load(view *backend.View) error {
	now := &schedulepb.State{}
	var events []*schedulepb.Event
	err := view.ScanBucket(backend.Upkeep, []byte(stateKey), []byte(stateKey+"\x00"), func(_, v []byte) error {
		return now.UnmarshalVT(v)
	})
	if err != nil {
		return fmt.Errorf("upkeep bucket: the schedule of maintenance: %w", err)
	}
	err = view.ScanBucket(backend.Upkeep, []byte(eventPrefix), []byte(eventEnd), func(k, v []byte) error {
		e := &schedulepb.Event{}
		events = append(events, e)
		return e.UnmarshalVT(v)
	})
	if err != nil {
		return fmt.Errorf("upkeep bucket: events of maintenance: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setLocked(now, events)
	return nil
}

func (s *State) setLocked(now *schedulepb.State, events []*schedulepb.Event) {
	s.mu.now, s.mu.events = now, events
	close(s.mu.changed)
	s.mu.changed = make(chan struct{})
}

// Now returns the schedule. It is shared and must not be modified.
func (s *State) Now() *schedulepb.State {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.now
}

// Changed returns a channel that is closed at the next change. Take it before looking at the schedule.
func (s *State) Changed() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.changed
}

// Events returns the kept events after a sequence number, oldest first. They are shared and must not be modified.
func (s *State) Events(after uint64) []*schedulepb.Event {
	s.mu.RLock()
	defer s.mu.RUnlock()
	at, _ := slices.BinarySearchFunc(s.mu.events, after+1, func(e *schedulepb.Event, seq uint64) int {
		return int(int64(e.Sequence) - int64(seq))
	})
	return slices.Clone(s.mu.events[at:])
}

// Apply applies one command and returns the task that it began or the run that it opened, if it did.
func (s *State) Apply(batch *backend.Batch, c *schedulepb.Command) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := &change{State: proto.CloneOf(s.mu.now), time: c.Time}
	value, err := next.apply(c)
	if err != nil {
		return nil, err
	}
	events := s.mu.events
	for _, e := range next.events {
		batch.Put(backend.Upkeep, eventKey(e.Sequence), encode(e))
		events = append(events, e)
	}
	for len(events) > maxEvents {
		batch.Delete(backend.Upkeep, eventKey(events[0].Sequence))
		events = events[1:]
	}
	batch.Put(backend.Upkeep, []byte(stateKey), encode(next.State))
	s.setLocked(next.State, events)
	return value, nil
}

func eventKey(sequence uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(eventPrefix), sequence)
}

func encode(m interface{ MarshalVT() ([]byte, error) }) []byte {
	// Nothing in these messages can fail to encode: their strings came out of a message that was decoded.
	data, _ := m.MarshalVT()
	return data
}

// change is a schedule in the making.
type change struct {
	*schedulepb.State
	time   int64
	events []*schedulepb.Event
}

func (c *change) apply(command *schedulepb.Command) (any, error) {
	switch a := command.Action.(type) {
	case *schedulepb.Command_Begin:
		return c.begin(a.Begin)
	case *schedulepb.Command_Progress:
		return nil, c.progress(a.Progress)
	case *schedulepb.Command_Finish:
		return nil, c.finish(a.Finish)
	case *schedulepb.Command_SetPolicy:
		c.Policy = a.SetPolicy.Policy
		c.event(&schedulepb.Event{Type: schedulepb.Event_POLICY, Reason: a.SetPolicy.Summary})
		return nil, nil
	case *schedulepb.Command_SetPause:
		c.setPause(a.SetPause)
		return nil, nil
	case *schedulepb.Command_OpenRun:
		return c.openRun(a.OpenRun.GetRun())
	case *schedulepb.Command_EndRun:
		return nil, c.endRun(a.EndRun)
	case *schedulepb.Command_Note:
		return nil, c.note(a.Note.GetEvent())
	}
	return nil, ErrUnknownCommand
}

// event records e under the next number, at the command's time.
func (c *change) event(e *schedulepb.Event) {
	c.EventSequence++
	e.Sequence, e.Time = c.EventSequence, c.time
	c.events = append(c.events, e)
}
