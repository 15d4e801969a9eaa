package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestMetrics: after the same work on three members, the two programs show metrics of the same names, types, labels and
// buckets, but for what docs/metrics.md says.
func TestMetrics(t *testing.T) {
	var seen [2]map[string]string
	var fed [2]map[string]bool
	programs := []string{proc.Build(t, "upkeep"), proc.Peer(t, "etcd")}
	t.Run("work", func(t *testing.T) {
		for i, program := range programs {
			t.Run(filepath.Base(program), func(t *testing.T) {
				t.Parallel()
				seen[i], fed[i] = work(t, program)
			})
		}
	})
	if seen[0] == nil || seen[1] == nil {
		t.Fatal("no metrics to compare")
	}
	for name := range chancy {
		for i := range seen {
			if seen[1-i][name] == "" {
				delete(seen[i], name)
			}
		}
	}
	got := map[string]string{}
	for name := range seen[0] {
		ours, theirs := seen[0][name], seen[1][name]
		if ours != theirs && !strings.HasPrefix(name, "upkeep_") {
			got[name] = or(theirs, "-") + " | " + ours
		}
	}
	for name, theirs := range seen[1] {
		if seen[0][name] == "" {
			got[name] = theirs + " | -"
		}
	}
	want := documented(t)
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if want[name] == "" {
			t.Errorf("| `%s` | %s | not in the table of docs/metrics.md", name, got[name])
		} else if want[name] != got[name] {
			t.Errorf("%s: found %s, docs/metrics.md says %s", name, got[name], want[name])
		}
	}
	for name := range want {
		if got[name] == "" {
			t.Errorf("%s stands in docs/metrics.md, but there is no difference (Upkeep: %q, etcd: %q)", name, seen[0][name], seen[1][name])
		}
	}
	for name := range fed[1] {
		if !fed[0][name] && seen[0][name] != "" && !chancy[name] {
			t.Errorf("%s has counted something in etcd, and nothing in Upkeep", name)
		}
	}
	if len(seen[1]) < 120 {
		t.Errorf("etcd showed only %d metrics", len(seen[1]))
	}
}

// chancy are metrics that show up only when a connection breaks in a certain way: compared when both have them.
var chancy = map[string]bool{
	"etcd_network_peer_received_failures_total": true, "etcd_network_peer_sent_failures_total": true,
	"etcd_network_disconnected_peers_total": true, "etcd_server_client_requests_total": true,
	// What is slow is slow by chance.
	"etcd_server_slow_apply_total": true, "etcd_server_slow_read_indexes_total": true, "etcd_server_heartbeat_send_failures_total": true,
	"etcd_server_proposals_failed_total": true, "etcd_server_read_indexes_failed_total": true, "etcd_debugging_mvcc_slow_watcher_total": true,
	"etcd_network_snapshot_send_failures": true, "etcd_network_snapshot_receive_failures": true, "etcd_network_server_stream_failures_total": true,
}

func or(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

var row = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([^|]*) \\| ([^|]*) \\| ([^|]+) \\|$")

// documented reads the table of differences.
func documented(t *testing.T) map[string]string {
	text, err := os.ReadFile(filepath.Join(proc.Root(t), "docs", "metrics.md"))
	check(t, err)
	rows := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		rows[m[1]] = m[2] + " | " + m[3]
	}
	return rows
}

// shape is what dashboards and alerts rely on.
func shape(f *dto.MetricFamily) string {
	labels := map[string]bool{}
	var buckets []string
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = true
		}
		if buckets == nil {
			for _, b := range m.GetHistogram().GetBucket() {
				if !math.IsInf(b.GetUpperBound(), 1) {
					buckets = append(buckets, fmt.Sprintf("%g", b.GetUpperBound()))
				}
			}
		}
	}
	text := strings.ToLower(f.GetType().String())
	if len(labels) > 0 {
		text += " {" + strings.Join(slices.Sorted(maps.Keys(labels)), ",") + "}"
	}
	if len(buckets) > 0 {
		text += fmt.Sprintf(" %s to %s in %d", buckets[0], buckets[len(buckets)-1], len(buckets))
	}
	return text
}

