package differential

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/upkeep-kv/upkeep/tests/longrun"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// person is a side as several users see it: each has the token that it got last, which may have ended since.
type person struct {
	side
	member *proc.Member
	tokens map[string]string
}

func startPerson(t *testing.T, name, program string, flags ...string) *person {
	t.Helper()
	member := proc.Start(t, program, 1, append(flags, "--bcrypt-cost=4")...).Members[0]
	return &person{side: connect(t, name, member), member: member, tokens: map[string]string{}}
}

// send sends req in the name of user.
func (p *person) send(user string, req proto.Message) (proto.Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if token := p.tokens[user]; token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "token", token)
	}
	switch r := req.(type) {
	case *pb.AuthenticateRequest:
		resp, err := pb.NewAuthClient(p.conn).Authenticate(ctx, r)
		if err == nil {
			p.tokens[r.Name] = resp.Token
		}
		return nil, err
	case *pb.WatchCreateRequest:
		return p.watch(ctx, r)
	case *pb.LeaseLeasesRequest:
		resp, err := pb.NewLeaseClient(p.conn).LeaseLeases(ctx, r)
		mask(resp)
		slices.SortFunc(resp.GetLeases(), func(a, b *pb.LeaseStatus) int { return int(a.ID - b.ID) })
		return resp, err
	case *pb.StatusRequest, *pb.HashRequest, *pb.MemberListRequest, *pb.MemberUpdateRequest, *pb.AlarmRequest:
		return nil, p.operate(ctx, req)
	case *pb.PutRequest, *pb.RangeRequest, *pb.DeleteRangeRequest, *pb.TxnRequest, *pb.CompactionRequest, *pb.HashKVRequest,
		*pb.LeaseGrantRequest, *pb.LeaseRevokeRequest, *pb.LeaseTimeToLiveRequest:
		return p.side.send(ctx, req)
	}
	return p.administer(ctx, req)
}

// operate sends what differs in its answer from server to server: only whether it is allowed counts.
func (p *person) operate(ctx context.Context, req proto.Message) (err error) {
	maintenance, cluster := pb.NewMaintenanceClient(p.conn), pb.NewClusterClient(p.conn)
	switch r := req.(type) {
	case *pb.StatusRequest:
		_, err = maintenance.Status(ctx, r)
	case *pb.HashRequest:
		_, err = maintenance.Hash(ctx, r)
	case *pb.AlarmRequest:
		_, err = maintenance.Alarm(ctx, r)
	case *pb.MemberListRequest:
		_, err = cluster.MemberList(ctx, r)
	case *pb.MemberUpdateRequest:
		_, err = cluster.MemberUpdate(ctx, r)
	}
	return err
}

// watch returns the first answer of a new stream.
func (p *person) watch(ctx context.Context, r *pb.WatchCreateRequest) (proto.Message, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewWatchClient(p.conn).Watch(ctx)
	if err != nil {
		return nil, err
	}
	create := &pb.WatchRequest_CreateRequest{CreateRequest: r}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: create}); err != nil {
		return nil, err
	}
	resp, err := stream.Recv()
	if err == nil {
		mask(resp)
	}
	return resp, err
}

func (p *person) administer(ctx context.Context, req proto.Message) (proto.Message, error) {
	c := pb.NewAuthClient(p.conn)
	var resp proto.Message
	var err error
	switch r := req.(type) {
	case *pb.AuthEnableRequest:
		resp, err = c.AuthEnable(ctx, r)
	case *pb.AuthDisableRequest:
		resp, err = c.AuthDisable(ctx, r)
	case *pb.AuthStatusRequest:
		resp, err = c.AuthStatus(ctx, r)
	case *pb.AuthUserAddRequest:
		resp, err = c.UserAdd(ctx, r)
	case *pb.AuthUserDeleteRequest:
		resp, err = c.UserDelete(ctx, r)
	case *pb.AuthUserChangePasswordRequest:
		resp, err = c.UserChangePassword(ctx, r)
	case *pb.AuthUserGrantRoleRequest:
		resp, err = c.UserGrantRole(ctx, r)
	case *pb.AuthUserRevokeRoleRequest:
		resp, err = c.UserRevokeRole(ctx, r)
	case *pb.AuthUserGetRequest:
		resp, err = c.UserGet(ctx, r)
	case *pb.AuthUserListRequest:
		resp, err = c.UserList(ctx, r)
	case *pb.AuthRoleAddRequest:
		resp, err = c.RoleAdd(ctx, r)
	case *pb.AuthRoleDeleteRequest:
		resp, err = c.RoleDelete(ctx, r)
	case *pb.AuthRoleGetRequest:
		resp, err = c.RoleGet(ctx, r)
	case *pb.AuthRoleListRequest:
		resp, err = c.RoleList(ctx, r)
	case *pb.AuthRoleGrantPermissionRequest:
		resp, err = c.RoleGrantPermission(ctx, r)
	case *pb.AuthRoleRevokePermissionRequest:
		resp, err = c.RoleRevokePermission(ctx, r)
	default:
		panic(fmt.Sprintf("no call for %T", req))
	}
	if err != nil {
		return nil, err
	}
	mask(resp)
	return resp, nil
}

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

