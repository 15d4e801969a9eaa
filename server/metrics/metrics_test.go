package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/grpc/codes"

	"github.com/upkeep-kv/upkeep/tests/ports"
)

// used returns metrics of which every one has been used, each with a value of its own where that is possible.
func used() *Metrics {
	m := New(prometheus.NewRegistry(), true)
	m.Identify(Identity{MemberID: 0x8e9e05c52164694d, Version: "3.7.3", Gates: []Gate{{"LeaseCheckpoint", "ALPHA", true}}})
	yes := func() bool { return true }
	n := func(n int64) func() int64 { return func() int64 { return n } }
	m.Observe(Sources{
		HasLeader: yes, IsLeader: yes, IsLearner: func() bool { return false },
		Committed: func() uint64 { return 11 }, Applied: func() uint64 { return 10 },
		QuotaBytes: n(2 << 30), DBSize: n(20480), DBInUse: n(16384), DBPending: n(100), DBReadTxs: n(1),
		Keys: n(3), CurrentRevision: n(7), CompactRevision: n(-1), WatchStreams: n(4), Watchers: n(5), SlowWatchers: n(6), PendingEvents: n(8), Leases: n(9), AuthRevision: func() uint64 { return 3 },
	})
	useServer(m)
	usePeers(m)
	useStorage(m)
	return m
}

func useServer(m *Metrics) {
	m.LeaderChanged(0, 1)
	m.LeaderChanged(1, 0)
	m.HeartbeatSent(false)
	m.HeartbeatSent(true)
	m.ProposalsPending(3)
	m.ProposalFailed()
	m.SlowApply()
	m.ReadIndexSlow()
	m.ReadIndexFailed()
	m.SnapshotApplying(true)
	m.LearnerPromoted("")
	m.LearnerPromoted("not ready")
	m.HealthChecked(true)
	m.HealthChecked(false)
	m.CheckDone("readyz", "non_learner", true)
	m.CheckDone("readyz", "linearizable_read", false)
	m.SetClusterVersion("3.6")
	m.SetClusterVersion("3.7")
	m.AlarmChanged(Alarm{1, "NOSPACE"}, true)
	m.RequestDone("Put", true, 3*time.Millisecond)
	m.Applied("Put", false, 3*time.Millisecond)
	m.RangeDone(true, 3*time.Millisecond)
	m.DeclareMethod("unary", "etcdserverpb.KV", "Range")
	m.CallStarted("unary", "etcdserverpb.KV", "Put")
	m.MessageReceived("unary", "etcdserverpb.KV", "Put")
	m.MessageSent("unary", "etcdserverpb.KV", "Put")
	m.CallHandled("unary", "etcdserverpb.KV", "Put", codes.ResourceExhausted, time.Second)
	m.ClientRequest("unary", "3.7")
}

func usePeers(m *Metrics) {
	m.PeerKnown(2, true)
	m.PeerKnown(3, true)
	m.PeerActive(2, true)
	m.PeerActive(2, false)
	m.PeerKnown(3, false)
	m.PeerSent(2, 10)
	m.PeerSendFailed(2)
	m.PeerReceived(2, 20)
	m.PeerReceiveFailed(2)
	m.PeerRoundTrip(2, time.Millisecond)
	m.SnapshotSending(2)
	m.SnapshotSent(2, true, time.Second)
	m.SnapshotSending(2)
	m.SnapshotSent(2, false, time.Second)
	m.SnapshotReceiving(2)
	m.SnapshotReceived(2, true, time.Second)
	m.SnapshotReceiving(2)
	m.SnapshotReceived(2, false, time.Second)
	m.ClientReceivedBytes(1)
	m.ClientSentBytes(2)
	m.StreamFailed("send", "watch")
}

