package rpc

import (
	"bytes"
	"context"
	"io"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/mvcc"
	"github.com/upkeep-kv/upkeep/mvcc/lease"
	"github.com/upkeep-kv/upkeep/mvcc/watch"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
	"github.com/upkeep-kv/upkeep/server/apply"
)

// fake is all of Deps in memory: one member, no log, a store of plain maps.
type fake struct {
	hub *watch.Hub

	learner, noLeader atomic.Bool
	admit             func(*pb.InternalRaftRequest) error // nil admits all
	snapshot          []byte
	compactDone       chan struct{} // Done of compactions; nil for none

	mu         sync.Mutex
	linearized int // calls of LinearizableRead
	proposed   []*pb.InternalRaftRequest
	rev        int64
	compacted  int64
	history    map[string][]*mvccpb.KeyValue // by key, ascending; Version 0 is a deletion
	events     map[int64][]*mvccpb.Event
	leases     map[int64]int64
	alarms     []*pb.AlarmMember
	members    []*pb.Member
	downgrade  *pb.DowngradeInfo
}

func newFake() *fake {
	f := &fake{
		rev: 1, compacted: -1,
		history:   make(map[string][]*mvccpb.KeyValue),
		events:    make(map[int64][]*mvccpb.Event),
		leases:    make(map[int64]int64),
		members:   []*pb.Member{{ID: 2, Name: "two", PeerURLs: []string{"http://localhost:2380"}}},
		downgrade: &pb.DowngradeInfo{},
	}
	f.hub = watch.NewHub(f, watch.Config{ProgressInterval: 100 * 1e6})
	return f
}

func (f *fake) deps() Deps {
	return Deps{Headers: f, State: f, Proposer: f, Admission: f, KV: f, Watches: f.hub, Leases: (*fakeLeases)(f),
		Cluster: (*fakeCluster)(f), Maintenance: (*fakeMaintenance)(f)}
}

func (f *fake) Header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: 1, MemberId: 2, Revision: f.Revision(), RaftTerm: 3}
}

func (f *fake) IsLearner() bool { return f.learner.Load() }
func (f *fake) HasLeader() bool { return !f.noLeader.Load() }

func (f *fake) Admit(_ context.Context, r *pb.InternalRaftRequest) error {
	if f.admit == nil {
		return nil
	}
	return f.admit(r)
}

func (f *fake) Revision() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rev
}

func (f *fake) CompactRevision() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.compacted
}

func (f *fake) Events(from int64, maxRevs int, fn func(int64, []*mvccpb.Event) error) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if from < f.compacted {
		return from, watch.ErrCompacted
	}
	for ; from <= f.rev && maxRevs > 0; from++ {
		if len(f.events[from]) == 0 {
			continue
		}
		maxRevs--
		if err := fn(from, f.events[from]); err != nil {
			return from, err
		}
	}
	return from, nil
}

func (f *fake) PrevKV(key []byte, rev int64) *mvccpb.KeyValue {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at(string(key), rev)
}

// at returns the pair of key as of rev. Called under mu.
func (f *fake) at(key string, rev int64) *mvccpb.KeyValue {
	for _, kv := range slices.Backward(f.history[key]) {
		if kv.ModRevision <= rev {
			if kv.Version == 0 {
				return nil
			}
			return kv
		}
	}
	return nil
}

// scan returns the pairs of [key, end) as of rev. Called under mu.
func (f *fake) scan(key, end []byte, rev int64) []*mvccpb.KeyValue {
	var keys []string
	for k := range f.history {
		switch {
		case len(end) == 0 && k == string(key),
			bytes.Equal(end, []byte{0}) && k >= string(key),
			len(end) > 0 && k >= string(key) && k < string(end):
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	var out []*mvccpb.KeyValue
	for _, k := range keys {
		if kv := f.at(k, rev); kv != nil {
			out = append(out, proto.Clone(kv).(*mvccpb.KeyValue))
		}
	}
	return out
}

func (f *fake) LinearizableRead(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.linearized++
	return nil
}

func (f *fake) readRev(rev int64) (int64, error) {
	switch {
	case rev <= 0:
		return f.rev, nil
	case rev > f.rev:
		return 0, mvcc.ErrFutureRevision
	case rev < f.compacted:
		return 0, watch.ErrCompacted
	}
	return rev, nil
}

func (f *fake) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rangeLocked(r)
}

func (f *fake) rangeLocked(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	rev, err := f.readRev(r.Revision)
	if err != nil {
		return nil, err
	}
	kvs := f.scan(r.Key, r.RangeEnd, rev)
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: f.rev}, Count: int64(len(kvs))}
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, resp.More = kvs[:r.Limit], true
	}
	resp.Kvs = kvs
	return resp, nil
}

func (f *fake) ReadTxn(_ context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.txnLocked(r)
}

