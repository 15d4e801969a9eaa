package apply

import (
	"errors"

	"github.com/upkeep-kv/upkeep/mvcc/lease"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/server/auth"
)

// Authenticated answers an authentication: the simple token, if tokens are simple, and else what to sign.
type Authenticated struct {
	Token    string
	Identity auth.Identity
}

// identity is who proposed r, as the proposing member found out.
func identity(r *pb.InternalRaftRequest) auth.Identity {
	return auth.Identity{Username: r.Header.GetUsername(), Revision: r.Header.GetAuthRevision()}
}

// needsRoot tells whether r is for those who hold the role root alone.
func needsRoot(r *pb.InternalRaftRequest) bool {
	return r.AuthEnable != nil || r.AuthDisable != nil || r.AuthUserAdd != nil || r.AuthUserDelete != nil ||
		r.AuthUserChangePassword != nil || r.AuthUserGrantRole != nil || r.AuthUserRevokeRole != nil ||
		r.AuthUserList != nil || r.AuthRoleList != nil || r.AuthRoleAdd != nil || r.AuthRoleDelete != nil ||
		r.AuthRoleGrantPermission != nil || r.AuthRoleRevokePermission != nil
}

// authorize refuses what the proposer may not do to keys. What else is for root only (compactions, alarms) is refused
// before it is proposed, since servers propose it too, in their own name.
func (m *Machine) authorize(r *pb.InternalRaftRequest) error {
	id := identity(r)
	switch {
	case r.Put != nil:
		return m.authorizePut(id, r.Put)
	case r.DeleteRange != nil:
		return authorizeDelete(m.Auth, id, r.DeleteRange)
	case r.Txn != nil:
		return m.authorizeTxn(id, r.Txn)
	case r.Range != nil:
		return m.Auth.CheckRead(id, r.Range.Key, r.Range.RangeEnd)
	case r.LeaseRevoke != nil:
		return m.authorizeLease(id, r.LeaseRevoke.ID)
	}
	return nil
}

func (m *Machine) authorizePut(id auth.Identity, r *pb.PutRequest) error {
	if err := m.Auth.CheckWrite(id, r.Key, nil); err != nil {
		return err
	}
	if r.Lease != 0 {
		if err := m.authorizeLease(id, r.Lease); err != nil {
			return err
		}
	}
	if r.PrevKv {
		return m.Auth.CheckRead(id, r.Key, nil)
	}
	return nil
}

// authorizeLease refuses a lease that has keys which id may not write: who revokes it, or attaches a key to it and so
// may want to keep it alive, decides over all of them.
func (m *Machine) authorizeLease(id auth.Identity, leaseID int64) error {
	if m.Auth.CheckRoot(id) == nil {
		return nil
	}
	keys, err := m.Lessor.Keys(leaseID)
	if errors.Is(err, lease.ErrNotFound) {
		return nil // refused later, as what it is
	}
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := m.Auth.CheckWrite(id, []byte(key), nil); err != nil {
			return err
		}
	}
	return nil
}

// Permissions is what can be asked about an identity. *auth.Store is one.
type Permissions interface {
	CheckRead(id auth.Identity, key, end []byte) error
	CheckWrite(id auth.Identity, key, end []byte) error
}

func authorizeDelete(p Permissions, id auth.Identity, r *pb.DeleteRangeRequest) error {
	if err := p.CheckWrite(id, r.Key, r.RangeEnd); err != nil || !r.PrevKv {
		return err
	}
	return p.CheckRead(id, r.Key, r.RangeEnd)
}

// authorizeTxn refuses a transaction of which any comparison or operation, on either path and at any depth, is refused.
func (m *Machine) authorizeTxn(id auth.Identity, r *pb.TxnRequest) error {
	return authorizeTxn(m.Auth, id, r, func(put *pb.PutRequest) error { return m.authorizePut(id, put) })
}

// AuthorizeReadTxn is authorizeTxn for a transaction of nothing but ranges, which does not come to apply.
func AuthorizeReadTxn(p Permissions, id auth.Identity, r *pb.TxnRequest) error {
	return authorizeTxn(p, id, r, func(*pb.PutRequest) error { return nil })
}

func authorizeTxn(p Permissions, id auth.Identity, r *pb.TxnRequest, put func(*pb.PutRequest) error) error {
	for _, c := range r.Compare {
		if err := p.CheckRead(id, c.Key, c.RangeEnd); err != nil {
			return err
		}
	}
	for _, ops := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			var err error
			switch op := op.GetRequest().(type) {
			case *pb.RequestOp_RequestRange:
				err = p.CheckRead(id, op.RequestRange.GetKey(), op.RequestRange.GetRangeEnd())
			case *pb.RequestOp_RequestPut:
				err = put(op.RequestPut)
			case *pb.RequestOp_RequestDeleteRange:
				err = authorizeDelete(p, id, op.RequestDeleteRange)
			case *pb.RequestOp_RequestTxn:
				err = authorizeTxn(p, id, op.RequestTxn, put)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
