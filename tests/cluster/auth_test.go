package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// cheapPasswords spares the test the time that hashing takes.
func cheapPasswords() cluster.Option {
	return cluster.Configure(func(c *config.Config) { c.BcryptCost = 4 })
}

// enableUsers makes root, and ann who may read and write below "ann/".
func enableUsers(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	ctx, client := t.Context(), c.Client()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := client.UserAdd(ctx, "root", "rpw")
	must(err)
	_, err = client.UserGrantRole(ctx, "root", "root")
	must(err)
	_, err = client.UserAdd(ctx, "ann", "apw")
	must(err)
	_, err = client.RoleAdd(ctx, "ann")
	must(err)
	_, err = client.RoleGrantPermission(ctx, "ann", "ann/", "ann0", clientv3.PermissionType(clientv3.PermReadWrite))
	must(err)
	_, err = client.UserGrantRole(ctx, "ann", "ann")
	must(err)
	_, err = client.AuthEnable(ctx)
	must(err)
}

// login returns a context that presents a token which member m has issued.
func login(t *testing.T, m *cluster.Member, name, password string) context.Context {
	t.Helper()
	resp, err := m.Client().Authenticate(t.Context(), name, password)
	if err != nil {
		t.Fatalf("%s at %s: %v", name, m.Name, err)
	}
	return metadata.AppendToOutgoingContext(t.Context(), "token", resp.Token)
}

// plain calls without what clientv3 adds: it would authenticate again by itself.
func plain(m *cluster.Member) pb.KVClient { return pb.NewKVClient(m.Client().ActiveConnection()) }

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if got := rpctypes.Error(err); !errors.Is(got, want) && fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%s: %v, want %v", what, err, want)
	}
}

// A token is good at every member the moment one of them has answered with it, and ends everywhere with its user.
func TestTokensAtEveryMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cheapPasswords())
		enableUsers(t, c)
		for i := range 3 {
			ann := login(t, c.Member(i), "ann", "apw")
			for _, m := range c.Members() {
				_, err := plain(m).Put(ann, &pb.PutRequest{Key: []byte("ann/k"), Value: []byte(m.Name)})
				wantErr(t, "put at "+m.Name, err, nil)
				resp, err := plain(m).Range(ann, &pb.RangeRequest{Key: []byte("ann/k")})
				if err != nil || string(resp.Kvs[0].Value) != m.Name {
					t.Fatalf("range at %s: %v, %v", m.Name, resp, err)
				}
				_, err = plain(m).Range(ann, &pb.RangeRequest{Key: []byte("x")})
				wantErr(t, "range of another's key", err, rpctypes.ErrPermissionDenied)
			}
		}
		ann, root := login(t, c.Member(0), "ann", "apw"), login(t, c.Member(1), "root", "rpw")
		if _, err := c.Member(2).Client().UserChangePassword(root, "ann", "other"); err != nil {
			t.Fatal(err)
		}
		for _, m := range c.Members() {
			// Linearizable: it comes after the change, whichever member answers.
			_, err := plain(m).Range(ann, &pb.RangeRequest{Key: []byte("ann/k")})
			wantErr(t, "ended token at "+m.Name, err, rpctypes.ErrInvalidAuthToken)
		}
		login(t, c.Member(2), "ann", "other")
	})
}

// A token lives as long as it is used, and not longer, at each member by itself. A restart ends it.
func TestTokenLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cheapPasswords(), cluster.Members(1), cluster.Heartbeat(time.Second),
			cluster.Configure(func(c *config.Config) { c.AuthTokenTTLSeconds = 60 }))
		enableUsers(t, c)
		m := c.Member(0)
		ann := login(t, m, "ann", "apw")
		get := func() error {
			_, err := plain(m).Range(ann, &pb.RangeRequest{Key: []byte("ann/k")})
			return err
		}
		for range 5 {
			time.Sleep(50 * time.Second)
			wantErr(t, "a token in use", get(), nil)
		}
		time.Sleep(61 * time.Second)
		wantErr(t, "an idle token", get(), rpctypes.ErrInvalidAuthToken)
		ann = login(t, m, "ann", "apw")
		m.Restart()
		wantErr(t, "a token from before the restart", get(), rpctypes.ErrInvalidAuthToken)
		ann = login(t, m, "ann", "apw")
		wantErr(t, "a new token", get(), nil)
	})
}

