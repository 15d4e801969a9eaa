package printer

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	clientv3 "go.etcd.io/etcd/client/v3"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Get is a range response and how the simple format is to show it.
type Get struct {
	Response  *clientv3.GetResponse
	CountOnly bool
	ValueOnly bool // values without their keys
}

// LeaseRevoked, LeaseTTL and LeaseKeptAlive add to a response the lease or the
// question that it answers.
type (
	LeaseRevoked struct {
		ID       clientv3.LeaseID
		Response *clientv3.LeaseRevokeResponse
	}
	LeaseTTL struct {
		Response *clientv3.LeaseTimeToLiveResponse
		WithKeys bool
	}
)

// Member responses that do not name the member they were about.
type (
	MemberRemoved struct {
		ID       uint64
		Response *clientv3.MemberRemoveResponse
	}
	MemberUpdated struct {
		ID       uint64
		Response *clientv3.MemberUpdateResponse
	}
	MemberPromoted struct {
		ID       uint64
		Response *clientv3.MemberPromoteResponse
	}
	// MemberAdded is followed, in the simple format, by the settings the new member is to start with.
	// Name is what the operator calls it; the server learns it from the member.
	MemberAdded struct {
		Name     string
		Response *clientv3.MemberAddResponse
	}
)

// LeaderMoved says who leads after a transfer.
type LeaderMoved struct {
	From, To uint64
	Response *clientv3.MoveLeaderResponse
}

// Health is the health of one endpoint, in the JSON form scripts read.
type Health struct {
	Endpoint string `json:"endpoint"`
	Health   bool   `json:"health"`
	Took     string `json:"took"`
	Error    string `json:"error,omitempty"`
}

// Healths is what `endpoint health` found. Problems go to stderr in the
// simple format, so the command prints those itself.
type Healths []Health

// Status is the status of one endpoint.
type Status struct {
	Endpoint string
	Status   *clientv3.StatusResponse
}

// Statuses is the answer of `endpoint status`.
type Statuses []Status

// EndpointHash is the HashKV of one endpoint.
type EndpointHash struct {
	Endpoint string
	HashKV   *clientv3.HashKVResponse
}

// EndpointHashes is the answer of `endpoint hashkv`.
type EndpointHashes []EndpointHash

// SnapshotStatus describes a snapshot file.
type SnapshotStatus struct {
	Hash      uint32 `json:"hash"`
	Revision  int64  `json:"revision"`
	TotalKey  int64  `json:"totalKey"`
	TotalSize int64  `json:"totalSize"` // bytes
	Version   string `json:"version"`
}

// FileHash is the HashKV of a database file.
type FileHash struct {
	Hash            uint32 `json:"hash"`
	HashRevision    int64  `json:"hashRevision"`
	CompactRevision int64  `json:"compactRevision"`
}

func statusRow(s Status) []string {
	r := s.Status
	return []string{
		s.Endpoint,
		fmt.Sprintf("%x", r.Header.GetMemberId()),
		r.Version,
		r.StorageVersion,
		humanize.Bytes(uint64(r.DbSize)),
		humanize.Bytes(uint64(r.DbSizeInUse)),
		fmt.Sprintf("%d%%", percentageNotInUse(r.DbSize, r.DbSizeInUse)),
		humanize.Bytes(uint64(r.DbSizeQuota)),
		fmt.Sprint(r.Leader == r.Header.GetMemberId()),
		fmt.Sprint(r.IsLearner),
		fmt.Sprint(r.RaftTerm),
		fmt.Sprint(r.RaftIndex),
		fmt.Sprint(r.RaftAppliedIndex),
		strings.Join(r.Errors, ", "),
		r.DowngradeInfo.GetTargetVersion(),
		fmt.Sprint(r.DowngradeInfo.GetEnabled()),
	}
}

// percentageNotInUse rounds up, so that any free page shows.
func percentageNotInUse(size, inUse int64) int64 {
	if size <= 0 {
		return 0
	}
	return 100 - inUse*100/size
}

func memberRow(m *pb.Member) []string {
	status := "started"
	if m.Name == "" {
		status = "unstarted"
	}
	return []string{
		fmt.Sprintf("%x", m.ID),
		status,
		m.Name,
		strings.Join(m.PeerURLs, ","),
		strings.Join(m.ClientURLs, ","),
		fmt.Sprint(m.IsLearner),
	}
}

func snapshotRow(s SnapshotStatus) []string {
	return []string{
		fmt.Sprintf("%x", s.Hash),
		fmt.Sprint(s.Revision),
		fmt.Sprint(s.TotalKey),
		humanize.Bytes(uint64(s.TotalSize)),
		s.Version,
	}
}

func fileHashRow(h FileHash) []string {
	return []string{fmt.Sprint(h.Hash), fmt.Sprint(h.HashRevision), fmt.Sprint(h.CompactRevision)}
}

func endpointHashRow(h EndpointHash) []string {
	return []string{h.Endpoint, fmt.Sprint(h.HashKV.Hash), fmt.Sprint(h.HashKV.HashRevision)}
}