// txnLocked runs the success branch if there are no compares, else the failure branch.
func (f *fake) txnLocked(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: len(r.Compare) == 0}
	ops := r.Failure
	if resp.Succeeded {
		ops = r.Success
	}
	for _, op := range ops {
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			rr, err := f.rangeLocked(o.RequestRange)
			if err != nil {
				return nil, err
			}
			resp.Responses = append(resp.Responses, &pb.ResponseOp{
				Response: &pb.ResponseOp_ResponseRange{ResponseRange: rr}})
		case *pb.RequestOp_RequestPut:
			f.putLocked(o.RequestPut)
			resp.Responses = append(resp.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{
				ResponsePut: &pb.PutResponse{Header: &pb.ResponseHeader{Revision: f.rev + 1}}}})
		}
	}
	resp.Header.Revision = f.rev
	if len(f.events[f.rev+1]) > 0 {
		resp.Header.Revision++
	}
	return resp, nil
}

func (f *fake) putLocked(r *pb.PutRequest) *mvccpb.KeyValue {
	prev := f.at(string(r.Key), f.rev)
	kv := &mvccpb.KeyValue{Key: r.Key, Value: r.Value, Lease: r.Lease, Version: 1, CreateRevision: f.rev + 1, ModRevision: f.rev + 1}
	if prev != nil {
		kv.Version, kv.CreateRevision = prev.Version+1, prev.CreateRevision
	}
	f.write(mvccpb.Event_PUT, kv)
	return prev
}

// write records a change in the revision that is being made.
func (f *fake) write(kind mvccpb.Event_EventType, kv *mvccpb.KeyValue) {
	f.history[string(kv.Key)] = append(f.history[string(kv.Key)], kv)
	f.events[f.rev+1] = append(f.events[f.rev+1], &mvccpb.Event{Type: kind, Kv: kv})
}

func (f *fake) Propose(_ context.Context, r *pb.InternalRaftRequest) (any, error) {
	f.mu.Lock()
	f.proposed = append(f.proposed, r)
	value, err := f.applyLocked(r)
	rev, events := f.rev+1, f.events[f.rev+1]
	if len(events) > 0 {
		f.rev = rev
	}
	f.mu.Unlock()
	f.hub.Notify(rev, events)
	return value, err
}

func (f *fake) applyLocked(r *pb.InternalRaftRequest) (any, error) {
	switch {
	case r.Put != nil:
		resp := &pb.PutResponse{Header: &pb.ResponseHeader{Revision: f.rev + 1}}
		if prev := f.putLocked(r.Put); r.Put.PrevKv {
			resp.PrevKv = prev
		}
		return resp, nil
	case r.DeleteRange != nil:
		resp := &pb.DeleteRangeResponse{Header: &pb.ResponseHeader{Revision: f.rev}}
		for _, kv := range f.scan(r.DeleteRange.Key, r.DeleteRange.RangeEnd, f.rev) {
			resp.Deleted++
			resp.Header.Revision = f.rev + 1
			f.write(mvccpb.Event_DELETE, &mvccpb.KeyValue{Key: kv.Key, ModRevision: f.rev + 1})
		}
		return resp, nil
	case r.Txn != nil:
		return f.txnLocked(r.Txn)
	case r.Compaction != nil:
		return f.compactLocked(r.Compaction)
	case r.LeaseGrant != nil:
		if _, exists := f.leases[r.LeaseGrant.ID]; exists {
			return nil, lease.ErrExists
		}
		f.leases[r.LeaseGrant.ID] = r.LeaseGrant.TTL
		return &pb.LeaseGrantResponse{ID: r.LeaseGrant.ID, TTL: r.LeaseGrant.TTL}, nil
	case r.LeaseRevoke != nil:
		if _, exists := f.leases[r.LeaseRevoke.ID]; !exists {
			return nil, lease.ErrNotFound
		}
		delete(f.leases, r.LeaseRevoke.ID)
		return &pb.LeaseRevokeResponse{}, nil
	case r.Alarm != nil:
		alarm := &pb.AlarmMember{MemberID: r.Alarm.MemberID, Alarm: r.Alarm.Alarm}
		f.alarms = slices.DeleteFunc(f.alarms, func(a *pb.AlarmMember) bool { return proto.Equal(a, alarm) })
		if r.Alarm.Action == pb.AlarmRequest_ACTIVATE {
			f.alarms = append(f.alarms, alarm)
		}
		return &pb.AlarmResponse{Alarms: []*pb.AlarmMember{alarm}}, nil
	case r.DowngradeInfoSet != nil:
		f.downgrade = &pb.DowngradeInfo{Enabled: r.DowngradeInfoSet.Enabled, TargetVersion: r.DowngradeInfoSet.Ver}
		return nil, nil
	}
	return nil, apply.ErrUnknownCommand
}

type fakeCompaction struct{ done chan struct{} }

func (c fakeCompaction) Done() <-chan struct{} { return c.done }