// next returns a request and who sends it.
func (o *officer) next() (string, proto.Message) {
	user := o.user()
	switch n := o.IntN(100); {
	case n < 45:
		req := o.generator.request()
		straighten(req)
		return user, req
	case n < 57:
		return "", &pb.AuthenticateRequest{Name: o.user(), Password: o.password()}
	case n < 62:
		r := &pb.WatchCreateRequest{Key: o.key(), RangeEnd: o.end(), PrevKv: o.one(2), StartRevision: int64(-o.IntN(20) / 19)}
		r.RangeEnd = straight(r.Key, r.RangeEnd)
		return user, r
	case n < 70:
		return user, o.operation()
	case n < 74:
		return user, o.question()
	}
	if !o.one(6) {
		user = "root"
	}
	return user, o.order()
}

func (o *officer) operation() proto.Message {
	return []proto.Message{
		&pb.StatusRequest{}, &pb.HashRequest{}, &pb.MemberListRequest{Linearizable: o.one(2)}, &pb.MemberUpdateRequest{ID: 1},
		&pb.AlarmRequest{}, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE}, &pb.LeaseLeasesRequest{},
	}[o.IntN(7)]
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

// TestSameUsersAsEtcd has several users, some with tokens that have ended, change keys, users and roles at random, and
// compares every answer, and in the end what stands in the buckets.
func TestSameUsersAsEtcd(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("between the members"), 0o600); err != nil {
		t.Fatal(err)
	}
	each := longrun.Length(t, 10*time.Second) / 2
	for _, tokens := range []string{"simple", "jwt,sign-method=HS256,ttl=1h,priv-key=" + secret} {
		kind, _, _ := strings.Cut(tokens, ",")
		t.Run(kind, func(t *testing.T) { compareUsers(t, each, "--auth-token="+tokens) })
	}
}

func compareUsers(t *testing.T, length time.Duration, flag string) {
	seed, _ := longrun.Seed(t, rand.Uint64())
	ours := startPerson(t, "upkeep", proc.Build(t, "upkeep"), flag)
	theirs := startPerson(t, "etcd", proc.Peer(t, "etcd"), flag)
	hash, err := bcrypt.GenerateFromPassword([]byte("pw1"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	o := &officer{
		generator: &generator{Rand: rand.New(rand.NewPCG(seed, 1)), rev: 1, leases: []int64{1000, 1001, 1002}},
		hash:      base64.StdEncoding.EncodeToString(hash),
	}
	outcomes := map[string]int{}
	operations := 0
	for deadline := time.Now().Add(length); time.Now().Before(deadline); operations++ {
		user, req := o.next()
		got, gotErr := ours.send(user, req)
		want, wantErr := theirs.send(user, req)
		if !sameError(gotErr, wantErr) || (wantErr == nil && !same(got, want)) {
			t.Fatalf("seed %d, operation %d: %s sends %T{%s}\nupkeep: %v, %v\netcd:   %v, %v", seed, operations, user, req,
				prototext.Format(req), text(got), gotErr, text(want), wantErr)
		}
		if wantErr != nil {
			outcomes[wantErr.Error()]++
		}
		if h, ok := want.(interface{ GetHeader() *pb.ResponseHeader }); ok && wantErr == nil {
			o.rev = max(o.rev, h.GetHeader().GetRevision())
		}
	}
	t.Logf("%d operations, revision %d, seed %d, %d kinds of refusals", operations, o.rev, seed, len(outcomes))
	for _, refused := range []string{"PermissionDenied desc = etcdserver: permission denied", "InvalidArgument desc = etcdserver: user name is empty"} {
		if operations > 1000 && outcomes["rpc error: code = "+refused] == 0 {
			t.Errorf("seed %d: nobody was refused with %q in %d operations", seed, refused, operations)
		}
	}
	ours.member.Stop()
	theirs.member.Stop()
	if got, want := users(t, ours.member), users(t, theirs.member); !slices.Equal(got, want) {
		t.Errorf("seed %d: the buckets differ\nupkeep: %q\netcd:   %q", seed, got, want)
	}
}

func same(a, b proto.Message) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return proto.Equal(a, b)
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