// Leases: the leader revokes in its own name; followers forward; who may not write a key may not keep its lease alive,
// revoke it, or learn of the key.
func TestLeasesOfUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cheapPasswords())
		client := c.Follower().Client()
		mine, err := client.Grant(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		others, err := client.Grant(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		for key, id := range map[string]clientv3.LeaseID{"ann/k": mine.ID, "x": others.ID} {
			if _, err := client.Put(t.Context(), key, "", clientv3.WithLease(id)); err != nil {
				t.Fatal(err)
			}
		}
		enableUsers(t, c)
		follower := c.Follower()
		ann := login(t, follower, "ann", "apw")
		leases := pb.NewLeaseClient(follower.Client().ActiveConnection())
		renew := func(ctx context.Context, id clientv3.LeaseID) error {
			stream, err := leases.LeaseKeepAlive(ctx)
			if err != nil {
				return err
			}
			if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		}
		_, err = leases.LeaseRevoke(ann, &pb.LeaseRevokeRequest{ID: int64(others.ID)})
		wantErr(t, "revoking another's lease", err, rpctypes.ErrPermissionDenied)
		_, err = leases.LeaseTimeToLive(ann, &pb.LeaseTimeToLiveRequest{ID: int64(others.ID), Keys: true})
		wantErr(t, "another's keys", err, rpctypes.ErrPermissionDenied)
		_, err = leases.LeaseLeases(ann, &pb.LeaseLeasesRequest{})
		wantErr(t, "all leases", err, rpctypes.ErrPermissionDenied)
		wantErr(t, "keeping another's lease", renew(ann, others.ID), rpctypes.ErrPermissionDenied)
		_, err = plain(follower).Put(ann, &pb.PutRequest{Key: []byte("ann/k"), Lease: int64(others.ID)})
		wantErr(t, "attaching to another's lease", err, rpctypes.ErrPermissionDenied)
		for range 4 {
			time.Sleep(6 * time.Second)
			wantErr(t, "keeping one's own lease", renew(ann, mine.ID), nil)
		}
		root := login(t, follower, "root", "rpw")
		resp, err := plain(follower).Range(root, &pb.RangeRequest{Key: []byte("x")})
		if err != nil || len(resp.Kvs) != 0 {
			t.Fatalf("the key of a lease that has run out: %v, %v", resp, err)
		}
		ttl, err := leases.LeaseTimeToLive(ann, &pb.LeaseTimeToLiveRequest{ID: int64(mine.ID), Keys: true})
		if err != nil || ttl.TTL <= 0 || len(ttl.Keys) != 1 {
			t.Fatalf("one's own lease: %v, %v", ttl, err)
		}
	})
}

// A member that was away while users changed knows them when it has caught up.
func TestUsersOfAMemberThatWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cheapPasswords())
		enableUsers(t, c)
		away := c.Follower()
		stale := login(t, away, "ann", "apw")
		c.Partition(away)
		leader := c.Leader()
		root := login(t, leader, "root", "rpw")
		if _, err := leader.Client().UserDelete(root, "ann"); err != nil {
			t.Fatal(err)
		}
		if _, err := leader.Client().UserAdd(root, "bob", "bpw"); err != nil {
			t.Fatal(err)
		}
		c.Heal()
		c.Wait("the member to catch up", func() bool { return away.Server().Applied() >= leader.Server().Applied() })
		bob := login(t, away, "bob", "bpw")
		_, err := plain(away).Range(bob, &pb.RangeRequest{Key: []byte("x"), Serializable: true})
		wantErr(t, "a user without roles", err, rpctypes.ErrPermissionDenied)
		_, err = plain(away).Range(stale, &pb.RangeRequest{Key: []byte("ann/k"), Serializable: true})
		wantErr(t, "a user who is gone", err, rpctypes.ErrInvalidAuthToken)
	})
}