func (f *fake) compactLocked(r *pb.CompactionRequest) (any, error) {
	result := fakeCompaction{f.compactDone}
	switch {
	case r.Revision > f.rev:
		return nil, mvcc.ErrFutureRevision
	case r.Revision <= f.compacted:
		return result, watch.ErrCompacted
	}
	f.compacted = r.Revision
	return result, nil
}

func (f *fake) Pin(_ context.Context, rev int64) (PinnedReader, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, err := f.readRev(rev)
	return &fakePin{f: f, rev: at, store: f.rev}, err
}

type fakePin struct {
	f          *fake
	rev, store int64
}

func (p *fakePin) StoreRevision() int64 { return p.store }
func (p *fakePin) Close()               {}

func (p *fakePin) Page(_ context.Context, key, end []byte, limit int64, keysOnly bool) ([]*mvccpb.KeyValue, bool, error) {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	kvs := p.f.scan(key, end, p.rev)
	if keysOnly {
		for _, kv := range kvs {
			kv.Value = nil
		}
	}
	if int64(len(kvs)) > limit {
		return kvs[:limit], true, nil
	}
	return kvs, false, nil
}

func (p *fakePin) Count(_ context.Context, key, end []byte) (int64, error) {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	return int64(len(p.f.scan(key, end, p.rev))), nil
}

type fakeLeases fake

func (f *fakeLeases) Renew(_ context.Context, id int64) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ttl, ok := f.leases[id]
	if !ok {
		return 0, lease.ErrNotFound
	}
	return ttl, nil
}

func (f *fakeLeases) TimeToLive(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ttl, ok := f.leases[r.ID]
	if !ok {
		return nil, lease.ErrNotFound
	}
	return &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: ttl - 1, GrantedTTL: ttl}, nil
}

func (f *fakeLeases) Keys(int64) []string { return nil }

func (f *fakeLeases) List(context.Context) ([]int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []int64
	for id := range f.leases {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

type fakeCluster fake

func (f *fakeCluster) Members() []*pb.Member { return f.members }

func (f *fakeCluster) Add(_ context.Context, urls []string, learner bool) (*pb.Member, []*pb.Member, error) {
	m := &pb.Member{ID: 9, PeerURLs: urls, IsLearner: learner}
	f.members = append(f.members, m)
	return m, f.members, nil
}

func (f *fakeCluster) Remove(_ context.Context, id uint64) ([]*pb.Member, error) {
	f.members = slices.DeleteFunc(f.members, func(m *pb.Member) bool { return m.ID == id })
	return f.members, nil
}

func (f *fakeCluster) Update(_ context.Context, id uint64, urls []string) ([]*pb.Member, error) {
	for _, m := range f.members {
		if m.ID == id {
			m.PeerURLs = urls
		}
	}
	return f.members, nil
}

func (f *fakeCluster) Promote(context.Context, uint64) ([]*pb.Member, error) { return f.members, nil }

type fakeMaintenance fake

func (f *fakeMaintenance) Alarms() []*pb.AlarmMember {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.alarms)
}

func (f *fakeMaintenance) Status() *pb.StatusResponse {
	status := &pb.StatusResponse{Version: "3.7.3", Leader: 2, StorageVersion: "3.7.0"}
	if f.noLeader.Load() {
		status.Leader = 0
	}
	return status
}

func (f *fakeMaintenance) Defragment(context.Context) (*pb.DefragmentResponse, error) {
	return &pb.DefragmentResponse{SizeBefore: 10, SizeAfter: 5}, nil
}

func (f *fakeMaintenance) Hash(context.Context) (uint32, error) { return 77, nil }

func (f *fakeMaintenance) HashKV(_ context.Context, rev int64) (*pb.HashKVResponse, error) {
	return &pb.HashKVResponse{Hash: 78, HashRevision: rev, CompactRevision: f.compacted}, nil
}

func (f *fakeMaintenance) Snapshot(context.Context, bool) (Snapshot, string, error) {
	return &fakeSnapshot{data: f.snapshot}, "3.7.0", nil
}

func (f *fakeMaintenance) MoveLeader(context.Context, uint64) error { return nil }
func (f *fakeMaintenance) ClusterVersion() string                   { return "3.7.0" }

func (f *fakeMaintenance) DowngradeInfo() *pb.DowngradeInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.downgrade
}

// fakeSnapshot writes itself in pieces of odd sizes.
type fakeSnapshot struct{ data []byte }

func (s *fakeSnapshot) Size() int64  { return int64(len(s.data)) }
func (s *fakeSnapshot) Close() error { return nil }

func (s *fakeSnapshot) WriteTo(w io.Writer) (int64, error) {
	rest := s.data
	for size := 1; len(rest) > 0; size = size*3 + 1 {
		n, err := w.Write(rest[:min(size, len(rest))])
		if err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return s.Size(), nil
}
