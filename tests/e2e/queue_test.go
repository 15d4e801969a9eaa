package e2e

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/upkeep-kv/upkeep/proto/v3electionpb"
	"github.com/upkeep-kv/upkeep/proto/v3lockpb"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestOneQueueForAll: callers of the Lock service and users of etcd's client library queue up for the same lock, in the
// order in which they come, as do candidates of both kinds in one election.
func TestOneQueueForAll(t *testing.T) {
	t.Parallel()
	m := proc.Start(t, proc.Build(t, "upkeep"), 1).Members[0]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{m.ClientURL}, Context: ctx})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := grpc.NewClient(m.ClientURL[len("http://"):], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lock, election := v3lockpb.NewLockClient(conn), v3electionpb.NewElectionClient(conn)

	ways := []func(session *concurrency.Session, during func()) error{
		func(s *concurrency.Session, during func()) error {
			got, err := lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("q"), Lease: int64(s.Lease())})
			if err != nil {
				return err
			}
			during()
			_, err = lock.Unlock(ctx, &v3lockpb.UnlockRequest{Key: got.Key})
			return err
		},
		func(s *concurrency.Session, during func()) error {
			mutex := concurrency.NewMutex(s, "q")
			if err := mutex.Lock(ctx); err != nil {
				return err
			}
			during()
			return mutex.Unlock(ctx)
		},
		func(s *concurrency.Session, during func()) error {
			got, err := election.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("q"), Lease: int64(s.Lease())})
			if err != nil {
				return err
			}
			during()
			_, err = election.Resign(ctx, &v3electionpb.ResignRequest{Leader: got.Leader})
			return err
		},
		func(s *concurrency.Session, during func()) error {
			e := concurrency.NewElection(s, "q")
			if err := e.Campaign(ctx, "v"); err != nil {
				return err
			}
			during()
			return e.Resign(ctx)
		},
	}
	queueUp(t, client, 20, func(i int, s *concurrency.Session, during func()) error {
		return ways[i%len(ways)](s, during)
	})
}

// queueUp lets callers begin one after the other, and checks that they have their turns one after the other too.
func queueUp(t *testing.T, client *clientv3.Client, callers int, run func(int, *concurrency.Session, func()) error) {
	var mu sync.Mutex
	var order []int
	inside := 0
	var wait sync.WaitGroup
	all := make(chan struct{}) // closed once everybody is in the queue
	for i := range callers {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(120))
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		wait.Go(func() {
			err := run(i, session, func() {
				<-all
				mu.Lock()
				order = append(order, i)
				if inside++; inside != 1 {
					t.Errorf("%d hold it at a time", inside)
				}
				mu.Unlock()
				time.Sleep(time.Millisecond) // for another one to come in, if it could
				mu.Lock()
				inside--
				mu.Unlock()
			})
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
		})
		for { // until its key is there
			resp, err := client.Get(client.Ctx(), "q/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			if err != nil {
				t.Fatal(err)
			}
			if resp.Count == int64(i+1) {
				break
			}
		}
	}
	close(all)
	wait.Wait()
	if len(order) != callers || !slices.IsSorted(order) {
		t.Errorf("turns were taken in the order %v", order)
	}
}
