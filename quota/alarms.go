package quota

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/upkeep-kv/upkeep/backend"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// ErrCorrupt refuses writes while a CORRUPT alarm is active.
var ErrCorrupt = errors.New("corrupt cluster")

// Alarm is one raised alarm.
type Alarm struct {
	Member uint64
	Type   pb.AlarmType
}

// Alarms is the replicated set of raised alarms and its copy in the `alarm` bucket. The apply goroutine changes it;
// anyone may read it.
type Alarms struct {
	mu struct {
		sync.RWMutex
		// sorted by member, then type.
		raised []Alarm
	}
}

// Load reads the alarms that view holds.
func Load(view *backend.View) (*Alarms, error) {
	a := &Alarms{}
	return a, a.Reload(view)
}

// Reload replaces the set by what view holds, after a state transfer.
func (a *Alarms) Reload(view *backend.View) error {
	var raised []Alarm
	err := view.ScanBucket(backend.Alarm, nil, nil, func(k, _ []byte) error {
		var m pb.AlarmMember
		if err := m.UnmarshalVT(k); err != nil {
			return fmt.Errorf("alarm bucket: key %x: %w", k, err)
		}
		raised = append(raised, Alarm{Member: m.MemberID, Type: m.Alarm})
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(raised, compareAlarms)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.raised = raised
	return nil
}

// Activate raises alarm and records it in batch. Raising one that is raised already changes nothing.
func (a *Alarms) Activate(batch *backend.Batch, alarm Alarm) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, found := slices.BinarySearchFunc(a.mu.raised, alarm, compareAlarms)
	if found {
		return
	}
	a.mu.raised = slices.Insert(a.mu.raised, i, alarm)
	batch.Put(backend.Alarm, encodeAlarm(alarm), []byte{})
}

// Deactivate lowers alarm and tells whether it was raised.
func (a *Alarms) Deactivate(batch *backend.Batch, alarm Alarm) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, found := slices.BinarySearchFunc(a.mu.raised, alarm, compareAlarms)
	if !found {
		return false
	}
	a.mu.raised = slices.Delete(a.mu.raised, i, i+1)
	batch.Delete(backend.Alarm, encodeAlarm(alarm))
	return true
}

// List returns the raised alarms of one type, or all for AlarmType_NONE, by member.
func (a *Alarms) List(t pb.AlarmType) []Alarm {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var out []Alarm
	for _, alarm := range a.mu.raised {
		if t == pb.AlarmType_NONE || alarm.Type == t {
			out = append(out, alarm)
		}
	}
	return out
}

// Raised tells whether member has raised an alarm of type t.
func (a *Alarms) Raised(alarm Alarm) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, found := slices.BinarySearchFunc(a.mu.raised, alarm, compareAlarms)
	return found
}

// Check returns the error with which the raised alarms refuse r, nil where they let it pass. Its answer depends on
// replicated state alone.
func (a *Alarms) Check(r *pb.InternalRaftRequest) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if len(a.mu.raised) == 0 {
		return nil
	}
	var noSpace, corrupt bool
	for _, alarm := range a.mu.raised {
		noSpace = noSpace || alarm.Type == pb.AlarmType_NOSPACE
		corrupt = corrupt || alarm.Type == pb.AlarmType_CORRUPT
	}
	switch {
	case corrupt && writes(r):
		return ErrCorrupt
	case noSpace && Cost(r) > 0:
		return ErrNoSpace
	}
	return nil
}

// writes tells whether r changes keys or leases.
func writes(r *pb.InternalRaftRequest) bool {
	return r.Put != nil || r.DeleteRange != nil || r.Txn != nil || r.Compaction != nil ||
		r.LeaseGrant != nil || r.LeaseRevoke != nil
}

func compareAlarms(a, b Alarm) int {
	if c := cmp.Compare(a.Member, b.Member); c != 0 {
		return c
	}
	return cmp.Compare(a.Type, b.Type)
}

func encodeAlarm(alarm Alarm) []byte {
	// Encoding a message of two numbers cannot fail.
	key, _ := (&pb.AlarmMember{MemberID: alarm.Member, Alarm: alarm.Type}).MarshalVT()
	return key
}
