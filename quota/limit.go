package quota

import (
	"errors"

	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// ErrNoSpace refuses a request that would grow the store past its quota, or while a NOSPACE alarm is active.
var ErrNoSpace = errors.New("mvcc: database space exceeded")

// DefaultBytes is the quota where none is configured.
const DefaultBytes int64 = 2 << 30

// Limit is one member's quota.
type Limit struct {
	// MaxBytes is --quota-backend-bytes: 0 means DefaultBytes, a negative number means no limit.
	MaxBytes int64
	// Size returns the bytes that the database occupies, with what is pending. May be called by many at once.
	Size func() int64
}

// Bytes returns the limit in force; negative for none.
func (l Limit) Bytes() int64 {
	if l.MaxBytes == 0 {
		return DefaultBytes
	}
	return l.MaxBytes
}

// Admit returns ErrNoSpace if r does not fit any more. A request that costs nothing always fits.
func (l Limit) Admit(r *pb.InternalRaftRequest) error {
	cost, limit := Cost(r), l.Bytes()
	if cost == 0 || limit < 0 || l.Size()+cost < limit {
		return nil
	}
	return ErrNoSpace
}
