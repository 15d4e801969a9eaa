package printer

import (
	"fmt"
	"io"
	"sort"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// simplePrinter writes what a person reads at a prompt.
type simplePrinter struct {
	out io.Writer
	hex bool
}

func (p *simplePrinter) Print(response any) error {
	switch r := response.(type) {
	case *clientv3.PutResponse:
		fmt.Fprintln(p.out, "OK")
		p.pair(r.PrevKv, false)
	case Get:
		for _, kv := range r.Response.Kvs {
			p.pair(kv, r.ValueOnly)
		}
	case *clientv3.DeleteResponse:
		p.deleted((*pb.DeleteRangeResponse)(r))
	case *clientv3.TxnResponse:
		p.txn(r)
	case *clientv3.WatchResponse:
		p.watch(r)
	case *clientv3.AlarmResponse:
		for _, alarm := range r.Alarms {
			fmt.Fprintf(p.out, "memberID:%d  alarm:%v\n", alarm.MemberID, alarm.Alarm)
		}
	case Answer:
		fmt.Fprint(p.out, r.Text)
	case Role:
		writeRole(p.out, r)
	case RoleList:
		fmt.Fprint(p.out, Lines(r.Response.Roles))
	case LeaderMoved:
		fmt.Fprintf(p.out, "Leadership transferred from %x to %x\n", r.From, r.To)
	case Healths:
		for _, h := range r {
			if h.Error == "" {
				fmt.Fprintf(p.out, "%s is healthy: successfully committed proposal: took = %s\n", h.Endpoint, h.Took)
			}
		}
	case Statuses:
		for _, s := range r {
			p.row(statusRow(s))
		}
	case EndpointHashes:
		for _, h := range r {
			p.row(endpointHashRow(h))
		}
	case SnapshotStatus:
		p.row(snapshotRow(r))
	case FileHash:
		p.row(fileHashRow(r))
	case Backups:
		for _, m := range r {
			p.row(backupRow(m))
		}
	default:
		return p.printLeaseOrMember(response)
	}
	return nil
}

func (p *simplePrinter) printLeaseOrMember(response any) error {
	switch r := response.(type) {
	case *clientv3.LeaseGrantResponse:
		fmt.Fprintf(p.out, "lease %016x granted with TTL(%ds)\n", r.ID, r.TTL)
	case LeaseRevoked:
		fmt.Fprintf(p.out, "lease %016x revoked\n", r.ID)
	case *clientv3.LeaseKeepAliveResponse:
		fmt.Fprintf(p.out, "lease %016x keepalived with TTL(%d)\n", r.ID, r.TTL)
	case LeaseTTL:
		p.leaseTTL(r)
	case *clientv3.LeaseLeasesResponse:
		fmt.Fprintf(p.out, "found %d leases\n", len(r.Leases))
		for _, lease := range r.Leases {
			fmt.Fprintf(p.out, "%016x\n", lease.ID)
		}
	case *clientv3.MemberListResponse:
		for _, m := range r.Members {
			p.row(memberRow(m))
		}
	case MemberAdded:
		p.memberAdded(r.Name, r.Response)
	case MemberRemoved:
		p.member(r.ID, "removed from", r.Response.Header)
	case MemberUpdated:
		p.member(r.ID, "updated in", r.Response.Header)
	case MemberPromoted:
		p.member(r.ID, "promoted in", r.Response.Header)
	default:
		return notSupported("simple")
	}
	return nil
}

func (p *simplePrinter) row(cells []string) { fmt.Fprintln(p.out, strings.Join(cells, ", ")) }

// pair writes a key line and a value line; a nil pair is nothing.
func (p *simplePrinter) pair(kv *mvccpb.KeyValue, valueOnly bool) {
	if kv == nil {
		return
	}
	key, value := string(kv.Key), string(kv.Value)
	if p.hex {
		key, value = hexBytes(kv.Key), hexBytes(kv.Value)
	}
	if !valueOnly {
		fmt.Fprintln(p.out, key)
	}
	fmt.Fprintln(p.out, value)
}

func (p *simplePrinter) deleted(r *pb.DeleteRangeResponse) {
	fmt.Fprintln(p.out, r.Deleted)
	for _, kv := range r.PrevKvs {
		p.pair(kv, false)
	}
}

func (p *simplePrinter) txn(r *clientv3.TxnResponse) {
	if r.Succeeded {
		fmt.Fprintln(p.out, "SUCCESS")
	} else {
		fmt.Fprintln(p.out, "FAILURE")
	}
	for _, op := range r.Responses {
		fmt.Fprintln(p.out)
		switch op := op.Response.(type) {
		case *pb.ResponseOp_ResponsePut:
			fmt.Fprintln(p.out, "OK")
			p.pair(op.ResponsePut.PrevKv, false)
		case *pb.ResponseOp_ResponseRange:
			for _, kv := range op.ResponseRange.Kvs {
				p.pair(kv, false)
			}
		case *pb.ResponseOp_ResponseDeleteRange:
			p.deleted(op.ResponseDeleteRange)
		}
	}
}

func (p *simplePrinter) watch(r *clientv3.WatchResponse) {
	for _, event := range r.Events {
		fmt.Fprintln(p.out, event.Type)
		p.pair(event.PrevKv, false)
		p.pair(event.Kv, false)
	}
}

func (p *simplePrinter) leaseTTL(r LeaseTTL) {
	lease := r.Response
	if lease.GrantedTTL == 0 && lease.TTL == -1 {
		fmt.Fprintf(p.out, "lease %016x already expired\n", lease.ID)
		return
	}
	fmt.Fprintf(p.out, "lease %016x granted with TTL(%ds), remaining(%ds)", lease.ID, lease.GrantedTTL, lease.TTL)
	if r.WithKeys {
		keys := make([]string, len(lease.Keys))
		for i, key := range lease.Keys {
			keys[i] = string(key)
		}
		fmt.Fprintf(p.out, ", attached keys(%v)", keys)
	}
	fmt.Fprintln(p.out)
}

func (p *simplePrinter) member(id uint64, verb string, header *pb.ResponseHeader) {
	fmt.Fprintf(p.out, "Member %16x %s cluster %16x\n", id, verb, header.GetClusterId())
}

// memberAdded ends with the settings that the new member is to start with.
func (p *simplePrinter) memberAdded(newName string, r *clientv3.MemberAddResponse) {
	verb := "added to"
	if r.Member.IsLearner {
		verb = "added as learner to"
	}
	p.member(r.Member.ID, verb, r.Header)

	var peers []string
	for _, m := range r.Members {
		for _, u := range m.PeerURLs {
			name := m.Name
			if m.ID == r.Member.ID {
				name = newName
			}
			peers = append(peers, name+"="+u)
		}
	}
	fmt.Fprintf(p.out, "\nETCD_NAME=%q\n", newName)
	fmt.Fprintf(p.out, "ETCD_INITIAL_CLUSTER=%q\n", strings.Join(peers, ","))
	fmt.Fprintf(p.out, "ETCD_INITIAL_ADVERTISE_PEER_URLS=%q\n", strings.Join(sortedCopy(r.Member.PeerURLs), ","))
	fmt.Fprint(p.out, "ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n")
}

func sortedCopy(in []string) []string {
	out := append([]string(nil), in...)
	sort.Strings(out)
	return out
}