func useStorage(m *Metrics) {
	m.WALSynced(time.Millisecond)
	m.WALWritten(512)
	m.WALWriteTook(time.Millisecond)
	m.Committed(Commit{4 * time.Millisecond, 3 * time.Millisecond, 2 * time.Millisecond, time.Millisecond, 5, 4096})
	m.SnapshotStreamed(time.Second)
	m.RaftSnapshotSaved(2 * time.Millisecond)
	m.DBReceived(2 * time.Second)
	m.DBSynced(time.Millisecond)
	m.Ranged()
	m.Put(300)
	m.Deleted(2)
	m.Txn(1)
	m.Txn(2)
	m.Hashed(time.Second)
	m.HashedToRev(time.Second)
	m.IndexCompacted(time.Millisecond)
	m.CompactionPiece(1000, 2*time.Millisecond)
	m.Compacted(time.Second)
	m.WatchSent(10, 40*time.Millisecond)
	m.WatchControlSent(time.Millisecond)
	m.WatchProgressSent(time.Millisecond)
	m.LeaseGranted(10)
	m.LeaseRevoked()
	m.LeaseRenewed()
	m.LeaseExpired(3)
	m.EntryProposed(1)
	m.EntryProposed(8)
	m.DefragStarted()
	m.DefragProgress("copy", 50, 100)
	m.DefragDone(Defrag{SizeBefore: 1000, SizeAfter: 300, Took: time.Second, LongestPause: time.Millisecond})
	m.DefragStarted()
	m.DefragDone(Defrag{Err: errors.New("no space")})
}

// TestValues shows every metric after each was used once. Values of the process itself are left out.
func TestValues(t *testing.T) {
	datadriven.RunTest(t, "testdata/values", func(t *testing.T, d *datadriven.TestData) string {
		families, err := used().registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, f := range families {
			name := f.GetName()
			if !strings.HasPrefix(name, d.CmdArgs[0].String()) || strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
				continue
			}
			for _, metric := range f.GetMetric() {
				fmt.Fprintf(&b, "%s%s %s\n", name, labels(metric), value(name, metric))
			}
		}
		return b.String()
	})
}

func labels(m *dto.Metric) string {
	var pairs []string
	for _, l := range m.GetLabel() {
		if l.GetName() == "server_go_version" {
			l.Value = new("any")
		}
		pairs = append(pairs, l.GetName()+"="+l.GetValue())
	}
	if len(pairs) == 0 {
		return ""
	}
	return "{" + strings.Join(pairs, ",") + "}"
}

func value(name string, m *dto.Metric) string {
	switch {
	case strings.HasPrefix(name, "os_fd_") || name == "etcd_debugging_mvcc_db_compaction_last":
		if m.GetGauge().GetValue() <= 0 {
			return "not positive"
		}
		return "positive"
	case m.Gauge != nil:
		return fmt.Sprintf("%.10g", m.GetGauge().GetValue())
	case m.Counter != nil:
		return fmt.Sprintf("%.10g", m.GetCounter().GetValue())
	default:
		h := m.GetHistogram()
		return fmt.Sprintf("count %d sum %g", h.GetSampleCount(), h.GetSampleSum())
	}
}

// shape is what a dashboard relies on.
func shape(f *dto.MetricFamily) string {
	var names []string
	var bounds []float64
	for _, l := range f.GetMetric()[0].GetLabel() {
		names = append(names, l.GetName())
	}
	slices.Sort(names)
	for _, b := range f.GetMetric()[0].GetHistogram().GetBucket() {
		if b.GetUpperBound() < 1e300 {
			bounds = append(bounds, b.GetUpperBound())
		}
	}
	return fmt.Sprintf("%s labels %v buckets %v", f.GetType(), names, bounds)
}

// TestShapesAreEtcds compares type, labels and buckets with what a real etcd shows.
func TestShapesAreEtcds(t *testing.T) {
	theirs := scrapeEtcd(t)
	families, err := used().registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, f := range families {
		peer, ok := theirs[f.GetName()]
		if !ok || len(peer.GetMetric()) == 0 {
			continue
		}
		compared++
		if ours, theirs := shape(f), shape(peer); ours != theirs {
			t.Errorf("%s is\n  %s, in etcd\n  %s", f.GetName(), ours, theirs)
		}
		delete(theirs, f.GetName())
	}
	if compared < 70 {
		t.Errorf("only %d metrics could be compared", compared)
	}
	for name := range theirs {
		if !slices.ContainsFunc(meaningless, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			t.Errorf("etcd has %s, we do not", name)
		}
	}
}

