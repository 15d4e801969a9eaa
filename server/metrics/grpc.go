package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

type grpcMetrics struct {
	started, handled, msgReceived, msgSent *prometheus.CounterVec
	seconds                                *prometheus.HistogramVec // nil unless extensive
	clientRequests                         *prometheus.CounterVec

	methods cache[method, *methodMetrics]
	results cache[result, prometheus.Counter]
	clients cache[client, prometheus.Counter]
}

type method struct{ kind, service, name string }

type result struct {
	method
	code codes.Code
}

type client struct{ kind, version string }

// methodMetrics are those of one method, looked up once for each event of a call.
type methodMetrics struct {
	started, received, sent prometheus.Counter
	seconds                 prometheus.Observer // nil unless extensive
}

func (g *grpcMetrics) register(r registrar, extensive bool) {
	g.started = r.counters("grpc_server_started_total", "Calls that began.", "grpc_type", "grpc_service", "grpc_method")
	g.handled = r.counters("grpc_server_handled_total", "Calls that ended, by code.", "grpc_type", "grpc_service", "grpc_method", "grpc_code")
	g.msgReceived = r.counters("grpc_server_msg_received_total", "Messages received.", "grpc_type", "grpc_service", "grpc_method")
	g.msgSent = r.counters("grpc_server_msg_sent_total", "Messages sent.", "grpc_type", "grpc_service", "grpc_method")
	if extensive {
		g.seconds = r.histograms("grpc_server_handling_seconds", "How long calls take.", prometheus.DefBuckets, "grpc_type", "grpc_service", "grpc_method")
	}
	g.clientRequests = r.counters("etcd_server_client_requests_total", "Calls by the version of the client.", "type", "client_api_version")
}

// DeclareMethod makes the metrics of a method appear, as zero, before its first call.
// kind is "unary", "client_stream", "server_stream" or "bidi_stream".
func (g *grpcMetrics) DeclareMethod(kind, service, name string) {
	g.method(kind, service, name)
	g.result(method{kind, service, name}, codes.OK)
}

func (g *grpcMetrics) method(kind, service, name string) *methodMetrics {
	return g.methods.get(method{kind, service, name}, func(m method) *methodMetrics {
		of := &methodMetrics{
			started:  g.started.WithLabelValues(m.kind, m.service, m.name),
			received: g.msgReceived.WithLabelValues(m.kind, m.service, m.name),
			sent:     g.msgSent.WithLabelValues(m.kind, m.service, m.name),
		}
		if g.seconds != nil {
			of.seconds = g.seconds.WithLabelValues(m.kind, m.service, m.name)
		}
		return of
	})
}

func (g *grpcMetrics) result(m method, code codes.Code) prometheus.Counter {
	return g.results.get(result{m, code}, func(r result) prometheus.Counter {
		return g.handled.WithLabelValues(r.kind, r.service, r.name, r.code.String())
	})
}

// CallStarted and CallHandled frame a call; took counts only with --metrics=extensive.
func (g *grpcMetrics) CallStarted(kind, service, name string) {
	g.method(kind, service, name).started.Inc()
}

func (g *grpcMetrics) CallHandled(kind, service, name string, code codes.Code, took time.Duration) {
	g.result(method{kind, service, name}, code).Inc()
	if seconds := g.method(kind, service, name).seconds; seconds != nil {
		seconds.Observe(took.Seconds())
	}
}

func (g *grpcMetrics) MessageReceived(kind, service, name string) {
	g.method(kind, service, name).received.Inc()
}

func (g *grpcMetrics) MessageSent(kind, service, name string) {
	g.method(kind, service, name).sent.Inc()
}

// ClientRequest counts calls by the version that the client says it speaks. Anyone can say anything, so only so many
// different versions are told apart.
func (g *grpcMetrics) ClientRequest(kind, version string) {
	const distinct = 64
	if m := g.clients.current.Load(); m != nil && len(*m) >= distinct {
		if _, known := (*m)[client{kind, version}]; !known {
			version = "other"
		}
	}
	g.clients.get(client{kind, version}, func(c client) prometheus.Counter {
		return g.clientRequests.WithLabelValues(c.kind, c.version)
	}).Inc()
}