// scrape adds the shapes of a member's metrics to into, and to fed those of counters and histograms that are not zero.
func scrape(t *testing.T, m *proc.Member, into map[string]string, fed map[string]bool) {
	resp, err := http.Get(m.ClientURL + "/metrics")
	check(t, err)
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	check(t, err)
	for name, f := range families {
		if s := shape(f); len(s) > len(into[name]) { // a family may have no histogram yet on one member
			into[name] = s
		}
		for _, m := range f.GetMetric() {
			if m.GetCounter().GetValue() > 0 || m.GetHistogram().GetSampleCount() > 0 {
				fed[name] = true
			}
		}
	}
}

var flags = []string{
	"--metrics=extensive", "--snapshot-count=20", "--snapshot-catchup-entries=5", "--strict-reconfig-check=false",
	"--watch-progress-notify-interval=200ms",
}

// work uses everything that has a metric and returns the shapes of all of them.
func work(t *testing.T, program string) (map[string]string, map[string]bool) {
	cluster := proc.Start(t, program, 3, flags...)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	client := cluster.Client()
	keys(t, ctx, client)
	leases(t, ctx, client)
	maintenance(t, ctx, client, cluster.Members)
	users(t, ctx, client, cluster.Members)
	learner(t, ctx, client)
	seen, fed := map[string]string{}, map[string]bool{}
	for _, m := range cluster.Members { // one of them is lost next
		scrape(t, m, seen, fed)
	}
	lag(t, ctx, program, cluster)
	for _, m := range cluster.Members {
		for _, path := range []string{"/health", "/livez", "/readyz", "/metrics"} {
			resp, err := http.Get(m.ClientURL + path)
			check(t, err)
			resp.Body.Close()
		}
	}
	for {
		for _, m := range cluster.Members {
			scrape(t, m, seen, fed)
		}
		// Peers measure the round trip every few seconds.
		if seen["etcd_network_peer_round_trip_time_seconds"] != "" || ctx.Err() != nil {
			return seen, fed
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func keys(t *testing.T, ctx context.Context, client *clientv3.Client) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	events := client.Watch(clientv3.WithRequireLeader(watching), "k", clientv3.WithPrefix(), clientv3.WithProgressNotify())
	for i := range 20 {
		_, err := client.Put(ctx, fmt.Sprintf("k%d", i), strings.Repeat("v", 100))
		check(t, err)
	}
	for n := 0; n < 20; {
		resp, ok := <-events
		if !ok || resp.Err() != nil {
			t.Fatal("the watch has ended: ", resp.Err())
		}
		n += len(resp.Events)
	}
	for resp := range events { // until a notification of progress
		if resp.IsProgressNotify() {
			break
		}
	}
	_, err := client.Get(ctx, "k", clientv3.WithPrefix())
	check(t, err)
	_, err = client.Get(ctx, "k", clientv3.WithSerializable())
	check(t, err)
	_, err = client.Delete(ctx, "k1")
	check(t, err)
	_, err = client.Txn(ctx).Then(clientv3.OpPut("a", "1"), clientv3.OpPut("b", "2"), clientv3.OpGet("a"), clientv3.OpDelete("c")).Commit()
	check(t, err)
	_, err = client.Txn(ctx).Then(clientv3.OpGet("a"), clientv3.OpGet("b")).Commit()
	check(t, err)
	if _, err = client.Put(ctx, "", "v"); !errors.Is(err, rpctypes.ErrEmptyKey) {
		t.Errorf("a put without key: %v", err)
	}
}

func leases(t *testing.T, ctx context.Context, client *clientv3.Client) {
	lease, err := client.Grant(ctx, 100)
	check(t, err)
	_, err = client.KeepAliveOnce(ctx, lease.ID)
	check(t, err)
	_, err = client.TimeToLive(ctx, lease.ID)
	check(t, err)
	_, err = client.Revoke(ctx, lease.ID)
	check(t, err)
	short, err := client.Grant(ctx, 1)
	check(t, err)
	_, err = client.Put(ctx, "short", "v", clientv3.WithLease(short.ID))
	check(t, err)
	for resp := range client.Watch(ctx, "short", clientv3.WithRev(1)) {
		if slices.ContainsFunc(resp.Events, func(e *clientv3.Event) bool { return e.Type == clientv3.EventTypeDelete }) {
			return
		}
	}
	t.Fatal("the lease has not expired")
}

func maintenance(t *testing.T, ctx context.Context, client *clientv3.Client, members []*proc.Member) {
	resp, err := client.Get(ctx, "a")
	check(t, err)
	_, err = client.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical())
	check(t, err)
	for _, m := range members {
		_, err := client.Defragment(ctx, m.ClientURL)
		check(t, err)
		_, err = client.HashKV(ctx, m.ClientURL, 0)
		check(t, err)
		_, err = client.Status(ctx, m.ClientURL)
		check(t, err)
	}
	_, err = clientv3.NewMaintenance(members[0].Client()).AlarmList(ctx)
	check(t, err)
	snapshot, err := client.Snapshot(ctx)
	check(t, err)
	_, err = io.Copy(io.Discard, snapshot)
	check(t, errors.Join(err, snapshot.Close()))
}

func users(t *testing.T, ctx context.Context, client *clientv3.Client, members []*proc.Member) {
	_, err := client.RoleAdd(ctx, "root")
	check(t, err)
	_, err = client.UserAdd(ctx, "root", "secret")
	check(t, err)
	_, err = client.UserGrantRole(ctx, "root", "root")
	check(t, err)
	_, err = client.AuthEnable(ctx)
	check(t, err)
	resp, err := client.Authenticate(ctx, "root", "secret")
	check(t, err)
	config := clientv3.Config{Endpoints: client.Endpoints(), Username: "root", Password: "secret", DialTimeout: time.Minute}
	if resp.Token == "" {
		t.Error("no token")
	}
	root, err := clientv3.New(config)
	check(t, err)
	defer root.Close()
	_, err = root.AuthDisable(ctx)
	check(t, err)
	for _, m := range members { // each learns it in its own time
		client := m.Client()
		for err == nil || errors.Is(err, rpctypes.ErrUserEmpty) {
			if _, err = client.Get(ctx, "a"); err == nil {
				break
			}
		}
		check(t, err)
	}
}

// learner adds one that never starts, so that its promotion fails, and removes it.
func learner(t *testing.T, ctx context.Context, client *clientv3.Client) {
	resp, err := client.MemberAddAsLearner(ctx, []string{"http://" + ports.Address(t)})
	check(t, err)
	if _, err := client.MemberPromote(ctx, resp.Member.ID); err == nil {
		t.Error("a learner was promoted that has never started")
	}
	_, err = client.MemberRemove(ctx, resp.Member.ID)
	check(t, err)
}

// lag puts a new member in the place of a follower, when the log does not reach back to its beginning any more: it needs
// the leader's whole state.
func lag(t *testing.T, ctx context.Context, program string, cluster *proc.Cluster) {
	at := slices.IndexFunc(cluster.Members, func(m *proc.Member) bool {
		status, err := m.Client().Status(ctx, m.ClientURL)
		check(t, err)
		return status.Leader != status.Header.MemberId
	})
	others := slices.Delete(slices.Clone(cluster.Members), at, at+1)
	client := others[0].Client()
	for range 20 {
		var wait sync.WaitGroup
		for i := range 30 {
			wait.Go(func() {
				if _, err := client.Put(ctx, fmt.Sprintf("lag%d", i), "v"); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
	}
	list, err := client.MemberList(ctx)
	check(t, err)
	peer, initial := "http://"+ports.Address(t), ""
	for _, m := range list.Members {
		if m.Name == cluster.Members[at].Name {
			cluster.Members[at].Kill()
			_, err := client.MemberRemove(ctx, m.ID)
			check(t, err)
			continue
		}
		initial += m.Name + "=" + m.PeerURLs[0] + ","
	}
	_, err = client.MemberAdd(ctx, []string{peer})
	check(t, err)
	flags := append([]string{"--initial-cluster-state", "existing", "--initial-cluster", initial + "new=" + peer}, flags...)
	cluster.Members[at] = proc.Prepare(t, program, "new", t.TempDir()+"/new", peer, flags...)
	cluster.Members[at].Restart()
}
