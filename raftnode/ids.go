package raftnode

import (
	"sync/atomic"
	"time"
)

// IDs generates identifiers that are unique in the cluster and across restarts, in etcd's form:
//
//	| 16 low bits of the member ID | 40 low bits of Unix milliseconds | 8 bits of counter |
//
// The counter carries into the milliseconds, so identifiers stay unique as long as fewer than 256 are drawn per
// millisecond on average over the life of the process. Safe for concurrent use.
type IDs struct {
	prefix uint64
	suffix atomic.Uint64
}

// NewIDs starts at the given time, which must not lie before the last use by the same member.
func NewIDs(memberID uint64, now time.Time) *IDs {
	g := &IDs{prefix: memberID << 48}
	g.suffix.Store(uint64(now.UnixMilli()) & (1<<40 - 1) << 8)
	return g
}

// Next returns an identifier that was not returned before.
func (g *IDs) Next() uint64 {
	return g.prefix | g.suffix.Add(1)&(1<<48-1)
}
