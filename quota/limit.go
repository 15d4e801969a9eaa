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
	cost := Cost(r)
	if cost == 0 || !l.exceeded(cost) {
		return nil
	}
	return ErrNoSpace
}

// Exceeded tells whether the database has reached its quota.
func (l Limit) Exceeded() bool { return l.exceeded(0) }

func (l Limit) exceeded(more int64) bool {
	limit := l.Bytes()
	return limit > 0 && l.Size()+more >= limit
}
