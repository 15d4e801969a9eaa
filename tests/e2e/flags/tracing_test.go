package flags

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// otlp is a collector that hands on what it gets.
type otlp struct {
	collector.UnimplementedTraceServiceServer
	got chan *spans.ResourceSpans
}

func (o *otlp) Export(ctx context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	for _, s := range r.ResourceSpans {
		select {
		case o.got <- s:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func collect(t *testing.T) (*otlp, string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	o := &otlp{got: make(chan *spans.ResourceSpans, 100)}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, o)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return o, listener.Addr().String()
}

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
)

// traced marks what is done with ctx as part of a trace that somebody has decided to take, or not to take.
func traced(ctx context.Context, sampled bool) context.Context {
	flag := map[bool]string{true: "01", false: "00"}[sampled]
	return metadata.AppendToOutgoingContext(ctx, "traceparent", fmt.Sprintf("00-%s-%s-%s", traceID, spanID, flag))
}

// TestTracing: a call of a client that traces becomes a span of its trace, under the names that the flags give; one that
// its client does not want traced, or that nobody has decided about, does not; and all of it as with etcd.
func TestTracing(t *testing.T) {
	t.Parallel()
	for name, program := range map[string]string{"upkeep": proc.Build(t, "upkeep"), "etcd": proc.Peer(t, "etcd")} {
		t.Run(name, func(t *testing.T) {
			o, address := collect(t)
			m := proc.Start(t, program, 1, "--enable-distributed-tracing", "--distributed-tracing-address", address,
				"--distributed-tracing-service-name", "shop", "--distributed-tracing-instance-id", "m0").Members[0]
			client := m.Client()
			put(t, client, "undecided", "")
			_, err := client.Get(traced(deadline(t), false), "unwanted")
			check(t, err)
			_, err = client.Txn(traced(deadline(t), true)).Then(clientv3.OpPut("k", "v")).Commit()
			check(t, err)
			m.Stop() // sends what is left
			all := map[string]*spans.Span{}
			for len(o.got) > 0 {
				r := <-o.got
				who := map[string]string{}
				for _, a := range r.Resource.Attributes {
					who[a.Key] = a.Value.GetStringValue()
				}
				if who["service.name"] != "shop" || who["service.instance.id"] != "m0" {
					t.Errorf("spans of %v", who)
				}
				for _, scope := range r.ScopeSpans {
					for _, s := range scope.Spans {
						all[s.Name] = s
						if hex.EncodeToString(s.TraceId) != traceID {
							t.Errorf("span %s of trace %x", s.Name, s.TraceId)
						}
					}
				}
			}
			txn := all["etcdserverpb.KV/Txn"]
			if txn == nil || hex.EncodeToString(txn.ParentSpanId) != spanID || txn.Kind != spans.Span_SPAN_KIND_SERVER {
				t.Errorf("the span of the transaction: %v, of %v", txn, all)
			}
			if all["etcdserverpb.KV/Put"] != nil || all["etcdserverpb.KV/Range"] != nil {
				t.Errorf("spans that nobody has asked for: %v", all)
			}
		})
	}
}

// TestTracingRate: at a million of a million every call is traced; and a collector that is not there delays nobody.
func TestTracingRate(t *testing.T) {
	t.Parallel()
	upkeep := proc.Build(t, "upkeep")
	o, address := collect(t)
	m := proc.Start(t, upkeep, 1, "--enable-distributed-tracing", "--distributed-tracing-address", address,
		"--distributed-tracing-sampling-rate", "1000000").Members[0]
	put(t, m.Client(), "k", "v")
	m.Stop()
	found := false
	for len(o.got) > 0 {
		for _, scope := range (<-o.got).ScopeSpans {
			for _, s := range scope.Spans {
				found = found || s.Name == "etcdserverpb.KV/Put"
			}
		}
	}
	if !found {
		t.Error("a put was not traced")
	}
	alone := proc.Start(t, upkeep, 1, "--enable-distributed-tracing", "--distributed-tracing-address", "127.0.0.1:1",
		"--distributed-tracing-sampling-rate", "1000000").Members[0]
	put(t, alone.Client(), "k", "v")
	alone.Stop()
}

// TestDebugRequests: --log-level=debug shows the latest calls, --enable-pprof alone does not.
func TestDebugRequests(t *testing.T) {
	t.Parallel()
	for program, path := range map[string]string{"upkeep": proc.Build(t, "upkeep"), "etcd": proc.Peer(t, "etcd")} {
		for _, c := range []struct {
			flag            string
			requests, pprof bool
		}{{"--log-level=debug", true, true}, {"--enable-pprof", false, true}, {"--log-level=info", false, false}} {
			m := proc.Start(t, path, 1, c.flag).Members[0]
			put(t, m.Client(), "k", "v")
			for page, want := range map[string]bool{
				"/debug/requests": c.requests, "/debug/events": c.requests, "/debug/pprof/": c.pprof, "/debug/pprof/heap": c.pprof, "/debug/vars": true,
			} {
				resp, err := http.Get(m.ClientURL + page)
				check(t, err)
				check(t, resp.Body.Close())
				if (resp.StatusCode == http.StatusOK) != want {
					t.Errorf("%s %s: %s is served: %s, want %v", program, c.flag, page, resp.Status, want)
				}
			}
			m.Kill()
		}
	}
}
