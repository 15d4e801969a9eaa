package cluster_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/proto/v3electionpb"
	"github.com/upkeep-kv/upkeep/proto/v3lockpb"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

func locks(m *cluster.Member) v3lockpb.LockClient {
	return v3lockpb.NewLockClient(m.Client().ActiveConnection())
}

func elections(m *cluster.Member) v3electionpb.ElectionClient {
	return v3electionpb.NewElectionClient(m.Client().ActiveConnection())
}

func grant(t *testing.T, c *clientv3.Client, ttl int64) int64 {
	t.Helper()
	resp, err := c.Grant(t.Context(), ttl)
	if err != nil {
		t.Fatal(err)
	}
	return int64(resp.ID)
}

func count(t *testing.T, c *clientv3.Client, prefix string) int {
	t.Helper()
	resp, err := c.Get(t.Context(), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	return len(resp.Kvs)
}

func wantText(t *testing.T, what string, err error, want string) {
	t.Helper()
	if got := status.Convert(err).Message(); got != want {
		t.Fatalf("%s: %q, want %q", what, got, want)
	}
}

// Fifty callers, at all members by turns, want the same lock. Each gets it once, in the order in which they came, and
// never two at a time. (That users of etcd's client library queue up with them is a test of tests/e2e: that library's
// watches cannot run in virtual time.)
func TestLockIsHeldInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		const callers = 50
		holders, order, errs := 0, make(chan int, callers), make(chan error, callers)
		hold := func(i int) {
			if holders++; holders != 1 { // a data race under -race, were it not for the lock
				errs <- fmt.Errorf("%d holders", holders)
			}
			order <- i
			time.Sleep(time.Second)
			holders--
		}
		leases := make([]int64, callers)
		for i := range leases {
			leases[i] = grant(t, c.Client(), 600)
		}
		for i, lease := range leases {
			m := c.Member(i % 3)
			go func() {
				got, err := locks(m).Lock(t.Context(), &v3lockpb.LockRequest{Name: []byte("l"), Lease: lease})
				if err == nil {
					hold(i)
					_, err = locks(m).Unlock(t.Context(), &v3lockpb.UnlockRequest{Key: got.Key})
				}
				errs <- err
			}()
			time.Sleep(10 * time.Millisecond) // so that it has its place before the next one comes
		}
		for i := range callers {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
			if got := <-order; got != i {
				t.Fatalf("caller %d had the lock when it was the turn of %d", got, i)
			}
		}
	})
}

// The lock goes on when its holder's lease ends, and past a waiter who went away or whose lease ended.
func TestLockOfThoseWhoAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		lock := func(ctx context.Context, lease int64) chan error {
			done := make(chan error, 1)
			go func() {
				_, err := locks(c.Member(1)).Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: lease})
				done <- err
			}()
			synctest.Wait()
			time.Sleep(10 * time.Millisecond)
			return done
		}
		if err := <-lock(t.Context(), 0); err != nil { // on a lease of 60 s
			t.Fatal(err)
		}
		start := time.Now()
		gone, leave := context.WithCancel(t.Context())
		left := lock(gone, grant(t, c.Client(), 600))
		expired := lock(t.Context(), grant(t, c.Client(), 10))
		next := lock(t.Context(), grant(t, c.Client(), 600))
		if n := count(t, c.Client(), "l/"); n != 4 {
			t.Fatalf("%d keys in the queue", n)
		}
		leave()
		wantText(t, "a caller that went away", <-left, "context canceled")
		time.Sleep(time.Second)
		if n := count(t, c.Client(), "l/"); n != 3 {
			t.Fatalf("%d keys in the queue after one caller went away", n)
		}
		wantText(t, "a lease that ended", <-expired, "mutex: session is expired")
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("told only after %v", took)
		}
		if err := <-next; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 55*time.Second || took > 75*time.Second {
			t.Errorf("the lease of 60 s held the lock for %v", took)
		}
		_, err := locks(c.Member(0)).Lock(t.Context(), &v3lockpb.LockRequest{Name: []byte("l"), Lease: 12345})
		wantText(t, "an unknown lease", err, "etcdserver: requested lease not found")
	})
}