// meaningless are metrics of etcd's for machinery that is not here.
var meaningless = []string{
	"etcd_grpc_proxy_", "etcd_debugging_store_", "etcd_debugging_snap_save_marshalling_",
	"promhttp_", // registered by Handler
}

func scrapeEtcd(t *testing.T) map[string]*dto.MetricFamily {
	bin, err := filepath.Abs("../../bin/peer")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(bin + "/etcd"); err != nil {
		t.Skip("bin/peer/etcd is not built; make peer builds it")
	}
	client, peer := "http://"+ports.Address(t), "http://"+ports.Address(t)
	ctx, cancel := context.WithCancel(t.Context())
	server := exec.CommandContext(ctx, bin+"/etcd", "--data-dir", t.TempDir(), "--metrics=extensive", "--log-level=error",
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = server.Wait() })
	ctl := exec.CommandContext(ctx, bin+"/etcdctl", "--endpoints", client, "--command-timeout", "30s", "--dial-timeout", "30s", "put", "k", "v")
	if out, err := ctl.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	get(t, client+"/readyz")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(get(t, client+"/metrics")))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func get(t *testing.T, url string) string {
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestHandler(t *testing.T) {
	m := New(prometheus.NewRegistry(), false)
	for range 2 {
		recorder := httptest.NewRecorder()
		m.Handler()
		m.Handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		if body := recorder.Body.String(); recorder.Code != http.StatusOK || !strings.Contains(body, "etcd_mvcc_put_total 0") || !strings.Contains(body, "go_goroutines") {
			t.Fatalf("code %d, body %s", recorder.Code, body)
		}
		if strings.Contains(recorder.Body.String(), "grpc_server_handling_seconds") {
			t.Error("basic metrics have gRPC histograms")
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	m := New(prometheus.NewRegistry(), false)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 100 {
				m.RequestDone(fmt.Sprint("kind", i%3), true, time.Millisecond)
				m.CallStarted("unary", "s", fmt.Sprint(i%4))
				m.PeerSent(uint64(i%2), 1)
			}
		})
	}
	wg.Wait()
	var total float64
	for i := range uint64(2) {
		var metric dto.Metric
		if err := m.peer(i).sentBytes.Write(&metric); err != nil {
			t.Fatal(err)
		}
		total += metric.GetCounter().GetValue()
	}
	if total != 800 {
		t.Errorf("counted %g of 800", total)
	}
}

func TestClientVersionsAreBounded(t *testing.T) {
	m := New(prometheus.NewRegistry(), false)
	for i := range 1000 {
		m.ClientRequest("unary", fmt.Sprint(i))
	}
	if n := len(*m.clients.current.Load()); n > 65 {
		t.Errorf("%d client versions are told apart", n)
	}
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	m := New(prometheus.NewRegistry(), true)
	call := func() {
		m.CallStarted("unary", "etcdserverpb.KV", "Put")
		m.MessageReceived("unary", "etcdserverpb.KV", "Put")
		m.MessageSent("unary", "etcdserverpb.KV", "Put")
		m.CallHandled("unary", "etcdserverpb.KV", "Put", codes.OK, time.Millisecond)
		m.ClientRequest("unary", "3.7")
		m.RequestDone("Put", true, time.Millisecond)
		m.Applied("Put", true, time.Millisecond)
		m.RangeDone(true, time.Millisecond)
		m.PeerSent(1, 100)
		m.Put(100)
	}
	call()
	if n := testing.AllocsPerRun(100, call); n != 0 {
		t.Errorf("a request's metrics allocate %g times", n)
	}
}

func BenchmarkCall(b *testing.B) {
	m := New(prometheus.NewRegistry(), false)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.CallStarted("unary", "etcdserverpb.KV", "Put")
			m.MessageReceived("unary", "etcdserverpb.KV", "Put")
			m.MessageSent("unary", "etcdserverpb.KV", "Put")
			m.CallHandled("unary", "etcdserverpb.KV", "Put", codes.OK, time.Millisecond)
			m.RequestDone("Put", true, time.Millisecond)
		}
	})
}
