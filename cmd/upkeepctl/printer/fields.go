package printer

import (
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// fieldsPrinter writes `"Name" : value` lines, the response header first.
type fieldsPrinter struct {
	out io.Writer
	hex bool
}

func (p *fieldsPrinter) Print(response any) error {
	switch r := response.(type) {
	case *clientv3.PutResponse:
		p.put((*pb.PutResponse)(r))
	case Get:
		p.get((*pb.RangeResponse)(r.Response), r.CountOnly)
	case *clientv3.DeleteResponse:
		p.del((*pb.DeleteRangeResponse)(r))
	case *clientv3.TxnResponse:
		p.txn(r)
	case *clientv3.WatchResponse:
		p.watch(r)
	case *clientv3.AlarmResponse:
		p.header(r.Header)
		for _, alarm := range r.Alarms {
			p.id("MemberID", alarm.MemberID)
			p.raw("AlarmType", alarm.Alarm)
		}
	case *clientv3.MemberListResponse:
		p.members(r)
	case Healths:
		for _, h := range r {
			p.text("Endpoint", h.Endpoint)
			p.raw("Health", h.Health)
			p.raw("Took", h.Took)
			p.raw("Error", h.Error)
			fmt.Fprintln(p.out)
		}
	case Statuses:
		for _, s := range r {
			p.status(s)
		}
	case EndpointHashes:
		for _, h := range r {
			p.header(h.HashKV.Header)
			p.text("Endpoint", h.Endpoint)
			p.raw("Hash", h.HashKV.Hash)
			p.raw("HashRevision", h.HashKV.HashRevision)
			fmt.Fprintln(p.out)
		}
	case Backups:
		for _, m := range r {
			p.backup(m)
		}
	case Role:
		p.role(r)
	case RoleList:
		p.roles(r)
	case Answer:
		if r.NoFields {
			return notSupported("fields")
		}
		p.header(r.header())
	default:
		return p.printLeaseOrFile(response)
	}
	return nil
}

func (p *fieldsPrinter) printLeaseOrFile(response any) error {
	switch r := response.(type) {
	case *clientv3.LeaseGrantResponse:
		p.header(r.ResponseHeader)
		p.lease("ID", int64(r.ID))
		p.raw("TTL", r.TTL)
	case LeaseRevoked:
		p.header(r.Response.Header)
	case *clientv3.LeaseKeepAliveResponse:
		p.header(r.ResponseHeader)
		p.lease("ID", int64(r.ID))
		p.raw("TTL", r.TTL)
	case LeaseTTL:
		p.header(r.Response.ResponseHeader)
		p.lease("ID", int64(r.Response.ID))
		p.raw("TTL", r.Response.TTL)
		p.raw("GrantedTTL", r.Response.GrantedTTL)
		for _, key := range r.Response.Keys {
			p.text("Key", string(key))
		}
	case *clientv3.LeaseLeasesResponse:
		p.header(r.ResponseHeader)
		for _, lease := range r.Leases {
			p.lease("ID", int64(lease.ID))
		}
	case SnapshotStatus:
		p.raw("Hash", r.Hash)
		p.raw("Revision", r.Revision)
		p.raw("Keys", r.TotalKey)
		p.raw("Size", r.TotalSize)
		p.raw("Version", r.Version)
	case FileHash:
		p.raw("Hash", r.Hash)
		p.raw("Hash revision", r.HashRevision)
		p.raw("Compact revision", r.CompactRevision)
	default:
		return notSupported("fields")
	}
	return nil
}

func (p *fieldsPrinter) raw(name string, value any)     { fmt.Fprintf(p.out, "%q : %v\n", name, value) }
func (p *fieldsPrinter) text(name string, value string) { fmt.Fprintf(p.out, "%q : %q\n", name, value) }
func (p *fieldsPrinter) lease(name string, value int64) {
	p.number(name, uint64(value), value, "%016x")
}
func (p *fieldsPrinter) id(name string, value uint64) { p.number(name, value, value, "%x") }
func (p *fieldsPrinter) number(name string, hexValue uint64, value any, hexVerb string) {
	if p.hex {
		value = fmt.Sprintf(hexVerb, hexValue)
	}
	p.raw(name, value)
}

func (p *fieldsPrinter) header(h *pb.ResponseHeader) {
	p.id("ClusterID", h.GetClusterId())
	p.id("MemberID", h.GetMemberId())
	if h.GetRevision() > 0 { // membership responses have none
		p.raw("Revision", h.GetRevision())
	}
	p.raw("RaftTerm", h.GetRaftTerm())
}

func (p *fieldsPrinter) pair(prefix string, kv *mvccpb.KeyValue) {
	if kv == nil {
		return
	}
	p.text(prefix+"Key", string(kv.Key))
	p.raw(prefix+"CreateRevision", kv.CreateRevision)
	p.raw(prefix+"ModRevision", kv.ModRevision)
	p.raw(prefix+"Version", kv.Version)
	p.text(prefix+"Value", string(kv.Value))
	p.lease(prefix+"Lease", kv.Lease)
}

func (p *fieldsPrinter) put(r *pb.PutResponse) {
	p.header(r.Header)
	p.pair("Prev", r.PrevKv)
}

func (p *fieldsPrinter) get(r *pb.RangeResponse, countOnly bool) {
	p.header(r.Header)
	if !countOnly {
		for _, kv := range r.Kvs {
			p.pair("", kv)
		}
	}
	p.raw("More", r.More)
	p.raw("Count", r.Count)
}

func (p *fieldsPrinter) del(r *pb.DeleteRangeResponse) {
	p.header(r.Header)
	p.raw("Deleted", r.Deleted)
	for _, kv := range r.PrevKvs {
		p.pair("Prev", kv)
	}
}

func (p *fieldsPrinter) txn(r *clientv3.TxnResponse) {
	p.header(r.Header)
	p.raw("Succeeded", r.Succeeded)
	for _, op := range r.Responses {
		switch op := op.Response.(type) {
		case *pb.ResponseOp_ResponsePut:
			p.put(op.ResponsePut)
		case *pb.ResponseOp_ResponseRange:
			p.get(op.ResponseRange, false)
		case *pb.ResponseOp_ResponseDeleteRange:
			p.del(op.ResponseDeleteRange)
		}
	}
}

func (p *fieldsPrinter) watch(r *clientv3.WatchResponse) {
	p.header(r.Header)
	for _, event := range r.Events {
		p.raw("Type", event.Type)
		p.pair("Prev", event.PrevKv)
		p.pair("", event.Kv)
	}
}

func (p *fieldsPrinter) members(r *clientv3.MemberListResponse) {
	p.header(r.Header)
	for _, m := range r.Members {
		p.id("ID", m.ID)
		p.text("Name", m.Name)
		for _, u := range m.PeerURLs {
			p.text("PeerURL", u)
		}
		for _, u := range m.ClientURLs {
			p.text("ClientURL", u)
		}
		p.raw("IsLearner", m.IsLearner)
		fmt.Fprintln(p.out)
	}
}

func (p *fieldsPrinter) status(s Status) {
	r := s.Status
	p.header(r.Header)
	p.text("Version", r.Version)
	p.text("StorageVersion", r.StorageVersion)
	p.raw("DBSize", r.DbSize)
	p.raw("DBSizeInUse", r.DbSizeInUse)
	p.raw("DBSizeQuota", r.DbSizeQuota)
	p.raw("Leader", r.Leader)
	p.raw("IsLearner", r.IsLearner)
	p.raw("RaftIndex", r.RaftIndex)
	p.raw("RaftAppliedIndex", r.RaftAppliedIndex)
	p.raw("Errors", r.Errors)
	p.text("Endpoint", s.Endpoint)
	p.text("DowngradeTargetVersion", r.DowngradeInfo.GetTargetVersion())
	p.raw("DowngradeEnabled", r.DowngradeInfo.GetEnabled())
	fmt.Fprintln(p.out)
}
