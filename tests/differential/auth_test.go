package differential

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// officer makes requests about users and roles, of whom there are few so that they meet, and lets the generator make
// those about keys.
type officer struct {
	*generator
	hash string // of password "pw1", in base64
}

func (o *officer) user() string {
	return []string{"root", "u0", "u1", "u2", "u3", "u0", "u1", ""}[o.IntN(8)]
}
func (o *officer) role() string     { return []string{"root", "r0", "r1", "r2", "r0", "r1", ""}[o.IntN(7)] }
func (o *officer) password() string { return fmt.Sprint("pw", o.IntN(2)) }

// next returns what some user does.
func (o *officer) next() step {
	st := step{user: o.user()}
	switch n := o.IntN(100); {
	case n < 45:
		st.req = o.generator.request()
		straighten(st.req)
	case n < 47:
		r := o.generator.ranged()
		straighten(r)
		st.req, st.method = r, rangeStream
	case n < 59:
		return step{req: &pb.AuthenticateRequest{Name: o.user(), Password: o.password()}}
	case n < 62:
		return o.watch(st.user, 2)
	case n < 70:
		st.req = o.operation()
	case n < 74:
		st.req = o.question()
	default:
		if !o.one(6) {
			st.user = "root"
		}
		st.req = o.order()
	}
	return st
}

func (o *officer) question() proto.Message {
	return []proto.Message{
		&pb.AuthStatusRequest{}, &pb.AuthUserGetRequest{Name: o.user()}, &pb.AuthRoleGetRequest{Role: o.role()},
		&pb.AuthUserListRequest{}, &pb.AuthRoleListRequest{},
	}[o.IntN(5)]
}

func (o *officer) order() proto.Message {
	switch n := o.IntN(40); {
	case n < 5:
		r := &pb.AuthUserAddRequest{Name: o.user(), Password: o.password()}
		if o.one(4) {
			r.Options = &authpb.UserAddOptions{NoPassword: o.one(2)}
		}
		return r
	case n < 6:
		return &pb.AuthUserDeleteRequest{Name: o.user()}
	case n < 8:
		r := &pb.AuthUserChangePasswordRequest{Name: o.user(), Password: o.password()}
		if o.one(3) {
			r.Password, r.HashedPassword = "", o.hash
		}
		return r
	case n < 15:
		return &pb.AuthUserGrantRoleRequest{User: o.user(), Role: o.role()}
	case n < 18:
		return &pb.AuthUserRevokeRoleRequest{Name: o.user(), Role: o.role()}
	case n < 21:
		return &pb.AuthRoleAddRequest{Name: o.role()}
	case n < 22:
		return &pb.AuthRoleDeleteRequest{Role: o.role()}
	case n < 32:
		r := &pb.AuthRoleGrantPermissionRequest{Name: o.role()}
		if !o.one(20) {
			r.Perm = &authpb.Permission{PermType: authpb.Permission_Type(o.IntN(3)), Key: o.key(), RangeEnd: o.end()}
		}
		return r
	case n < 35:
		return &pb.AuthRoleRevokePermissionRequest{Role: o.role(), Key: o.key(), RangeEnd: o.end()}
	case n < 39:
		return &pb.AuthEnableRequest{}
	}
	return &pb.AuthDisableRequest{}
}

// straighten takes away ends that lie before their keys: whether etcd allows a user such a range, which holds no key,
// depends on the shape of a tree.
func straighten(req proto.Message) {
	switch r := req.(type) {
	case *pb.RangeRequest:
		r.RangeEnd = straight(r.Key, r.RangeEnd)
	case *pb.DeleteRangeRequest:
		r.RangeEnd = straight(r.Key, r.RangeEnd)
	case *pb.TxnRequest:
		for _, c := range r.Compare {
			c.RangeEnd = straight(c.Key, c.RangeEnd)
		}
		for _, op := range slices.Concat(r.Success, r.Failure) {
			switch {
			case op.GetRequestRange() != nil:
				straighten(op.GetRequestRange())
			case op.GetRequestDeleteRange() != nil:
				straighten(op.GetRequestDeleteRange())
			case op.GetRequestTxn() != nil:
				straighten(op.GetRequestTxn())
			}
		}
	}
}

func straight(key, end []byte) []byte {
	if len(end) > 0 && !bytes.Equal(end, []byte{0}) && bytes.Compare(end, key) < 0 {
		return nil
	}
	return end
}

// users lists what stands in the buckets of users and roles. Salts are random: a hash counts for the password it is of.
func users(t *testing.T, m *proc.Member) (out []string) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(m.DataDir, "member", "snap", "db"), 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		for _, bucket := range []string{"auth", "authRoles", "authUsers"} {
			if err := tx.Bucket([]byte(bucket)).ForEach(func(k, v []byte) error {
				v = bytes.Clone(v)
				if at := bytes.Index(v, []byte("$2a$04$")); bucket == "authUsers" && at >= 0 {
					hash := v[at:min(at+60, len(v))]
					of := "unknown"
					for _, password := range []string{"pw0", "pw1"} {
						if bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil {
							of = password
						}
					}
					copy(hash, fmt.Sprintf("%-60s", of))
				}
				out = append(out, fmt.Sprintf("%s %s=%x", bucket, k, v))
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 2 {
		t.Fatalf("%s has next to nothing in its buckets: %q", m.Name, out)
	}
	return out
}