// An election from the first campaign to the second leader, as callers and an observer see it.
func TestElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen := make(chan string, 100)
		stream, err := elections(c.Member(0)).Observe(ctx, &v3electionpb.LeaderRequest{Name: []byte("e")})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				resp, err := stream.Recv()
				if err != nil {
					close(seen)
					return
				}
				seen <- string(resp.Kv.Value)
			}
		}()
		e := elections(c.Member(1))
		_, err = e.Leader(ctx, &v3electionpb.LeaderRequest{Name: []byte("e")})
		wantText(t, "leader of none", err, "election: no leader")

		first, err := e.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: grant(t, c.Client(), 600), Value: []byte("a")})
		if err != nil {
			t.Fatal(err)
		}
		again, err := e.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: first.Leader.Lease, Value: []byte("b")})
		if err != nil || again.Leader.Rev != first.Leader.Rev {
			t.Fatalf("campaign of the leader: %v, %v", again, err)
		}
		second := make(chan error, 1)
		lease := grant(t, c.Client(), 600)
		go func() {
			_, err := elections(c.Member(2)).Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: lease, Value: []byte("c")})
			second <- err
		}()
		synctest.Wait()
		time.Sleep(time.Second)
		// Whose lease ends while it waits does not lead when its turn comes.
		third := make(chan error, 1)
		go func() {
			_, err := e.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: grant(t, c.Client(), 10), Value: []byte("d")})
			third <- err
		}()
		wantText(t, "a lease that ended", <-third, "election: not leader")
		if _, err := e.Proclaim(ctx, &v3electionpb.ProclaimRequest{Leader: first.Leader, Value: []byte("e")}); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Resign(ctx, &v3electionpb.ResignRequest{Leader: first.Leader}); err != nil {
			t.Fatal(err)
		}
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		_, err = e.Proclaim(ctx, &v3electionpb.ProclaimRequest{Leader: first.Leader, Value: []byte("f")})
		wantText(t, "proclaim after resigning", err, "election: not leader")
		leader, err := e.Leader(ctx, &v3electionpb.LeaderRequest{Name: []byte("e")})
		if err != nil || leader.Kv.Lease != lease {
			t.Fatalf("leader %v, %v, want that of lease %x", leader, err, lease)
		}
		time.Sleep(time.Second)
		for _, want := range []string{"a", "b", "e", "c"} {
			if got := <-seen; got != want {
				t.Errorf("observed %q, want %q", got, want)
			}
		}
	})
}

// Users queue up where they may read and write, and nowhere else.
func TestQueuesOfUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cheapPasswords())
		enableUsers(t, c)
		m := c.Member(0)
		ann := login(t, m, "ann", "apw")
		got, err := locks(m).Lock(ann, &v3lockpb.LockRequest{Name: []byte("ann/l")})
		if err != nil {
			t.Fatal(err)
		}
		ctx, leave := context.WithCancel(ann)
		waiting := make(chan error, 1)
		go func() {
			_, err := locks(m).Lock(ctx, &v3lockpb.LockRequest{Name: []byte("ann/l")})
			waiting <- err
		}()
		time.Sleep(time.Second)
		leave()
		<-waiting
		time.Sleep(time.Second)
		queued, err := plain(m).Range(ann, &pb.RangeRequest{Key: []byte("ann/l/"), RangeEnd: []byte("ann/l0")})
		if err != nil || queued.Count != 1 {
			t.Errorf("in the queue after the waiting user went away: %v, %v", queued, err)
		}
		if _, err := locks(m).Unlock(ann, &v3lockpb.UnlockRequest{Key: got.Key}); err != nil {
			t.Error(err)
		}
		_, err = locks(m).Lock(ann, &v3lockpb.LockRequest{Name: []byte("bob/l")})
		wantText(t, "a lock of others", err, "etcdserver: permission denied")
		_, err = locks(m).Unlock(ann, &v3lockpb.UnlockRequest{Key: []byte("bob/l/1")})
		wantText(t, "unlocking for others", err, "etcdserver: permission denied")
		_, err = elections(m).Campaign(ann, &v3electionpb.CampaignRequest{Name: []byte("bob/l")})
		wantText(t, "an election of others", err, "etcdserver: permission denied")
		_, err = locks(m).Lock(t.Context(), &v3lockpb.LockRequest{Name: []byte("ann/l")})
		wantText(t, "nobody", err, "etcdserver: user name is empty")
		stream, err := elections(m).Observe(ann, &v3electionpb.LeaderRequest{Name: []byte("bob/l")})
		if err == nil {
			_, err = stream.Recv()
		}
		wantText(t, "observing others", err, "election: observe closed early")
	})
}
