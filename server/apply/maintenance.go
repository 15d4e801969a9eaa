package apply

import (
	"errors"
	"strconv"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/quota"
)

// CompactResult answers a compaction.
type CompactResult struct {
	done <-chan struct{}
}

// Done is closed when this member has deleted what the compaction covers and the deletion is durable.
func (c CompactResult) Done() <-chan struct{} { return c.done }

// compact sets the new floor at once; the deletion is the store's background work. A compaction that comes too late
// is refused, but its caller may still wait for the deletion that is under way.
func (m *Machine) compact(batch *backend.Batch, r *pb.CompactionRequest) (any, error) {
	done, err := m.Store.Compact(batch, r.Revision)
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) {
		return nil, err
	}
	return CompactResult{done: done}, err
}

// alarm raises, lowers or lists alarms.
func (m *Machine) alarm(batch *backend.Batch, r *pb.AlarmRequest) (any, error) {
	resp := &pb.AlarmResponse{}
	alarm := quota.Alarm{Member: r.MemberID, Type: r.Alarm}
	switch r.Action {
	case pb.AlarmRequest_GET:
		for _, raised := range m.Alarms.List(r.Alarm) {
			resp.Alarms = append(resp.Alarms, &pb.AlarmMember{MemberID: raised.Member, Alarm: raised.Type})
		}
		return resp, nil
	case pb.AlarmRequest_ACTIVATE:
		if alarm.Type == pb.AlarmType_NONE {
			return resp, nil
		}
		m.Alarms.Activate(batch, alarm)
		m.Logger.Warn("alarm raised", zap.Stringer("alarm", alarm.Type),
			zap.String("member-id", formatID(alarm.Member)))
	case pb.AlarmRequest_DEACTIVATE:
		if !m.Alarms.Deactivate(batch, alarm) {
			return resp, nil
		}
		m.Logger.Info("alarm disarmed", zap.Stringer("alarm", alarm.Type),
			zap.String("member-id", formatID(alarm.Member)))
	default:
		return nil, ErrUnknownCommand
	}
	resp.Alarms = []*pb.AlarmMember{{MemberID: alarm.Member, Alarm: alarm.Type}}
	return resp, nil
}

func formatID(id uint64) string { return strconv.FormatUint(id, 16) }
